"""Recovery: the cases that random and exhaustive search found, each by itself."""

import random

import pytest
import trio

from sds.core.errors import BackendError, Corrupt
from sds.core.names import segment_name
from sds.core.segment import SegmentHead, encode_head
from sds.dataset.recovery import different_pages
from sds.pool.rows import SegmentRow
from tests.sim.check import fsck, read_root, recover
from tests.sim.effects import Fate
from tests.sim.oracle import BLOCK, VolumeModel
from tests.sim.schedule import run_seeded
from tests.sim.workload import Script
from tests.sim.world import UUID, Shape, World


async def flushed_and_killed(script: Script) -> None:
    """Two flushes behind the checkpoint, then the worker dies."""
    with trio.CancelScope() as scope:
        async with script.open("v") as actor:
            for block in (0, 3):
                await actor.write(block * BLOCK, 2 * BLOCK)
                await actor.flush()
            scope.cancel()
            await trio.lowlevel.checkpoint()


def killed(shape: Shape) -> Script:
    script = Script(World.new(shape))
    script.create("v")
    run_seeded(lambda: flushed_and_killed(script), 1)
    return script


def test_recovery_leaves_pages_that_were_flushed_alone() -> None:
    """The power fails while recovery writes: sectors in flight may be garbage, so none may have been flushed."""
    script = killed(Shape(latency=2))
    world = script.world.kill()
    cuts: list[World] = []

    def cut(event: str) -> None:
        if event == "write:start" or event == "write:done":
            cuts.append(World(world.shape, [d.crash_state(Fate.GARBLE, random.Random(len(cuts))) for d in world.disks],
                              world.kill().catalog, {}))  # fmt: skip

    world.watch = cut
    run_seeded(lambda: recover(world, script.expected(False)), 1)
    assert cuts
    for other in cuts:
        run_seeded(lambda: recover(other, script.expected(True)), 2)  # noqa: B023


def test_segments_that_a_crash_ended_are_sealed_in_the_catalog() -> None:
    script = killed(Shape())
    run_seeded(lambda: recover(script.world, script.expected(False)), 1)
    rows = script.world.catalog.all_segments()
    assert all(row.sealed and row.size_bytes for row in rows)
    run_seeded(lambda: fsck(script.world), 1)


def last_used(world: World) -> str:
    used = [name for name, file in sorted(world.disks[0]._names.items()) if file.live.pages]
    return used[-1]


def test_a_damaged_head_of_a_log_segment_loses_nothing() -> None:
    script = killed(Shape())
    world = World(Shape(), [script.world.disks[0].kill_state()], script.world.kill().catalog, {})
    file = world.disks[0]._names[last_used(world)]
    page = bytearray(file.live.page(0))
    page[20] ^= 1
    file.live.write([(0, bytes(page))])
    run_seeded(lambda: recover(world, script.expected(True), orderly=False), 1)


async def flushed_in_the_second_segment_and_killed(script: Script) -> None:
    with trio.CancelScope() as scope:
        async with script.open("v") as actor:
            first = actor.dataset.log.position[0]
            while actor.dataset.log.position[0] == first:
                await actor.write(0, 5 * BLOCK)
            for block in range(3):
                await actor.write(block * BLOCK, BLOCK)
                await actor.flush()
            scope.cancel()
            await trio.lowlevel.checkpoint()


def test_a_lost_write_of_the_head_in_room_used_again_hides_nothing_that_was_flushed() -> None:
    """What is there then is the head of a segment that is gone; what was flushed behind it must still be missed."""
    script = Script(World.new(Shape()))
    script.create("v")
    run_seeded(lambda: flushed_in_the_second_segment_and_killed(script), 1)
    world = World(Shape(), [script.world.disks[0].kill_state()], script.world.kill().catalog, {})
    row = max((row for row in world.catalog.all_segments() if is_used(world, row)), key=lambda row: row.id)
    name = segment_name(row.dataset, row.id, row.epoch)
    head = SegmentHead(world.shape.segment_size, UUID, 1 << 30, row.dataset, row.epoch, 0, 1)
    world.disks[0]._names[name].live.write([(0, encode_head(head).ljust(BLOCK, b"\0"))])

    async def body() -> None:
        async with world.open("v"):
            pass

    with pytest.raises(Corrupt, match="more was flushed"):
        run_seeded(body, 1)


def is_used(world: World, row: SegmentRow) -> bool:
    return bool(world.disks[0]._names[segment_name(row.dataset, row.id, row.epoch)].live.pages)


