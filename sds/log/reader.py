"""Reading frames by address: from the stage, from the page cache at once, or from the backends with waiting.

  R1  Whatever comes from a backend is verified (checksum over content and address) before it is handed out.
      What is in the stage has never left memory and is not verified again.
  R2  *_nowait never waits: None means "would wait, or is damaged"; the method without the suffix tells which.
  R3  Which copy is read, and which file, is the business of sds.log.files.
  R4  Bounded: known checksum tables and decoded frames are caches with a limit.

How a frame is read is written once, as a generator that yields the ranges it needs (`_blocks`, `_payload`) and does
not care whether they are got with or without waiting.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, TypeVar

from xxhash import xxh3_64_intdigest

from backends.base import Reader
from sds.core.address import BLOCK_SIZE, BLOCKS_PER_FRAME, FRAME_MASK, offset_of, segment_of
from sds.core.errors import Corrupt, Missing
from sds.core.frame import (
    BLOCKS,
    DATA,
    HEADER_SIZE,
    RAW,
    Buffer,
    FrameHeader,
    blocks_are_valid,
    decode_header,
    header_is_valid,
    pool_key,
)
from sds.log.codec import decode_blocks, decompress
from sds.log.env import Env
from sds.log.files import OnDamage, Ranges, SegmentFiles
from sds.pool.pool import Pool

T = TypeVar("T")

FRAME_SIZE: Final = HEADER_SIZE + BLOCK_SIZE
TABLES_MAX: Final = 1 << 15
DECODED_MAX: Final = 256
_LONE_BLOCK: Final = bytes((DATA, RAW))


class FrameReader:
    """`staged`: the log's map of segments in memory (sds.log.log.Log.staged), or empty for a read-only opening."""

    def __init__(self, pool: Pool, env: Env, staged: Mapping[int, memoryview]) -> None:
        self._key = pool_key(pool.uuid)
        self._staged = staged
        self._segments = SegmentFiles(pool, env)
        self._files = self._segments.open
        self._tables: dict[int, tuple[int, memoryview, Reader | None]] = {}
        """By frame: where its plain blocks begin and their checksums, in this open file; another one of the segment may
        have it encoded otherwise."""
        self._decoded: OrderedDict[int, tuple[Buffer, int]] = OrderedDict()

    # -- data blocks -----------------------------------------------------------------------------------------------

    def block_nowait(self, address: int) -> Buffer | None:
        """One block, the shortest way there is: plain blocks without a generator, the rest as blocks_nowait."""
        segment = address >> 24
        offset = (address >> 5 & 0x7FFFF) << 6
        view = self._staged.get(segment)
        if view is not None:
            codec = view[offset + 13]
            if codec == RAW:
                return view[offset + HEADER_SIZE : offset + FRAME_SIZE]
            if codec == BLOCKS:
                start = offset + HEADER_SIZE + 8 * view[offset + 15] + ((address & 31) << 12)
                return view[start : start + BLOCK_SIZE]
            return self._blocks_in_memory(view, address, 1)
        file = self._files.get(segment)
        if file is None:
            return None
        known = self._tables.get(address & FRAME_MASK)
        if known is not None and known[2] is file:
            block = address & 31
            data = memoryview(bytearray(BLOCK_SIZE))
            if not file.read_nowait(known[0] + (block << 12), data):
                return None
            return data if xxh3_64_intdigest(data, address ^ self._key) == known[1][block] else None
        if address & 31:
            return self.blocks_nowait(address, 1)
        frame = bytearray(FRAME_SIZE)
        data = memoryview(frame)
        if not file.read_nowait(offset, data):
            return None
        if frame[12:14] != _LONE_BLOCK or frame[15] != 1:
            return self.blocks_nowait(address, 1)
        if xxh3_64_intdigest(data[8:], address ^ self._key) != int.from_bytes(frame[:8], "little"):
            return None
        return data[HEADER_SIZE:]

    def blocks_nowait(self, address: int, count: int) -> Buffer | None:
        """`count` consecutive blocks of one frame."""
        view = self._staged.get(segment_of(address))
        if view is not None:
            return self._blocks_in_memory(view, address, count)
        file = self._files.get(segment_of(address))
        if file is None:
            return None
        try:
            return _drive_nowait(self._blocks(address, count), file)
        except (Corrupt, Missing):
            return None

    async def blocks(self, address: int, count: int) -> Buffer:
        """As blocks_nowait, waiting. Corrupt, BackendError; Missing: the segment is gone (look up the map again).

        The bytes are the caller's own: a slot of the stage may get another tenant while he waits for others.
        """
        view = self._staged.get(segment_of(address))
        if view is not None:
            return bytes(self._blocks_in_memory(view, address, count))
        return await self._segments.read(segment_of(address), lambda: self._blocks(address, count))

    def _blocks_in_memory(self, view: memoryview, address: int, count: int) -> Buffer:
        offset = offset_of(address)
        header = decode_header(view, offset)
        assert header is not None, "the map leads to no frame in the stage"
        assert header.kind == DATA
        start = (address & 31) * BLOCK_SIZE
        payload = offset + HEADER_SIZE
        if header.codec in (RAW, BLOCKS):
            start += payload + header.stored_bytes - header.raw_bytes
            return view[start : start + count * BLOCK_SIZE]
        plain, _ = self._decode(address & FRAME_MASK, header, view[payload : payload + header.stored_bytes])
        return memoryview(plain)[start : start + count * BLOCK_SIZE]

    def _blocks(self, address: int, count: int) -> Ranges[Buffer]:
        frame, first = address & FRAME_MASK, address & 31
        start, size = first * BLOCK_SIZE, count * BLOCK_SIZE
        file = self._files.get(segment_of(frame))
        known = self._tables.get(frame)
        if known is not None and known[2] is file:
            data_at, table, _ = known
            data = yield data_at + start, size
            return self._verified_blocks(address, table[first : first + count], data)
        decoded = self._decoded.get(frame)
        if decoded is not None:
            return _kept_blocks(decoded, address, count)
        # The size of the frame is not known yet: ask for what is enough if its blocks are plain. For a block deep
        # inside, one read of more costs less than a small one for the table and, when that is there, one for the block.
        offset = offset_of(frame)
        guess = HEADER_SIZE + (8 * BLOCKS_PER_FRAME + start if first or count > 1 else 0) + size
        try:
            data = yield offset, guess
        except Corrupt:  # the segment ends there
            data = yield offset, HEADER_SIZE
        header = self._header(data, frame, DATA)
        if first + count > header.blocks:
            raise Corrupt(f"{_where(frame)} has {header.blocks} blocks, the map wants {first}+{count}")
        covered = HEADER_SIZE + header.covered_bytes
        if covered > len(data):
            data = yield offset, covered
        if not header_is_valid(data, 0, header, frame ^ self._key):
            raise Corrupt(f"{_where(frame)} fails its checksum")
        if header.codec != BLOCKS:
            return _kept_blocks(self._decode(frame, header, data[HEADER_SIZE:covered]), address, count)
        table = memoryview(bytes(data[HEADER_SIZE:covered])).cast("Q")
        if len(self._tables) >= TABLES_MAX:
            self._tables.clear()
        self._tables[frame] = offset + covered, table, file
        blocks = data[covered + start : covered + start + size]
        if len(blocks) < size:
            blocks = yield offset + covered + start, size
        return self._verified_blocks(address, table[first : first + count], blocks)

    def _verified_blocks(self, address: int, table: memoryview, data: memoryview) -> memoryview:
        if not blocks_are_valid(table, data, address, self._key):
            raise Corrupt(f"{_where(address)} fails its checksum")
        return data

    def _decode(self, frame: int, header: FrameHeader, payload: memoryview) -> tuple[Buffer, int]:
        """The plain blocks, and which of them are there (codec SPARSE)."""
        decoded = self._decoded.get(frame)
        if decoded is None:
            decoded = decode_blocks(header.codec, payload, header.raw_bytes, _where(frame))
            if len(self._decoded) >= DECODED_MAX:
                self._decoded.popitem(last=False)
            self._decoded[frame] = decoded
        return decoded

    # -- metadata frames ---------------------------------------------------------------------------------------------

    async def payload(self, address: int, kind: int) -> Buffer:
        """The decoded payload of a NODE, MAP or CHECKPOINT frame."""
        segment = segment_of(address)
        view = self._staged.get(segment)
        if view is None:
            return await self._segments.read(segment, lambda: self._payload(address, kind))
        offset = offset_of(address)
        header = decode_header(view, offset)
        assert header is not None, "the tree leads to no frame in the stage"
        assert header.kind == kind
        start = offset + HEADER_SIZE
        stored = bytes(view[start : start + header.stored_bytes])
        return decompress(header.codec, stored, header.raw_bytes, _where(address))

    def _payload(self, address: int, kind: int) -> Ranges[Buffer]:
        offset = offset_of(address)
        head = yield offset, HEADER_SIZE
        header = self._header(head, address, kind)
        frame = yield offset, HEADER_SIZE + header.stored_bytes
        if not header_is_valid(frame, 0, header, address ^ self._key):
            raise Corrupt(f"{_where(address)} fails its checksum")
        return decompress(header.codec, frame[HEADER_SIZE:], header.raw_bytes, _where(address))

    def _header(self, head: memoryview, address: int, kind: int) -> FrameHeader:
        header = decode_header(head)
        if header is None or header.kind != kind:
            raise Corrupt(f"{_where(address)} is not the frame that should be there")
        return header

    # -- files -------------------------------------------------------------------------------------------------------

    @property
    def on_damage(self) -> OnDamage:
        return self._segments.on_damage

    @on_damage.setter
    def on_damage(self, tell: OnDamage) -> None:
        """SF3 of sds.log.files."""
        self._segments.on_damage = tell

    def prefetch(self, segment: int, offset: int, length: int) -> bool:
        """Hint; False if nothing was done: the segment's file is not open, or there are too many hints under way."""
        file = self._files.get(segment)
        return file is not None and file.will_need(offset, length)

    def forget(self, segments: set[int]) -> None:
        """These segments are gone (swept), or lie elsewhere now."""
        self._segments.forget(segments)

    def close(self) -> None:
        self._segments.close()


def _kept_blocks(decoded: tuple[Buffer, int], address: int, count: int) -> Buffer:
    plain, kept = decoded
    first = address & 31
    wanted = ((1 << count) - 1) << first
    if kept & wanted != wanted:
        raise Missing(f"{_where(address)} was overwritten and cleaned: look at the map again")
    return memoryview(plain)[first * BLOCK_SIZE : (first + count) * BLOCK_SIZE]


def _drive_nowait(plan: Ranges[T], file: Reader) -> T | None:
    try:
        offset, length = next(plan)
        while True:
            data = memoryview(bytearray(length))
            if not file.read_nowait(offset, data):
                return None
            offset, length = plan.send(data)
    except StopIteration as done:
        result: T = done.value
        return result


def _where(address: int) -> str:
    return f"segment {segment_of(address):#x} at {offset_of(address)}"
