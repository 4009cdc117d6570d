"""A segment that is being filled, in a slot of the stage. Memory only: nothing here waits or touches a backend.

  O1  written <= tail: bytes before `written` (a multiple of 4096) are on every copy and never change again.
  O2  Room for the SEAL frame, its table and the trailer is kept free at all times: sealing cannot fail.
  O3  synced_sequence <= last_sequence: everything up to synced_sequence *of this segment* is durable on every copy.

    READY --open--> OPEN --seal--> SEALED --everything durable--> COMPLETE
"""

from typing import Final

import trio
from xxhash import xxh3_64_intdigest

from sds.core.address import SEGMENT_SHIFT
from sds.core.frame import BLOCKS, CHECKSUM, HEADER, HEADER_SIZE, MAGIC, PAD, RAW, SEAL, Buffer, block_table
from sds.core.names import segment_name
from sds.core.segment import (
    HEAD_SIZE,
    TRAILER_SIZE,
    SegmentHead,
    SegmentTrailer,
    encode_head,
    encode_trailer,
)

PAGE: Final = 4096
DRAIN_STEP: Final = 1 << 20
"""Staged bytes that are worth a write to the backends; less in a small segment."""
FULL_PART: Final = 128
"""A segment that is full but for this part of it is filled up: cheaper than to cut its files."""


class OpenSegment:
    __slots__ = (
        "base", "blocks", "complete", "copies", "data_limit", "dataset", "drain_step", "epoch", "id", "key",
        "last_sequence", "limit", "name", "next_wake", "offsets", "sealed", "slot", "synced_sequence", "tail", "view",
        "wake", "written",
    )  # fmt: skip

    def __init__(
        self, *, id: int, dataset: int, epoch: int, key: int, slot: int, view: memoryview,
        copies: tuple[int, ...], reserved: bool,
    ) -> None:  # fmt: skip
        self.id = id
        self.dataset = dataset
        self.epoch = epoch
        self.name = segment_name(dataset, id, epoch)
        self.key = key
        self.slot = slot
        self.view = view
        self.copies = copies
        self.base = id << SEGMENT_SHIFT
        self.tail = HEAD_SIZE
        self.written = 0
        self.offsets: list[int] = []
        self.blocks = 0
        # O2: one page for a PAD frame, one to round up the end; SEAL header, PAD's entry in the table, alignment,
        # trailer: 4 x 64. `has_room` takes off 64 bytes for the entry of each frame.
        self.limit = len(view) - 2 * PAGE - 4 * HEADER_SIZE
        # Room that was taken from the reserve of a full pool is for metadata only: deleting must go on.
        self.data_limit = 0 if reserved else self.limit
        self.sealed = False
        self.complete = False
        self.last_sequence = 0
        self.synced_sequence = 0
        self.drain_step = min(DRAIN_STEP, len(view) // 8)
        self.next_wake = self.drain_step
        self.wake = trio.Event()

    def begin(self, pool: bytes, previous: int, first_sequence: int) -> None:
        """READY -> OPEN: write the head."""
        self.last_sequence = self.synced_sequence = first_sequence - 1
        self.view[:HEAD_SIZE] = encode_head(
            SegmentHead(len(self.view), pool, self.id, self.dataset, self.epoch, previous, first_sequence)
        )

    def has_room(self, frame_bytes: int, frames: int, limit: int) -> bool:
        """Would `frames` more frames of together `frame_bytes` fit below `limit`? (O2)"""
        return self.tail + frame_bytes + HEADER_SIZE * (len(self.offsets) + frames) <= limit

    def append(
        self, kind: int, codec: int, flags: int, blocks: int, payload: Buffer, raw_bytes: int,
        inode: int, first_block: int, sequence: int, durable: int,
    ) -> int:  # fmt: skip
        """Append one frame; its address. The caller has made sure of the room.

        With codec BLOCKS the payload is the plain blocks; their checksum table is put before them.
        """
        tail = self.tail
        view = self.view
        address = self.base | tail >> 1  # offset / 64 * 32, see sds.core.address
        start = tail + HEADER_SIZE
        if codec == BLOCKS:
            table = block_table(memoryview(payload), address, self.key)
            view[start : start + len(table)] = table
            start += len(table)
        end = start + len(payload)
        view[start:end] = payload
        HEADER.pack_into(
            view, tail, 0, MAGIC, kind, codec, flags, blocks, end - tail - HEADER_SIZE, raw_bytes, sequence,
            durable, inode, first_block, 0,
        )  # fmt: skip
        checked_end = start if codec == BLOCKS else end
        CHECKSUM.pack_into(view, tail, xxh3_64_intdigest(view[tail + 8 : checked_end], address ^ self.key))
        self.offsets.append(tail)
        self.blocks += blocks
        self.last_sequence = sequence
        self.tail = tail = (end + 63) & -64
        if tail >= self.next_wake:
            self.next_wake = tail + self.drain_step
            self.wake.set()
        return address

    def pad(self, sequence: int, durable: int) -> bool:
        """Fill up to the next page with a PAD frame, so that a flush never writes a page twice. False: no need."""
        rest = -self.tail % PAGE
        if rest == 0:
            return False
        tail = self.tail
        stored = rest - HEADER_SIZE
        address = self.base | tail >> 1
        self.view[tail + HEADER_SIZE : tail + rest] = bytes(stored)
        HEADER.pack_into(self.view, tail, 0, MAGIC, PAD, RAW, 0, 0, stored, stored, sequence, durable, 0, 0, 0)
        digest = xxh3_64_intdigest(self.view[tail + 8 : tail + HEADER_SIZE], address ^ self.key)
        CHECKSUM.pack_into(self.view, tail, digest)
        self.offsets.append(tail)
        self.last_sequence = sequence
        self.tail = tail + rest
        return True

    def seal(self, sequence: int, durable: int) -> None:
        """OPEN -> SEALED: append the table of all frame headers and the trailer."""
        view = self.view
        table = b"".join([view[at : at + HEADER_SIZE] for at in self.offsets])
        seal_offset = self.tail
        self.append(SEAL, RAW, 0, 0, table, len(table), 0, 0, sequence, durable)
        end = (self.tail + TRAILER_SIZE + PAGE - 1) & -PAGE
        assert end <= len(view), "sealing ran out of room (O2)"
        if len(view) - end <= len(view) // FULL_PART:
            end = len(view)
        view[self.tail : end - TRAILER_SIZE] = bytes(end - TRAILER_SIZE - self.tail)
        view[end - TRAILER_SIZE : end] = encode_trailer(SegmentTrailer(self.id, seal_offset, sequence))
        self.tail = end
        self.sealed = True
        self.wake.set()