def test_a_foreign_segment_in_the_place_of_a_log_segment_is_an_error() -> None:
    """Two files swapped: to take both for empty would drop what was flushed."""
    script = killed(Shape())
    world = World(Shape(), [script.world.disks[0].kill_state()], script.world.kill().catalog, {})
    files = world.disks[0]._names
    rows = world.catalog.all_segments()
    first, *others = [files[segment_name(row.dataset, row.id, row.epoch)] for row in rows]
    for file, row in zip(others, rows[1:], strict=True):
        head = SegmentHead(row.size_bytes, UUID, rows[0].id, row.dataset, row.epoch, 0, 1)
        file.live.write([(0, encode_head(head).ljust(BLOCK, b"\0"))])
    strange = SegmentHead(rows[1].size_bytes, UUID, rows[1].id, rows[1].dataset, rows[1].epoch, 0, 1)
    first.live.write([(0, encode_head(strange).ljust(BLOCK, b"\0"))])
    ref = world.catalog.dataset("v").checkpoint
    assert ref is not None

    async def body() -> None:
        async with world.open("v"):
            pass

    with pytest.raises(Corrupt, match="segment"):
        run_seeded(body, 1)
    assert world.catalog.all_segments() == rows


def test_a_log_whose_segment_is_gone_is_an_error_even_with_nothing_in_the_tree() -> None:
    """The checkpoint that the catalog knows must be found: its absence is the only proof there is."""
    script = killed(Shape())
    world = World(Shape(), [script.world.disks[0].kill_state()], script.world.kill().catalog, {})
    rows = world.catalog.all_segments()
    for row in rows:
        world.disks[0]._names.pop(segment_name(row.dataset, row.id, row.epoch), None)

    async def body() -> None:
        async with world.open("v"):
            pass

    with pytest.raises(Corrupt, match="checkpoint"):
        run_seeded(body, 1)
    assert world.catalog.all_segments() == rows


def test_a_missing_backend_that_alone_has_the_log_is_an_error_and_nothing_is_forgotten() -> None:
    script = killed(Shape(disks=2))
    world = World(Shape(disks=2), [d.kill_state() for d in script.world.disks], script.world.kill().catalog, {})
    before = world.catalog.all_segments()

    async def body(lost: int) -> None:
        async with world.open("v", without=frozenset((lost,))):
            pass

    ref = world.catalog.dataset("v").checkpoint
    assert ref is not None
    (holder,) = next(row.copies for row in before if row.id == ref.segment)
    with pytest.raises((Corrupt, BackendError)):
        run_seeded(lambda: body(holder - 1), 1)
    assert world.catalog.all_segments() == before
    run_seeded(lambda: recover(world, script.expected(True)), 1)


def test_only_pages_that_differ_are_written() -> None:
    one = bytearray(5 * 4096)
    other = bytearray(one)
    assert different_pages(one, other) == []
    other[4096] = other[2 * 4096] = other[4 * 4096 + 5] = 1
    assert different_pages(one, other) == [(4096, 3 * 4096), (4 * 4096, 5 * 4096)]


def test_a_snapshot_whose_tree_was_never_written_gets_it_by_replay() -> None:
    script = Script(World.new(Shape()))
    script.create("v")
    taken: list[World] = []

    async def body() -> None:
        async with script.open("v") as actor:
            await actor.write(0, 2 * BLOCK)
            await actor.snapshot("s")
            taken.append(script.world.kill())
            await actor.write(0, BLOCK)

    run_seeded(body, 1)
    world = taken[0]
    dataset = world.catalog.dataset("v").id
    assert world.catalog.snapshot(dataset, "s").root is None

    async def again() -> None:
        async with world.open("v"):
            row = world.catalog.snapshot(dataset, "s")
            assert row.root is not None
            assert await read_root(world, row.root, row.size_bytes) == script.models["v"].snapshots["s"].state

    run_seeded(again, 2)


def test_a_segment_that_was_allocated_and_never_used_does_not_end_the_log() -> None:
    """Letting go of prepared segments may be cut off or fail: a row without a file stays in the middle of the log."""
    copies: list[World] = []

    async def body() -> None:
        async with script.open("v") as actor:
            dataset = actor.dataset
            await actor.write(0, 4 * BLOCK)
            for _ in range(3):
                script.world.catalog.allocate_segment(dataset.row.id, dataset.epoch, (1,))
                for block in range(0, 60, 4):
                    await actor.write(block * BLOCK, 4 * BLOCK)
            copies.append(script.world.kill())
            expected.update(script.expected(False))

    script = Script(World.new(Shape()))
    script.create("v")
    expected: dict[str, VolumeModel] = {}
    run_seeded(body, 1)
    run_seeded(lambda: recover(copies[0], expected), 1)
