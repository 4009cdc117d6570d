"""Whole files: any flipped bit that a reader may rely on is found, and what is sound is found sound."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from sds.core.address import UNIT
from sds.core.errors import Corrupt
from sds.core.frame import BLOCKS, DATA, HEADER_SIZE, NODE, PAD, RAW, SEAL, pool_key
from sds.core.pack import MemberHead, PackBuilder, PackHead
from sds.core.segment import TRAILER_SIZE
from sds.log.open_segment import OpenSegment
from sds.maintenance.verify import Findings, StoredFrame, frames_of, verify_pack, verify_segment
from sds.pool.rows import SegmentRow

POOL = bytes(range(16))
KEY = pool_key(POOL)
FAMILY, PACK = 3, 9
SIZE = 128 << 10


def written(id: int, chance: random.Random, frames: int) -> OpenSegment:
    made = OpenSegment(
        id=id, dataset=1, epoch=2, key=KEY, slot=0, view=memoryview(bytearray(SIZE)), copies=(1,), reserved=False
    )
    made.begin(POOL, 0, 100)
    for sequence in range(100, 100 + frames):
        match chance.randrange(4):
            case 0:
                data = chance.randbytes(4096)
                made.append(DATA, RAW, 0, 1, data, 4096, 1, sequence, sequence, 0)
            case 1:
                blocks = chance.randint(2, 4)
                made.append(DATA, BLOCKS, 0, blocks, chance.randbytes(4096 * blocks), 4096 * blocks, 1, 7, sequence, 0)
            case 2:
                data = chance.randbytes(chance.randint(1, 999))
                made.append(NODE, RAW, 0, 0, data, len(data), 0, 0, sequence, 0)
            case _:
                if not made.pad(sequence, 0):
                    made.append(NODE, RAW, 0, 0, b"node", 4, 0, 0, sequence, 0)
    return made


def sealed(id: int, chance: random.Random, frames: int = 12) -> tuple[memoryview, SegmentRow, OpenSegment]:
    made = written(id, chance, frames)
    made.seal(100 + frames, 0)
    return made.view[: made.tail], SegmentRow(id, 1, 2, (1,), True, made.tail, FAMILY, 0, made.blocks), made


def packed(chance: random.Random) -> tuple[memoryview, list[SegmentRow]]:
    builder = PackBuilder(
        PackHead(POOL, FAMILY, PACK), [MemberHead(id, 1, 2, 1) for id in (5, 6, 7)], memoryview(bytearray(SIZE * 3))
    )
    for id in (7, 5, 6):
        data, row, _ = sealed(id, chance)
        kept = [frame for frame in frames_of(data, row, POOL) if chance.random() < 0.6]
        for frame in chance.sample(kept, len(kept)):
            builder.add(id, frame.old_offset, frame.data)
    made = builder.finish()
    rows = [
        SegmentRow(m.segment, 1, 2, (1,), True, m.size_bytes, FAMILY, 1, m.blocks, PACK, m.base) for m in made.members
    ]
    return made.data, rows


def check(data: memoryview, row: SegmentRow) -> Findings:
    return verify_segment(data, row, POOL, KEY)


def check_pack(data: memoryview, rows: list[SegmentRow]) -> Findings:
    return verify_pack(data, rows, FAMILY, POOL, KEY)


def bits(data: memoryview, covered: list[range], chance: random.Random, count: int) -> Iterator[int]:
    """Flips one bit after the other that lies in what is covered."""
    places = [at for part in covered for at in part]
    for at in chance.choices(places, k=count):
        bit = 1 << chance.randrange(8)
        data[at] ^= bit
        yield at
        data[at] ^= bit


def covered(data: memoryview, made: OpenSegment, seal: int) -> list[range]:
    found = [range(128), range(len(data) - TRAILER_SIZE, len(data))]
    for at in (*made.offsets[:-1], seal):
        kind, stored = data[at + 12], int.from_bytes(data[at + 16 : at + 20], "little")
        found.append(range(at, at + HEADER_SIZE + (0 if kind == PAD else stored)))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_bit_in_a_sealed_segment_is_found(seed: int) -> None:
    chance = random.Random(seed)
    data, row, made = sealed(5, chance)
    found = check(data, row)
    assert found.ok and found.problem == ""
    assert (found.frames, found.blocks) == (13, made.blocks)
    for at in bits(data, covered(data, made, made.offsets[-1]), chance, 150):
        damaged = check(data, row)
        assert not damaged.ok, f"a flipped bit at {at} of {len(data)} was not found"
        assert damaged.problem.isprintable() and damaged.problem
    assert check(data, row).ok


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_bit_anywhere_in_a_pack_is_found(seed: int) -> None:
    chance = random.Random(seed)
    data, rows = packed(chance)
    found = check_pack(data, rows)
    assert found.ok and found.blocks == sum(row.blocks for row in rows)
    for at in bits(data, [range(len(data))], chance, 80):
        assert not check_pack(data, rows).ok, f"a flipped bit at {at} of {len(data)} was not found"
    for at in bits(data, [range(128), range(rows[0].base, len(data))], chance, 150):
        assert not check_pack(data, rows).ok, f"a flipped bit at {at} of {len(data)} was not found"


def test_a_file_that_is_not_the_one_of_the_catalog_is_found() -> None:
    data, row, _ = sealed(5, random.Random(1))
    for other in (
        replace(row, id=6), replace(row, dataset=2), replace(row, epoch=3), replace(row, generation=1),
        replace(row, size_bytes=row.size_bytes - 4096), replace(row, blocks=row.blocks + 1),
    ):  # fmt: skip
        assert not check(data, other).ok
    assert not check(data[:-4096], row).ok
    assert not check(data[:64], row).ok
    assert not verify_segment(data, row, bytes(16), KEY).ok
    assert not verify_segment(data, row, POOL, KEY + 1).ok


def test_a_pack_that_is_not_the_one_of_the_catalog_is_found() -> None:
    data, rows = packed(random.Random(1))
    first = rows[0]
    for other in (
        replace(first, id=4), replace(first, dataset=2), replace(first, epoch=3), replace(first, generation=2),
        replace(first, base=rows[1].base), replace(first, blocks=first.blocks + 1), replace(first, pack=8),
    ):  # fmt: skip
        assert not check_pack(data, [other, *rows[1:]]).ok
    assert not verify_pack(data, rows, FAMILY + 1, POOL, KEY).ok
    assert not verify_pack(data, rows, FAMILY, bytes(16), KEY).ok
    assert not check_pack(data[:-4096], rows).ok
    assert not check_pack(data[:0], rows).ok
    assert check_pack(data, rows[1:]).ok, "a member whose row is gone does no harm"


def test_a_segment_that_a_crash_cut_is_sound_where_it_ends_with_zeros_or_half_a_frame() -> None:
    chance = random.Random(3)
    for frames in range(12):
        made = written(5, chance, frames)
        size = made.tail + -made.tail % 4096
        row = SegmentRow(5, 1, 2, (1,), True, size, FAMILY, 0, made.blocks)
        whole = check(made.view[:size], row)
        assert whole.ok and whole.frames == frames
        if made.tail % 4096:
            made.append(DATA, RAW, 0, 1, bytes(4096), 4096, 1, 1, 100 + frames, 0)
            assert check(made.view[:size], row).ok, "the next frame was cut with the file"


def test_a_damaged_frame_of_a_cut_segment_is_found() -> None:
    chance = random.Random(4)
    for _ in range(20):
        made = written(5, chance, 10)
        size = made.tail + -made.tail % 4096
        row = SegmentRow(5, 1, 2, (1,), True, size, FAMILY)
        for at in made.offsets:
            made.view[at + 9] ^= 4
            found = check(made.view[:size], row)
            made.view[at + 9] ^= 4
            assert not found.ok


def test_a_seal_frame_without_its_trailer_is_a_cut_and_with_a_damaged_one_is_damage() -> None:
    data, row, _ = sealed(5, random.Random(5))
    trailer = bytes(data[-TRAILER_SIZE:])
    data[-TRAILER_SIZE:] = bytes(TRAILER_SIZE)
    assert check(data, row).ok
    data[-TRAILER_SIZE:] = trailer[:-1] + b"\0" if trailer[-1] else trailer[:-2] + b"\0\0"
    assert not check(data, row).ok


def test_the_frames_of_a_segment_are_the_same_in_its_own_file_and_in_a_pack() -> None:
    chance = random.Random(6)
    data, row, made = sealed(5, chance)
    frames = list(frames_of(data, row, POOL))
    assert all(frame.header.kind not in (PAD, SEAL) for frame in frames)
    assert [f.old_offset for f in frames] == [at for at in made.offsets if data[at + 12] not in (PAD, SEAL)]
    builder = PackBuilder(PackHead(POOL, FAMILY, PACK), [MemberHead(5, 1, 2, 1)], memoryview(bytearray(SIZE)))
    for frame in reversed(frames):
        builder.add(5, frame.old_offset, frame.data)
    pack = builder.finish()
    there = replace(row, generation=1, pack=PACK, base=pack.members[0].base)
    again = list(frames_of(pack.data, there, POOL))
    assert [(f.header, f.old_offset, bytes(f.data)) for f in again] == [
        (f.header, f.old_offset, bytes(f.data)) for f in frames
    ]
    assert pack.members[0].base % UNIT == 0


def test_the_cleaner_is_given_no_damaged_frame() -> None:
    data, row, made = sealed(5, random.Random(7))
    data[made.offsets[3] + 70] ^= 1
    got: list[StoredFrame] = []
    with pytest.raises(Corrupt):
        got.extend(frames_of(data, row, POOL))
    assert all(frame.old_offset < made.offsets[3] for frame in got)
    packed_data, rows = packed(random.Random(7))
    with pytest.raises(Corrupt, match="another segment"):
        list(frames_of(packed_data, replace(rows[0], generation=2), POOL))
