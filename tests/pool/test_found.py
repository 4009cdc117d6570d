"""What an import finds on the backends: segments, packs, damaged packs, impossible names."""

import random
from dataclasses import replace

import pytest
import trio

from backends.faulty import FaultPlan, Faulty
from backends.memory import MemoryBackend
from sds.core.address import SEGMENT_ID_MAX
from sds.core.errors import BackendError
from sds.core.frame import DATA, HEADER, MAGIC, RAW
from sds.core.names import DATASET_ID_MAX, EPOCH_MAX, pack_name, segment_name
from sds.core.pack import BuiltPack, MemberHead, PackBuilder, PackHead
from sds.pool.catalog import MEMORY_POOL, Catalog
from sds.pool.found import Found, find_segments
from sds.pool.rows import PoolRow, SegmentRow

SEGMENT_SIZE = 64 << 10
POOL = PoolRow(MEMORY_POOL.uuid, "tank", SEGMENT_SIZE, 2)
NAME = pack_name(3, 9)


def built(segments: tuple[int, ...] = (5, 7), epoch: int = 2) -> BuiltPack:
    size = 4096
    head = HEADER.pack(0, MAGIC, DATA, RAW, 0, 1, size, size, 1, 0, 1, 0, 0)
    members = [MemberHead(segment, 1, epoch, 4) for segment in segments]
    builder = PackBuilder(PackHead(POOL.uuid, 3, 9), members, memoryview(bytearray(SEGMENT_SIZE)))
    for segment in segments:
        builder.add(segment, 128, memoryview(head + bytes(size)))
    return builder.finish()


def find(*files: dict[str, bytes]) -> Found:
    """On one backend for each of `files`."""

    async def work() -> Found:
        backends = {}
        for key, content in enumerate(files, 1):
            backends[key] = MemoryBackend(url=f"memory:{key}")
            for name, data in content.items():
                await backends[key].put(name, data)
        return await find_segments(backends, POOL)

    return trio.run(work)


def test_members_of_a_pack_are_found_as_the_catalog_had_them() -> None:
    pack = built()
    data = bytes(pack.data)
    found = find({NAME: data}, {NAME: data}, {})
    assert found.told == []
    assert found.rows == [
        SegmentRow(m.segment, 1, 2, (1, 2), True, m.size_bytes, 0, 4, m.blocks, 9, m.base) for m in pack.members
    ]
    assert sum(row.size_bytes for row in found.rows) == len(data)


def test_a_segment_that_is_a_file_and_in_a_pack_counts_once() -> None:
    """The older generation: whatever a checkpoint refers to was in it."""
    found = find({NAME: bytes(built().data), segment_name(1, 5, 2): bytes(4096)})
    catalog = Catalog.in_memory()
    assert catalog.create_dataset("vm", "volume", 4096).id == 1
    left_out = catalog.register_found(found.rows)
    assert [(row.id, row.pack) for row in catalog.all_segments()] == [(5, 0), (7, 9)]
    assert [(row.id, row.pack) for row in left_out] == [(5, 9)]


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_pack_is_told_and_the_good_copy_counts(seed: int) -> None:
    """Or nothing that is read here was hit: frames are verified when they are read."""
    rng = random.Random(seed)
    good = bytes(built().data)
    bad = bytearray(good)
    if seed % 3 == 0:
        bad = bad[: rng.randrange(len(bad) + 1)]
    else:
        first_table = min(member.base for member in built().members)
        at = rng.randrange(first_table, len(bad))
        bad[at] ^= rng.randrange(1, 256)
    found = find({NAME: bytes(bad)}, {NAME: good})
    expected = find({}, {NAME: good})
    assert [replace(row, copies=(2,)) for row in found.rows] == expected.rows
    assert all(2 in row.copies for row in found.rows)
    if any(1 not in row.copies for row in found.rows):
        assert any("memory:1" in line and "damaged" in line for line in found.told)
        alone = find({NAME: bytes(bad)})
        assert len(alone.rows) < 2
        assert alone.told
    else:
        assert all("memory:1" in line and "damaged" in line for line in found.told)  # scrub heals it (FI1)


def test_a_pack_of_another_pool_or_under_another_name_is_not_taken_for_ours() -> None:
    found = find({pack_name(3, 8): bytes(built().data)})
    assert found.rows == []
    assert "has no good copy" in found.told[-1]


def test_numbers_that_would_use_up_all_others_are_left_out_and_told() -> None:
    names = [
        segment_name(1, SEGMENT_ID_MAX, 1), segment_name(1, 6, EPOCH_MAX), segment_name(DATASET_ID_MAX, 6, 1),
        pack_name(1, SEGMENT_ID_MAX),
    ]  # fmt: skip
    found = find({name: bytes(4096) for name in [*names, segment_name(1, 5, 1)]})
    assert [row.id for row in found.rows] == [5]
    assert len(found.told) == len(names)
    for name in names:
        assert any(name in line for line in found.told)
    (row,) = find({NAME: bytes(built((5, SEGMENT_ID_MAX)).data)}).rows
    assert row.id == 5


def test_a_pack_that_cannot_be_read_now_is_an_error_unless_another_copy_tells() -> None:
    async def work() -> None:
        inner, other = MemoryBackend(url="memory:1"), MemoryBackend(url="memory:2")
        await inner.put(NAME, bytes(built().data))
        backend = Faulty(inner, FaultPlan(at=1, kind="read", lasting=True))
        with pytest.raises(BackendError):
            await find_segments({1: backend}, POOL)
        await other.put(NAME, bytes(built().data))
        found = await find_segments({1: backend, 2: other}, POOL)
        assert [set(row.copies) for row in found.rows] == [{1, 2}, {1, 2}]

    trio.run(work)
