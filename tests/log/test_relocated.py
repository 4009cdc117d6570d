"""A cleaned segment reads as it did before, where something is left of it, and says so where nothing is."""

import random

import pytest
import trio

from sds.core.errors import Corrupt, Missing
from sds.core.frame import BLOCKS, DATA, HEADER_SIZE, RAW, decode_header, frame_is_valid, pool_key
from sds.core.pack import BuiltPack, MemberHead, PackBuilder, PackHead
from sds.log.open_segment import OpenSegment
from sds.log.relocated import Relocated, open_member
from sds.pool.rows import SegmentRow

POOL = bytes(range(16))
KEY = pool_key(POOL)
SIZE = 64 << 10


class File:
    """A pack in memory."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.hints: list[tuple[int, int]] = []
        self.closed = False

    def read_nowait(self, offset: int, into: memoryview) -> bool:
        if offset + len(into) > len(self.data):
            return False
        into[:] = self.data[offset : offset + len(into)]
        return True

    async def read(self, offset: int, into: memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if not self.read_nowait(offset, into):
            raise Corrupt("the file is too short")

    def will_need(self, offset: int, length: int) -> bool:
        self.hints.append((offset, length))
        return True

    def close(self) -> None:
        self.closed = True


def segment() -> OpenSegment:
    view = memoryview(bytearray(SIZE))
    made = OpenSegment(id=5, dataset=1, epoch=2, key=KEY, slot=0, view=view, copies=(1,), reserved=False)
    made.begin(POOL, 0, 1)
    chance = random.Random(1)
    for sequence in range(1, 7):
        blocks = sequence % 3 + 1
        codec = RAW if blocks == 1 else BLOCKS
        size = 4096 * blocks
        made.append(DATA, codec, 0, blocks, chance.randbytes(size), size, 1, sequence, sequence, sequence - 1)
    return made


def packed(source: OpenSegment, kept: list[int]) -> tuple[BuiltPack, SegmentRow]:
    members = [MemberHead(5, 1, 2, 1)]
    builder = PackBuilder(PackHead(POOL, 3, 9), members, memoryview(bytearray(SIZE)))
    for at in kept:
        builder.add(5, at, source.view[at:])
    made = builder.finish()
    share = made.members[0]
    return made, SegmentRow(5, 1, 2, (1,), True, share.size_bytes, 3, 1, share.blocks, 9, share.base)


def opened(file: File, row: SegmentRow) -> Relocated:
    return trio.run(open_member, file, row.base, row, KEY)


def read(file: Relocated, offset: int, length: int) -> bytes:
    data = memoryview(bytearray(length))
    assert file.read_nowait(offset, data)
    again = memoryview(bytearray(length))
    trio.run(file.read, offset, again)
    assert data == again
    return bytes(data)


def test_every_byte_of_a_kept_frame_is_read_at_its_old_offset() -> None:
    source = segment()
    kept = [source.offsets[at] for at in (4, 0, 3)]
    pack, row = packed(source, kept)
    file = opened(File(pack.data), row)
    for at in kept:
        header = decode_header(source.view, at)
        assert header is not None
        size = HEADER_SIZE + header.stored_bytes
        frame = read(file, at, size)
        assert frame_is_valid(memoryview(frame), 0, header, 5 << 24 | at >> 1, KEY)
        for within in (64, 72, size - 64):
            assert read(file, at + within, size - within) == source.view[at + within : at + size]


def test_a_frame_that_was_dropped_is_missing_and_never_other_bytes() -> None:
    source = segment()
    pack, row = packed(source, [source.offsets[1], source.offsets[4]])
    file = opened(File(pack.data), row)
    for at in (0, 64, *(source.offsets[number] for number in (0, 2, 3, 5)), source.tail, source.offsets[2] + 4096):
        data = memoryview(bytearray(64))
        assert not file.read_nowait(at, data)
        assert not any(data)
        with pytest.raises(Missing, match="look at the map again"):
            trio.run(file.read, at, data)
        assert not file.will_need(at, 64)


def test_a_read_beyond_the_end_of_the_pack_is_refused_so_that_less_is_asked_for() -> None:
    source = segment()
    pack, row = packed(source, [source.offsets[0]])
    file = opened(File(pack.data), row)
    data = memoryview(bytearray(len(pack.data)))
    assert not file.read_nowait(source.offsets[0], data)
    with pytest.raises(Corrupt, match="too short"):
        trio.run(file.read, source.offsets[0], data)
    assert len(read(file, source.offsets[0], HEADER_SIZE)) == HEADER_SIZE


def test_a_hint_goes_as_far_as_its_frame_and_close_closes_the_pack() -> None:
    source = segment()
    pack, row = packed(source, [source.offsets[0], source.offsets[1]])
    inner = File(pack.data)
    file = opened(inner, row)
    place = file.table.place(source.offsets[1])
    assert place is not None
    assert file.will_need(source.offsets[1] + 64, 1 << 20)
    assert inner.hints == [(place.new_offset + 64, place.length - 64)]
    file.close()
    assert inner.closed


@pytest.mark.parametrize("field", ["id", "dataset", "epoch", "generation", "pack"])
def test_the_table_of_another_segment_is_refused(field: str) -> None:
    source = segment()
    pack, row = packed(source, [source.offsets[0]])
    fields = {name: getattr(row, name) for name in row.__slots__}
    with pytest.raises(Corrupt, match="another segment"):
        opened(File(pack.data), SegmentRow(**{**fields, field: fields[field] + 1}))


def test_a_damaged_or_misplaced_table_is_refused() -> None:
    source = segment()
    pack, row = packed(source, [source.offsets[0]])
    for at in (row.base, row.base + 45, row.base + 60, row.base + 70):
        pack.data[at] ^= 1
        with pytest.raises(Corrupt):
            opened(File(pack.data), row)
        pack.data[at] ^= 1
    for base in (row.base - 64, len(pack.data) - 64, len(pack.data) - 32):
        with pytest.raises(Corrupt):
            trio.run(open_member, File(pack.data), base, row, KEY)
