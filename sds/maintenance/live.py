"""Live frames on their way into a pack. Most are one plain block each, written at random: those take the short way.

  LV1  No frame is handed out that was not verified under its original address (VF5 of verify.py).
  LV2  What is handed out is a copy: the memory that a file was read into is used again.
"""

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from sds.core.address import BLOCK_SIZE, pack_address
from sds.core.frame import DATA, HEADER_SIZE, MAGIC, RAW, pool_key
from sds.maintenance.shrink import shrunk
from sds.maintenance.verify import Place, frame_at, places_of
from sds.pool.files import StoredFile

LONE_BYTES: Final = HEADER_SIZE + BLOCK_SIZE
_LONE: Final = MAGIC + bytes((DATA, RAW, 0, 1)) + struct.pack("<II", BLOCK_SIZE, BLOCK_SIZE)
"""Bytes 8 to 24 of a frame that is one plain block."""
_OWNER: Final = struct.Struct("<QQ")
_OWNER_AT: Final = 40


class Live(NamedTuple):
    """Sorts for later scans: data by inode and block, then what leads there."""

    is_metadata: bool
    inode: int
    first_block: int
    segment: int
    old_offset: int
    frame: bytes


def live_frames(
    file: StoredFile, data: memoryview, alive: Mapping[int, Mapping[int, int]], pool_uuid: bytes
) -> list[Live]:
    """`data`: the whole file. `alive`: by segment and offset / 64, a bit for each block that is. Corrupt: LV1."""
    found: list[Live] = []
    key = pool_key(pool_uuid)
    for row in file.rows:
        blocks = alive[row.id]
        for place in places_of(data, row, [unit << 6 for unit in blocks], pool_uuid):
            lone = _lone(data, row.id, place, key)
            found.append(lone or _frame(data, row.id, place, blocks[place.old_offset >> 6], key))
    return found


def _lone(data: memoryview, segment: int, place: Place, key: int) -> Live | None:
    """A frame of one plain block, without looking at what is the same in all of them."""
    old_offset, at = place
    if data[at + 8 : at + 24] != _LONE:
        return None
    frame = bytes(data[at : at + LONE_BYTES])
    digest = xxh3_64_intdigest(memoryview(frame)[8:], pack_address(segment, old_offset) ^ key)
    if len(frame) != LONE_BYTES or digest != int.from_bytes(frame[:8], "little"):
        return None  # the long way says what is wrong
    inode, first_block = _OWNER.unpack_from(frame, _OWNER_AT)
    return Live(False, inode, first_block, segment, old_offset, frame)


def _frame(data: memoryview, segment: int, place: Place, alive: int, key: int) -> Live:
    header, offset, frame = frame_at(data, segment, place, key)
    kept = shrunk(header, frame, segment, offset, alive, key) or bytes(frame)
    return Live(header.kind != DATA, header.inode, header.first_block, segment, offset, kept)
