"""Packs: what is put in comes out, damage and nonsense are refused."""

import random
from itertools import pairwise

import pytest
from xxhash import xxh3_64_intdigest

from sds.core.errors import Corrupt
from sds.core.frame import DATA, HEADER, HEADER_SIZE, MAGIC, RAW, pool_key
from sds.core.pack import (
    INDEX_ENTRY,
    TABLE,
    TABLE_MAGIC,
    TABLE_SIZE,
    TRAILER_SIZE,
    BuiltPack,
    MemberHead,
    PackBuilder,
    PackHead,
    PackTrailer,
    Placed,
    decode_index,
    decode_pack_head,
    decode_pack_trailer,
    decode_table,
    decode_table_head,
    encode_table,
)

POOL = bytes(range(16))
KEY = pool_key(POOL)
HEAD = PackHead(POOL, 3, 9)
SIZE = 64 << 10


def frame(blocks: int = 1) -> memoryview:
    size = 4096 * blocks
    head = HEADER.pack(0, MAGIC, DATA, RAW, 0, blocks, size, size, 1, 0, 1, 0, 0)
    return memoryview(head + bytes([blocks]) * size + b"behind")


def member(segment: int) -> MemberHead:
    return MemberHead(segment, 1, 2, 1)


def built(frames: list[tuple[int, int, int]]) -> BuiltPack:
    """Of (segment, old offset, blocks)."""
    into = memoryview(bytearray(b"\xee" * SIZE))
    builder = PackBuilder(HEAD, [member(segment) for segment in range(1, 9)], into)
    for segment, offset, blocks in frames:
        builder.add(segment, offset, frame(blocks))
    return builder.finish()


def test_every_frame_is_found_where_its_table_says_and_nothing_else_is() -> None:
    frames = [(7, 8192, 1), (5, 128, 2), (7, 128, 1), (5, 20032, 1)]
    pack = built(frames)
    assert decode_pack_head(pack.data) == HEAD
    trailer = decode_pack_trailer(pack.data[-TRAILER_SIZE:], len(pack.data))
    index = decode_index(pack.data[trailer.index_offset :][: trailer.index_bytes], trailer, KEY)
    assert [(entry.segment, entry.base) for entry in index] == [(m.segment, m.base) for m in pack.members]
    assert [entry.segment for entry in index] == [5, 7]
    for segment, offset, blocks in frames:
        base = next(entry.base for entry in index if entry.segment == segment)
        table = decode_table(pack.data[base:], base, KEY)
        assert table.head.member == member(segment)
        size = HEADER_SIZE + 4096 * blocks
        for within in (0, 1, 64, size - 1):
            place = table.place(offset + within)
            assert place is not None and place.old_offset == offset and place.length == size
            assert pack.data[place.new_offset :][:size] == frame(blocks)[:size]
        assert table.place(offset - 1) is None
        assert table.place(offset + size) is None


def test_the_shares_of_the_members_add_up_to_the_file() -> None:
    pack = built([(1, 128, 1), (2, 128, 3), (4, 64 * 99, 2)])
    assert sum(member.size_bytes for member in pack.members) == len(pack.data)
    assert [member.blocks for member in pack.members] == [1, 3, 2]
    assert len(pack.data) % 4096 == 0


def test_what_fits_is_known_before_and_a_pack_is_filled_up_to_its_last_page() -> None:
    builder = PackBuilder(HEAD, [member(segment) for segment in range(1, 9)], memoryview(bytearray(SIZE)))
    chance, count = random.Random(1), 0
    while builder.fits(segment := chance.randint(1, 8), HEADER_SIZE + 4096):
        builder.add(segment, 128 + 4160 * count, frame())
        count += 1
    assert count == 15
    assert len(builder.finish().data) <= SIZE


