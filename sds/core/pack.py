"""Packs: files in which the cleaner keeps the live frames of several segments, verbatim. Pure.

    head | frames | table of each member, by segment | index | zeros | trailer        a multiple of 4096 bytes

Everything but the trailer starts on a multiple of 64 bytes; what is between two parts is zeros. All integers are
little endian.

Head, the first 128 bytes:
    off size field           meaning
      0    8 magic           b"SDSPCK\\0\\1"
      8    4 version         1
     12    4 reserved_4      0
     16   16 pool            pool UUID
     32    8 family          whose segments are in it
     40    8 pack            id, never reused
     48   72 reserved_72     zeros
    120    8 checksum        xxh3-64 of bytes 0 .. 120

Table of a member, at the `base` of its catalog row:
      0    8 magic           b"SDSTAB\\0\\1"
      8    8 segment         id
     16    8 dataset         who wrote the segment
     24    8 epoch           of the writer's lease
     32    8 pack            id of the pack
     40    4 generation      how often the segment was cleaned, from 1
     44    4 count           of frames, from 1
     48    4 blocks          DATA blocks in these frames (of SPARSE ones, those that were kept)
     52    4 reserved_4      0
     56    8 checksum        xxh3-64 of bytes 0 .. 56 and the entries, seed = segment id << 24 XOR pool key
     64      entries         count times three numbers of 32 bits, in units of 64 bytes, rising by the first one:
      0    4 old_offset      of the frame in the segment as it was written
      4    4 new_offset      of the frame in the pack
      8    4 length          of header and payload, rounded up

Index, for reading a pack without a catalog, `members` times:
      0    8 segment         id, rising
      8    4 base            where the member's table is, in bytes
     12    4 table_bytes     its length: 64 + 12 * count

Trailer, the last 64 bytes:
      0    8 magic           b"SDSPKE\\0\\1"
      8    8 pack            id
     16    8 index_offset    in bytes
     24    4 members         number of tables, from 1
     28    4 reserved_4      0
     32    8 index_checksum  xxh3-64 of the index, seed = pack id XOR pool key
     40   16 reserved_16     zeros
     56    8 checksum        xxh3-64 of bytes 0 .. 56

  PK1  A frame keeps its old address as checksum seed: it is copied bit by bit, and a frame in a wrong place, or of
       another segment, does not verify.
  PK2  An old offset that lies in no frame of the table has no place in the pack: never an answer with other bytes.
  PK3  Lengths and offsets are checked before anything is allocated or read by them: frames lie before their table.
  PK4  PAD and SEAL frames are never in a pack: nobody reads them, and nothing covers what a PAD contains.
"""

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from sds.core.address import SEGMENT_ID_MAX, SEGMENT_SHIFT, SEGMENT_SIZE_MAX, UNIT
from sds.core.errors import Corrupt
from sds.core.frame import HEADER_SIZE, PAD, SEAL, Buffer, decode_header, kept_blocks, pool_key
from sds.core.segment import HEAD_SIZE as SEGMENT_HEAD_SIZE

PAGE: Final = 4096
VERSION: Final = 1
PACK_HEAD: Final = struct.Struct("<8sII16sQQ72sQ")
PACK_HEAD_MAGIC: Final = b"SDSPCK\0\1"
TABLE: Final = struct.Struct("<8sQQQQIIIIQ")
TABLE_MAGIC: Final = b"SDSTAB\0\1"
ENTRY: Final = struct.Struct("<III")
INDEX_ENTRY: Final = struct.Struct("<QII")
PACK_TRAILER: Final = struct.Struct("<8sQQIIQ16sQ")
PACK_TRAILER_MAGIC: Final = b"SDSPKE\0\1"
HEAD_SIZE: Final = 128
TABLE_SIZE: Final = 64
TRAILER_SIZE: Final = 64
MEMBERS_MAX: Final = SEGMENT_SIZE_MAX // (2 * UNIT)
assert PACK_HEAD.size == HEAD_SIZE
assert TABLE.size == TABLE_SIZE
assert PACK_TRAILER.size == TRAILER_SIZE


@dataclass(frozen=True, slots=True)
class PackHead:
    pool: bytes
    family: int
    pack: int


@dataclass(frozen=True, slots=True)
class MemberHead:
    """Which segment, and as what."""

    segment: int
    dataset: int
    epoch: int
    generation: int


