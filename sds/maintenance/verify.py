"""Whole files, verified: what scrub looks for, and what the cleaner takes frames from. Pure.

  VF1  Every bit that a reader may rely on is covered (heads, frames, tables, index, trailers): a flipped one is found.
  VF2  Not covered in a segment, and so not looked at, for nobody reads it: up to 63 bytes behind a frame, what a PAD
       frame contains, and what lies between SEAL frame and trailer. In a pack such room is zeros, which is verified.
  VF3  A segment that a crash cut has no trailer. It ends in its last page: with zeros, or with the beginning of a frame
       that reaches beyond the end of the file. If the catalog knows how many DATA blocks it has, they must be there.
  VF4  A pack may have members without a row: their segments were deleted since. They are verified all the same.
  VF5  frames_of and frame_at hand out no frame that was not verified under its original address.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from sds.core.address import UNIT, pack_address
from sds.core.errors import Corrupt
from sds.core.frame import (
    DATA,
    HEADER_SIZE,
    PAD,
    SEAL,
    FrameHeader,
    decode_header,
    frame_is_valid,
    kept_blocks,
    pool_key,
)
from sds.core.pack import (
    HEAD_SIZE,
    TRAILER_SIZE,
    RelocationTable,
    decode_index,
    decode_pack_head,
    decode_pack_trailer,
    decode_table,
)
from sds.core.segment import HEAD_SIZE as SEGMENT_HEAD_SIZE
from sds.core.segment import SegmentHead, decode_head, decode_trailer
from sds.log.relocated import is_of
from sds.log.replay import frames
from sds.pool.rows import SegmentRow

PAGE: Final = 4096


@dataclass(frozen=True, slots=True)
class Findings:
    """`frames`, `blocks`, `data_bytes`: what verified; of a damaged file, up to the damage."""

    ok: bool
    problem: str
    """One line; empty if ok."""
    frames: int
    blocks: int
    """DATA blocks."""
    data_bytes: int
    """Of DATA frames as they are stored, with their headers."""


class StoredFrame(NamedTuple):
    header: FrameHeader
    old_offset: int
    """In the segment as it was written: what addresses refer to."""
    data: memoryview
    """Header and payload, verified."""


def verify_segment(data: memoryview, row: SegmentRow, pool_uuid: bytes, key: int) -> Findings:
    """`data`: all of the file of a sealed segment that lies in no pack."""
    return _findings(_segment_frames(data, row, pool_uuid, key))


def verify_pack(
    data: memoryview, rows: Collection[SegmentRow], family: int, pool_uuid: bytes, key: int
) -> Findings:
    """`data`: all of the file; `rows`: of the segments that lie in this pack by the catalog, at least one."""
    return _findings(_pack_frames(data, rows, family, pool_uuid, key))


def frames_of(data: memoryview, row: SegmentRow, pool_uuid: bytes) -> Iterator[StoredFrame]:
    """The frames of a segment that the cleaner may keep, by old offset; `data`: the file that the segment lies in.

    Corrupt where (or, of a segment's own file, also behind its last frame) something does not verify: what was handed
    out before is sound, but not all there was.
    """
    key = pool_key(pool_uuid)
    if row.pack:
        decode_pack_head(data)
        yield from _member_frames(data, _table_of(data, row, key), key)
        return
    for frame in _segment_frames(data, row, pool_uuid, key):
        if frame.header.kind not in (PAD, SEAL):
            yield frame


def _findings(found: Iterator[StoredFrame]) -> Findings:
    count = blocks = data_bytes = 0
    problem = ""
    try:
        for frame in found:
            count += 1
            blocks += frame.header.blocks
            data_bytes += len(frame.data) if frame.header.kind == DATA else 0
    except Corrupt as error:
        problem = str(error)
    return Findings(not problem, problem, count, blocks, data_bytes)


class Place(NamedTuple):
    """Where a frame is."""

    old_offset: int
    """In the segment as it was written."""
    at: int
    """In the file that the segment lies in now."""


def places_of(
    data: memoryview, row: SegmentRow, offsets: Iterable[int], pool_uuid: bytes
) -> list[Place]:
    """Of the frames that began at these offsets in the segment. Nothing else is looked at: damage that concerns nobody
    is no hindrance. Corrupt if a pack has none of them."""
    if not row.pack:
        _head_of(data, row, pool_uuid)
        return [Place(offset, offset) for offset in offsets]
    decode_pack_head(data)
    table = _table_of(data, row, pool_key(pool_uuid))
    places = []
    for offset in offsets:
        placed = table.place(offset)
        if placed is None or placed.old_offset != offset:
            raise Corrupt(f"pack {row.pack:#x} has no frame of segment {row.id:#x} that was at {offset}")
        places.append(Place(offset, placed.new_offset))
    return places


def frame_at(data: memoryview, segment: int, place: Place, key: int) -> StoredFrame:
    """VF5 for one frame. Corrupt if it does not verify."""
    header = decode_header(data, place.at)
    if header is None or not frame_is_valid(data, place.at, header, pack_address(segment, place.old_offset), key):
        raise Corrupt(f"segment {segment:#x}: the frame that was at {place.old_offset} does not verify")
    return StoredFrame(header, place.old_offset, data[place.at : place.at + HEADER_SIZE + header.stored_bytes])


# -- segments -------------------------------------------------------------------------------------------------------


def _segment_frames(data: memoryview, row: SegmentRow, pool_uuid: bytes, key: int) -> Iterator[StoredFrame]:
    """All frames; Corrupt at the end if the file is not what it should be."""
    where = f"segment {row.id:#x}"
    head = _head_of(data, row, pool_uuid)
    if len(data) != row.size_bytes or len(data) % PAGE:
        raise Corrupt(f"{where} has {len(data)} bytes, the catalog says {row.size_bytes}")
    end, sequence, blocks = SEGMENT_HEAD_SIZE, head.first_sequence - 1, 0
    headers: list[memoryview] = []
    sealed = False
    for frame in frames(data, row.id, key, end, sequence):
        start = end
        end, sequence, blocks = frame.end, frame.header.sequence, blocks + frame.header.blocks
        if frame.header.kind == SEAL:
            sealed = True
            if bytes(frame.payload) != b"".join(headers):
                raise Corrupt(f"{where}: its table does not list the frames that are there")
            _check_trailer(data, row.id, start, end, sequence)
        headers.append(data[start : start + HEADER_SIZE])
        yield StoredFrame(frame.header, start, data[start : start + HEADER_SIZE + frame.header.stored_bytes])
    if not sealed:
        _check_cut(data, row.id, end, sequence)
    if row.blocks not in (0, blocks):
        raise Corrupt(f"{where} has {blocks} blocks of data that verify, the catalog says {row.blocks}")


def _head_of(data: memoryview, row: SegmentRow, pool_uuid: bytes) -> SegmentHead:
    head = decode_head(data)
    if head is None:
        raise Corrupt(f"segment {row.id:#x} has no valid head")
    if (head.pool, head.segment, head.dataset, head.epoch, head.generation) != (
        pool_uuid, row.id, row.dataset, row.epoch, row.generation,
    ):  # fmt: skip
        raise Corrupt(f"segment {row.id:#x}: segment {head.segment:#x} of epoch {head.epoch} is in its place")
    return head


def _check_trailer(data: memoryview, segment: int, seal_offset: int, end: int, sequence: int) -> None:
    """Behind the SEAL frame. A power cut may have kept just the trailer back: then there are zeros."""
    trailer = decode_trailer(data[end:])
    if trailer is None:
        if not _is_zero(data[end:]):
            raise Corrupt(f"segment {segment:#x}: its trailer is damaged")
    elif (trailer.segment, trailer.seal_offset, trailer.last_sequence) != (segment, seal_offset, sequence):
        raise Corrupt(f"segment {segment:#x}: its trailer is that of another one")


def _check_cut(data: memoryview, segment: int, end: int, sequence: int) -> None:
    """VF3: may a log end here without being sealed?"""
    trailer = decode_trailer(data)
    rest = len(data) - end
    if (trailer is not None and trailer.segment == segment) or rest >= PAGE:
        raise Corrupt(f"segment {segment:#x}: what should be a frame at {end} does not verify")
    following = decode_header(data, end)
    if following is not None and following.sequence == sequence + 1 and following.frame_bytes > rest:
        return
    if not _is_zero(data[end:]):
        raise Corrupt(f"segment {segment:#x}: what is behind its last frame, at {end}, does not verify")


# -- packs ----------------------------------------------------------------------------------------------------------


def _pack_frames(
    data: memoryview, rows: Collection[SegmentRow], family: int, pool_uuid: bytes, key: int
) -> Iterator[StoredFrame]:
    head = decode_pack_head(data)
    trailer = decode_pack_trailer(data[-TRAILER_SIZE:], len(data))
    wanted = {row.id: row for row in rows}
    packs = {row.pack for row in rows}
    if (head.pool, head.family) != (pool_uuid, family) or packs != {head.pack} or trailer.pack != head.pack:
        raise Corrupt(f"in the place of packs {sorted(packs)} of family {family} is pack {head.pack} of {head.family}")
    index_end = trailer.index_offset + trailer.index_bytes
    used = [(0, HEAD_SIZE), (trailer.index_offset, index_end), (len(data) - TRAILER_SIZE, len(data))]
    for entry in decode_index(data[trailer.index_offset : index_end], trailer, key):
        table = decode_table(data[entry.base :], entry.base, key)
        row = wanted.pop(entry.segment, None)
        is_right = table.head.member.segment == entry.segment and table.head.pack == head.pack
        if not is_right or table.head.table_bytes != entry.table_bytes:
            raise Corrupt(f"pack {head.pack:#x}: its index and its tables disagree on segment {entry.segment:#x}")
        if row is not None and (row.base != entry.base or not is_of(table, row)):
            raise Corrupt(f"pack {head.pack:#x} has segment {entry.segment:#x} not as the catalog says")
        if row is not None and row.blocks not in (0, table.head.blocks):
            raise Corrupt(f"pack {head.pack:#x} does not have {row.blocks} blocks of segment {entry.segment:#x}")
        used.append((entry.base, entry.base + entry.table_bytes))
        for frame, placed in zip(_member_frames(data, table, key), table.frames(), strict=True):
            used.append((placed.new_offset, placed.new_offset + len(frame.data)))
            yield frame
    if wanted:
        raise Corrupt(f"pack {head.pack:#x} does not have segment {min(wanted):#x}")
    _check_gaps(data, used, head.pack)


def _table_of(data: memoryview, row: SegmentRow, key: int) -> RelocationTable:
    table = decode_table(data[row.base :], row.base, key)
    if not is_of(table, row):
        raise Corrupt(f"pack {row.pack:#x} has at {row.base} the table of another segment than {row.id:#x}")
    return table


def _member_frames(data: memoryview, table: RelocationTable, key: int) -> Iterator[StoredFrame]:
    segment = table.head.member.segment
    blocks = 0
    for place in table.frames():
        where = f"pack {table.head.pack:#x}: the frame of segment {segment:#x} that was at {place.old_offset}"
        header = decode_header(data, place.new_offset)
        if header is None or header.frame_bytes != place.length or header.kind in (PAD, SEAL):
            raise Corrupt(f"{where} is not there")
        if not frame_is_valid(data, place.new_offset, header, pack_address(segment, place.old_offset), key):
            raise Corrupt(f"{where} fails its checksum")
        end = place.new_offset + HEADER_SIZE + header.stored_bytes
        blocks += kept_blocks(header, data[place.new_offset + HEADER_SIZE : end])
        yield StoredFrame(header, place.old_offset, data[place.new_offset : end])
    if blocks != table.head.blocks:
        raise Corrupt(f"pack {table.head.pack:#x} has {blocks} blocks of segment {segment:#x}, its table says else")


def _check_gaps(data: memoryview, used: list[tuple[int, int]], pack: int) -> None:
    """Nothing lies over anything else; between the parts are zeros, less than a unit or (before the trailer) a page."""
    end = 0
    for start, after in sorted(used):
        if start < end:
            raise Corrupt(f"pack {pack:#x} has two things at {start}")
        if start - end >= (PAGE if after == len(data) else UNIT) or not _is_zero(data[end:start]):
            raise Corrupt(f"pack {pack:#x} has something at {end} where nothing should be")
        end = after


def _is_zero(data: memoryview) -> bool:
    return not any(data)