def test_a_table_with_a_flipped_bit_is_refused() -> None:
    pack = built([(5, 128, 2), (5, 20032, 1)])
    base = pack.members[0].base
    stored = pack.data[base : base + TABLE_SIZE + 24]
    assert len(decode_table(stored, base, KEY)) == 2
    for bit in range(8 * len(stored)):
        stored[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corrupt):
            decode_table(stored, base, KEY)
        stored[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Corrupt, match="checksum"):
        decode_table(stored, base, KEY + 1)
    with pytest.raises(Corrupt, match="cut off"):
        decode_table(stored[:-1], base, KEY)


@pytest.mark.parametrize(
    "frames",
    [
        [Placed(64, 128, 64)],  # in the head of the segment
        [Placed(128, 64, 64)],  # in the head of the pack
        [Placed(128, 4096 - 64, 128)],  # reaches into the table
        [Placed(128, 128, 0)],
        [Placed(128, 128, 128), Placed(192, 256, 64)],  # over each other, before
        [Placed(128, 128, 128), Placed(256, 192, 64)],  # over each other, now
        [Placed(256, 128, 64), Placed(128, 192, 64)],  # not sorted
        [Placed(32 << 20, 128, 64)],
    ],
)
def test_a_table_that_makes_no_sense_is_refused_though_its_checksum_holds(frames: list[Placed]) -> None:
    with pytest.raises(Corrupt, match="over each other or outside"):
        decode_table(encode_table(member(5), 9, 1, frames, KEY), 4096, KEY)


def test_a_length_in_a_table_is_refused_before_anything_is_read_by_it() -> None:
    for count in (0, 65, 1 << 31):
        head = TABLE.pack(TABLE_MAGIC, 5, 1, 2, 9, 1, count, 1, 0, 0)
        with pytest.raises(Corrupt, match="makes no sense"):
            decode_table_head(head, 4096)
    for base in (0, 4097, 64 << 20):
        with pytest.raises(Corrupt, match="no relocation table"):
            decode_table_head(TABLE.pack(TABLE_MAGIC, 5, 1, 2, 9, 1, 1, 1, 0, 0), base)


def test_a_trailer_or_index_with_a_flipped_bit_or_a_file_of_another_size_is_refused() -> None:
    pack = built([(5, 128, 2), (7, 128, 1)])
    data = pack.data
    trailer = decode_pack_trailer(data[-TRAILER_SIZE:], len(data))
    for size in (len(data) - 4096, len(data) + 4096, 0):
        with pytest.raises(Corrupt):
            decode_pack_trailer(data[-TRAILER_SIZE:], size)
    for at in [*range(128), *range(trailer.index_offset, trailer.index_offset + 32), *range(len(data) - 64, len(data))]:
        for bit in range(8):
            data[at] ^= 1 << bit
            with pytest.raises(Corrupt):
                decode_all(data)
            data[at] ^= 1 << bit


def decode_all(data: memoryview) -> None:
    decode_pack_head(data)
    found = decode_pack_trailer(data[-TRAILER_SIZE:], len(data))
    decode_index(data[found.index_offset :][: found.index_bytes], found, KEY)


def test_an_index_with_gaps_or_in_disorder_is_refused_though_its_checksum_holds() -> None:
    right = [(5, 4096, 76), (7, 4224, 76)]
    wrong = [
        [(5, 4096, 76), (7, 4288, 76)], [(7, 4096, 76), (5, 4224, 76)], [(5, 4096, 76), (5, 4224, 76)],
        [(0, 4096, 76), (7, 4224, 76)], [(5, 4096, 140), (7, 4224, 76)], [(5, 4096, 76), (7, 4224, 204)],
    ]  # fmt: skip
    for entries in (right, *wrong):
        data = b"".join(INDEX_ENTRY.pack(*entry) for entry in entries)
        trailer = PackTrailer(9, 4352, 2, xxh3_64_intdigest(data, 9 ^ KEY))
        if entries is right:
            found = decode_index(data, trailer, KEY)
            assert all(a.base < b.base for a, b in pairwise(found))
            continue
        with pytest.raises(Corrupt, match="the index of pack 0x9"):
            decode_index(data, trailer, KEY)