@dataclass(frozen=True, slots=True)
class PackTrailer:
    pack: int
    index_offset: int
    members: int
    index_checksum: int

    @property
    def index_bytes(self) -> int:
        return INDEX_ENTRY.size * self.members


class IndexEntry(NamedTuple):
    segment: int
    base: int
    table_bytes: int


class Placed(NamedTuple):
    """One frame, in bytes; `length` is rounded up to units."""

    old_offset: int
    new_offset: int
    length: int


@dataclass(frozen=True, slots=True)
class TableHead:
    member: MemberHead
    pack: int
    count: int
    blocks: int
    checksum: int

    @property
    def table_bytes(self) -> int:
        return TABLE_SIZE + ENTRY.size * self.count


class RelocationTable:
    """Where the frames of one segment lie in its pack. Flat: 12 bytes per frame."""

    __slots__ = ("_length", "_new", "_old", "head")

    def __init__(self, head: TableHead, numbers: "array[int]") -> None:
        """`numbers`: the entries as they are stored."""
        self.head = head
        self._old, self._new, self._length = numbers[0::3], numbers[1::3], numbers[2::3]

    def __len__(self) -> int:
        return len(self._old)

    def frames(self) -> list[Placed]:
        """By old offset."""
        return [
            Placed(old * UNIT, new * UNIT, length * UNIT)
            for old, new, length in zip(self._old, self._new, self._length, strict=True)
        ]

    def place(self, old_offset: int) -> Placed | None:
        """The frame that this byte of the segment is in; None if it is in no frame that was kept (PK2)."""
        unit = old_offset // UNIT
        at = bisect_right(self._old, unit) - 1
        if at < 0 or unit >= self._old[at] + self._length[at]:
            return None
        return Placed(self._old[at] * UNIT, self._new[at] * UNIT, self._length[at] * UNIT)


# -- head and trailer -----------------------------------------------------------------------------------------------


def encode_pack_head(head: PackHead) -> bytes:
    return _closed(PACK_HEAD.pack(PACK_HEAD_MAGIC, VERSION, 0, head.pool, head.family, head.pack, bytes(72), 0))


def decode_pack_head(data: Buffer) -> PackHead:
    if len(data) < HEAD_SIZE:
        raise Corrupt(f"a pack of {len(data)} bytes has no head")
    magic, version, reserved, pool, family, pack, rest, checksum = PACK_HEAD.unpack_from(data)
    if magic != PACK_HEAD_MAGIC or xxh3_64_intdigest(data[: HEAD_SIZE - 8]) != checksum:
        raise Corrupt("the head of the pack is damaged")
    if version != VERSION or reserved or any(rest):
        raise Corrupt(f"pack {pack:#x} has format version {version}, this release reads {VERSION}")
    return PackHead(pool, family, pack)


def encode_pack_trailer(trailer: PackTrailer) -> bytes:
    it = trailer
    return _closed(
        PACK_TRAILER.pack(PACK_TRAILER_MAGIC, it.pack, it.index_offset, it.members, 0, it.index_checksum, bytes(16), 0)
    )


def decode_pack_trailer(data: Buffer, file_bytes: int) -> PackTrailer:
    """From the last 64 bytes of `data`; `file_bytes`: size of the whole pack."""
    tail = bytes(data[-TRAILER_SIZE:])
    if len(tail) != TRAILER_SIZE:
        raise Corrupt(f"a pack of {file_bytes} bytes has no trailer")
    magic, pack, index_offset, members, reserved, index_checksum, rest, checksum = PACK_TRAILER.unpack(tail)
    if magic != PACK_TRAILER_MAGIC or reserved or any(rest) or xxh3_64_intdigest(tail[:-8]) != checksum:
        raise Corrupt("the trailer of the pack is damaged")
    trailer = PackTrailer(pack, index_offset, members, index_checksum)
    if not 0 < members <= MEMBERS_MAX or index_offset % UNIT or index_offset < HEAD_SIZE:
        raise Corrupt(f"the trailer of pack {pack:#x} makes no sense")
    if _file_end(index_offset, members) != file_bytes:
        raise Corrupt(f"pack {pack:#x} has {file_bytes} bytes, its trailer says {_file_end(index_offset, members)}")
    return trailer


# -- index and tables -----------------------------------------------------------------------------------------------


def decode_index(index: Buffer, trailer: PackTrailer, key: int) -> list[IndexEntry]:
    """`index`: the bytes [index_offset, index_offset + index_bytes) of the pack; `key`: of the pool."""
    where = f"the index of pack {trailer.pack:#x}"
    if len(index) != trailer.index_bytes or xxh3_64_intdigest(index, trailer.pack ^ key) != trailer.index_checksum:
        raise Corrupt(f"{where} is damaged")
    found = [IndexEntry(*fields) for fields in INDEX_ENTRY.iter_unpack(index)]
    for segment, base, size_bytes in found:
        if not 0 < segment <= SEGMENT_ID_MAX or base % UNIT or base < HEAD_SIZE or size_bytes < TABLE_SIZE:
            raise Corrupt(f"{where} has an impossible member")
    ends = [_up(entry.base + entry.table_bytes) for entry in found]
    if ends[-1] != trailer.index_offset or any(end != after.base for end, after in zip(ends, found[1:], strict=False)):
        raise Corrupt(f"{where} has gaps")
    if any(a.segment >= b.segment for a, b in pairwise(found)):
        raise Corrupt(f"{where} is not sorted")
    return found


def decode_table_head(data: Buffer, base: int) -> TableHead:
    """From the first 64 bytes of a table. Nothing is verified yet but what bounds the rest (PK3)."""
    if len(data) < TABLE_SIZE:
        raise Corrupt(f"a relocation table at {base} is cut off")
    magic, segment, dataset, epoch, pack, generation, count, blocks, reserved, checksum = TABLE.unpack_from(data)
    if magic != TABLE_MAGIC or reserved or not HEAD_SIZE < base <= SEGMENT_SIZE_MAX or base % UNIT:
        raise Corrupt(f"there is no relocation table at {base}")
    if not 0 < count <= base // UNIT or not 0 < segment <= SEGMENT_ID_MAX:
        raise Corrupt(f"the relocation table at {base} makes no sense")
    return TableHead(MemberHead(segment, dataset, epoch, generation), pack, count, blocks, checksum)


def decode_table(data: Buffer, base: int, key: int) -> RelocationTable:
    """`data` begins with the table that is at `base` of the pack and holds all of it; `key`: of the pool."""
    head = decode_table_head(data, base)
    where = f"the relocation table of segment {head.member.segment:#x} in pack {head.pack:#x}"
    if len(data) < head.table_bytes:
        raise Corrupt(f"{where} is cut off")
    stored = bytes(data[: head.table_bytes])
    if _table_checksum(stored, head.member.segment, key) != head.checksum:
        raise Corrupt(f"{where} fails its checksum")
    table = RelocationTable(head, array("I", stored[TABLE_SIZE:]))
    frames = table.frames()
    olds = [(frame.old_offset, frame.length) for frame in frames]
    news = sorted((frame.new_offset, frame.length) for frame in frames)
    if not (_is_apart(olds, SEGMENT_HEAD_SIZE, SEGMENT_SIZE_MAX) and _is_apart(news, HEAD_SIZE, base)):
        raise Corrupt(f"{where} places frames over each other or outside")
    return table


def encode_table(member: MemberHead, pack: int, blocks: int, frames: list[Placed], key: int) -> bytes:
    numbers = array("I", [number // UNIT for frame in frames for number in frame])
    head = TABLE.pack(
        TABLE_MAGIC, member.segment, member.dataset, member.epoch, pack, member.generation, len(frames), blocks, 0, 0
    )
    table = head + numbers.tobytes()
    checksum = _table_checksum(table, member.segment, key)
    return table[: TABLE_SIZE - 8] + checksum.to_bytes(8, "little") + table[TABLE_SIZE:]


def _table_checksum(table: Buffer, segment: int, key: int) -> int:
    covered = bytes(table[: TABLE_SIZE - 8]) + bytes(table[TABLE_SIZE:])
    return int(xxh3_64_intdigest(covered, segment << SEGMENT_SHIFT ^ key))


def _is_apart(ranges: list[tuple[int, int]], low: int, high: int) -> bool:
    """Do these ranges (start, length) rise, without overlap, inside [low, high), none of them empty?"""
    end = low
    for start, length in ranges:
        if start < end or length == 0:
            return False
        end = start + length
    return end <= high


def _file_end(index_offset: int, members: int) -> int:
    return (index_offset + INDEX_ENTRY.size * members + TRAILER_SIZE + PAGE - 1) & -PAGE


def _closed(body: bytes) -> bytes:
    return body[:-8] + xxh3_64_intdigest(body[:-8]).to_bytes(8, "little")


def _up(size_bytes: int) -> int:
    return (size_bytes + UNIT - 1) & -UNIT


# -- writing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PackedMember:
    """What the catalog is told of a segment in a pack."""

    segment: int
    base: int
    size_bytes: int
    """Its share of the file; the shares add up to the file."""
    blocks: int
    """DATA blocks in it."""


@dataclass(frozen=True, slots=True)
class BuiltPack:
    data: memoryview
    """The whole file."""
    members: tuple[PackedMember, ...]
    """By segment; without those that got no frame."""


class PackBuilder:
    """Lays out a pack in memory that the caller gives (and may have aligned): ask `fits`, `add` frames, `finish`."""

    def __init__(self, head: PackHead, members: Iterable[MemberHead], into: memoryview) -> None:
        """`into`: as much as the pack may have; what is in it before does not matter."""
        assert len(into) % PAGE == 0 and len(into) <= SEGMENT_SIZE_MAX
        self._head = head
        self._key = pool_key(head.pool)
        self._members = {member.segment: member for member in members}
        self._into = into
        self._frames: dict[int, list[Placed]] = {}
        self._blocks: dict[int, int] = {}
        self._end = HEAD_SIZE
        self._tables_bytes = 0
        into[:HEAD_SIZE] = encode_pack_head(head)

    def fits(self, segment: int, frame_bytes: int) -> bool:
        """Is there room for one more frame of this segment? `frame_bytes`: header and payload."""
        count = len(self._frames.get(segment, ()))
        members = len(self._frames) + (count == 0)
        tables = self._tables_bytes + _up(TABLE_SIZE + ENTRY.size * (count + 1))
        tables -= _up(TABLE_SIZE + ENTRY.size * count) if count else 0
        return _file_end(self._end + _up(frame_bytes) + tables, members) <= len(self._into)

    def add(self, segment: int, old_offset: int, frame: memoryview) -> None:
        """Append a verified frame, given whole (what follows it in the view is not copied). It must fit."""
        header = decode_header(frame)
        assert header is not None and header.kind not in (PAD, SEAL), "no frame that belongs in a pack (PK4)"
        size = HEADER_SIZE + header.stored_bytes
        start, end = self._end, (self._end + size + UNIT - 1) & -UNIT
        frames = self._frames.setdefault(segment, [])
        table_end = TABLE_SIZE + UNIT - 1 + ENTRY.size * len(frames)
        grown = ((table_end + ENTRY.size) & -UNIT) - (table_end & -UNIT if frames else 0)
        frames.append(Placed(old_offset, start, end - start))
        self._tables_bytes += grown
        assert len(frame) >= size and _file_end(end + self._tables_bytes, len(self._frames)) <= len(self._into)
        self._blocks[segment] = self._blocks.get(segment, 0) + kept_blocks(header, frame[HEADER_SIZE:size])
        self._into[start : start + size] = frame[:size]
        if start + size < end:
            self._into[start + size : end] = bytes(end - start - size)
        self._end = end

    def finish(self) -> BuiltPack:
        assert self._frames, "a pack has at least one frame"
        index, shares = [], []
        end = self._end
        for segment in sorted(self._frames):
            frames = sorted(self._frames[segment])
            assert all(a.old_offset < b.old_offset for a, b in pairwise(frames)), "a frame was added twice"
            table = encode_table(self._members[segment], self._head.pack, self._blocks[segment], frames, self._key)
            index.append(IndexEntry(segment, end, len(table)))
            shares.append(sum(frame.length for frame in frames) + _up(len(table)))
            end = self._put(end, table)
        entries = b"".join(INDEX_ENTRY.pack(*entry) for entry in index)
        checksum = xxh3_64_intdigest(entries, self._head.pack ^ self._key)
        size = _file_end(end, len(index))
        trailer = encode_pack_trailer(PackTrailer(self._head.pack, end, len(index), checksum))
        rest = entries + bytes(size - end - len(entries) - TRAILER_SIZE) + trailer
        self._into[end:size] = rest
        shares[0] += size - sum(shares)
        members = tuple(
            PackedMember(entry.segment, entry.base, share, self._blocks[entry.segment])
            for entry, share in zip(index, shares, strict=True)
        )
        return BuiltPack(self._into[:size], members)

    def _put(self, start: int, part: bytes) -> int:
        """Zeros up to the next unit behind it; where that is."""
        end = _up(start + len(part))
        self._into[start:end] = part + bytes(end - start - len(part))
        return end
