"""Space comes back, and never any that somebody needs."""

import random
from collections import Counter

import pytest
import trio

from sds.core.errors import Busy, NoSpace
from sds.core.node import Node
from sds.daemon.destroying import destroy_snapshot
from sds.daemon.operations import Operations
from sds.daemon.sweeper import Sweeper
from sds.dataset.nodes import Nodes
from sds.log.reader import FrameReader
from sds.maintenance.orphans import delete_orphans
from sds.maintenance.sweep import sweep_family
from sds.pool.rows import SnapshotRow
from tests.maintenance.world import BLOCK, ME, SEGMENT_SIZE, SIZE_BYTES, Crash, World, Writer, in_world


async def rows(world: World) -> set[int]:
    return {row.id for row in world.pool.catalog.all_segments()}


def test_overwritten_segments_go_and_everything_reads_as_before() -> None:
    async def work(world: World) -> None:
        async with world.open() as here:
            writer = Writer(here, seed=1)
            await writer.fill()
            await writer.fill()
            before = await world.backend.segment_files()
            here.sweeper.note_change()
            swept = await here.sweeper.sweep()
            assert swept.size_bytes >= SIZE_BYTES - 2 * SEGMENT_SIZE
            after = await world.backend.segment_files()
            assert before - after == swept.ids
            await writer.verify()
        async with world.open() as here:
            await Writer(here, 1, writer.model).verify()

    in_world(work)


def test_a_snapshot_keeps_its_segments_until_it_is_destroyed() -> None:
    async def work(world: World) -> None:
        async with world.open() as here:
            writer = Writer(here, seed=1)
            await writer.fill()
            await here.operations.snapshot("a")
            kept = bytes(writer.model)
            await writer.fill()
            await here.operations.checkpoint()
            await here.sweeper.sweep()
            snapshot = world.pool.catalog.snapshot(here.dataset.row.id, "a")
            assert await world.content("vm", snapshot) == kept
            await here.operations.destroy_snapshot("a")
            assert (await here.sweeper.sweep()).size_bytes >= SIZE_BYTES - 2 * SEGMENT_SIZE
            await writer.verify()

    in_world(work)


def test_a_clone_outlives_its_parent_and_with_the_last_of_a_family_all_is_gone() -> None:
    async def work(world: World) -> None:
        catalog = world.pool.catalog
        async with world.open() as here:
            writer = Writer(here, seed=1)
            await writer.fill()
            await here.operations.snapshot("a")
            await here.operations.checkpoint()
        parent = catalog.dataset("vm")
        snapshot = catalog.snapshot(parent.id, "a")
        clone = catalog.create_dataset("clone", "volume", SIZE_BYTES, {}, snapshot)
        catalog.destroy_snapshot(snapshot.id)
        catalog.destroy_dataset(parent.id)
        await world.sweep("clone")
        async with world.open("clone") as here:
            await Writer(here, 1, writer.model).verify()
        catalog.destroy_dataset(clone.id)
        reader = FrameReader(world.pool, world.env, {})
        await sweep_family(world.pool, clone.family, Nodes(reader, None), world.env)
        reader.close()
        assert await world.backend.segment_files() == set()
        assert catalog.families() == []

    in_world(work)


def test_rows_go_first_then_a_backup_then_files() -> None:
    async def work(world: World) -> None:
        async with world.open() as here:
            writer = Writer(here, seed=1)
            await writer.fill()
            await writer.fill()
            await here.operations.checkpoint()
            world.backend.history.clear()
            swept = await here.sweeper.sweep()
            history = world.backend.history
            first_file = next(i for i, (what, name) in enumerate(history) if name.startswith("segments/"))
            assert any(what == "put" and name.startswith("catalog/") for what, name in history[:first_file])
            assert swept.ids.isdisjoint(await rows(world))

    in_world(work)


def test_with_a_snapshot_that_is_still_being_written_nothing_is_swept() -> None:
    async def work(world: World) -> None:
        async with world.open() as here:
            writer = Writer(here, seed=1)
            await writer.fill()
            await writer.fill()
            await here.operations.checkpoint()
            pending = SnapshotRow(1 << 20, here.dataset.row.id, "pending", 1, SIZE_BYTES, None)
            world.pool.catalog.add_snapshot(
                pending.dataset, here.dataset.epoch, pending.id, pending.name, pending.sequence, pending.size_bytes
            )
            assert (await world.sweep()).segments == 0
            world.pool.catalog.destroy_snapshot(pending.id)
            assert (await world.sweep()).segments > 0

    in_world(work)


class CloningNodes(Nodes):
    """Makes a clone while the first mark is under way."""

    def __init__(self, world: World) -> None:
        super().__init__(FrameReader(world.pool, world.env, {}), None)
        self._world = world
        self.reads: Counter[int] = Counter()

    async def read_node(self, address: int) -> Node:
        catalog = self._world.pool.catalog
        parent = catalog.dataset("vm")
        if not self.reads:
            snapshot = catalog.snapshot(parent.id, "late")
            catalog.create_dataset("clone", "volume", SIZE_BYTES, {}, snapshot)
        self.reads[address] += 1
        return await super().read_node(address)


def test_a_mark_that_is_stale_is_made_anew() -> None:
    async def work(world: World) -> None:
        async with world.open() as here:
            writer = Writer(here, seed=1)
            await writer.fill()
            await here.operations.snapshot("late")
            kept = bytes(writer.model)
            await writer.fill()
            await here.operations.checkpoint()
            await writer.fill()
            await here.operations.checkpoint()
            nodes = CloningNodes(world)
            await sweep_family(world.pool, here.dataset.row.family, nodes, world.env)
            assert set(nodes.reads.values()) == {2}
            assert await world.content("clone") == kept

    in_world(work)


def test_a_snapshot_destroyed_after_a_crash_in_the_middle_of_a_rollback_to_it_is_not_missed() -> None:
    """The log has the rollback, the catalog does not: destroying the snapshot must recover the dataset first."""

    async def work(world: World) -> None:
        async with world.open() as here:
            writer = Writer(here, seed=1)
            await writer.fill()
            await here.operations.snapshot("a")
            kept = bytes(writer.model)
            await writer.fill()
            await here.operations.checkpoint()
        world.crash_on.add("rolled_back")
        with pytest.raises(Crash):
            await _roll_back(world)
        world.crash_on.clear()
        await destroy_snapshot(world.pool, world.pool.catalog.dataset("vm"), "a", world.env, ME)
        await world.sweep()
        async with world.open() as here:
            await Writer(here, 1, kept).verify()

    in_world(work)


async def _roll_back(world: World) -> None:
    async with world.open() as here:
        await here.operations.rollback("a")


@pytest.mark.parametrize("seed", range(6))
def test_sweeps_beside_writes_snapshots_rollbacks_and_clones_lose_nothing(seed: int) -> None:
    async def work(world: World) -> None:
        rng = random.Random(seed)
        kept: dict[str, bytes] = {}
        clones: dict[str, bytes] = {}
        async with world.open() as here:
            writer = Writer(here, seed)
            await writer.fill()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_sweep_forever, here.sweeper)
                for step in range(40):
                    await writer.write(rng.randrange(120))
                    await _structural(world, here.operations, writer, rng, step, kept, clones)
                nursery.cancel_scope.cancel()
            await writer.verify()
        await world.sweep()
        dataset = world.pool.catalog.dataset("vm")
        assert await world.content("vm") == writer.model
        for name, content in kept.items():
            assert await world.content("vm", world.pool.catalog.snapshot(dataset.id, name)) == content, name
        for name, content in clones.items():
            assert await world.content(name) == content, name

    in_world(work)


async def _sweep_forever(sweeper: Sweeper) -> None:
    while True:
        try:
            await sweeper.sweep()
        except Busy:
            await trio.lowlevel.checkpoint()  # the family changed faster than it was marked


async def _structural(
    world: World, operations: Operations, writer: Writer, rng: random.Random, step: int, kept: dict[str, bytes],
    clones: dict[str, bytes],
) -> None:  # fmt: skip
    choice, names = rng.randrange(8), sorted(kept)
    if choice < 3:
        await operations.snapshot(f"s{step}")
        kept[f"s{step}"] = bytes(writer.model)
    elif choice == 3:
        await operations.checkpoint()
    elif choice == 4 and names:
        name = rng.choice(names)
        await operations.rollback(name)
        writer.model[:] = kept[name]
    elif choice == 5 and names:
        name = rng.choice(names)
        await operations.checkpoint()
        row = world.pool.catalog.snapshot(writer.here.dataset.row.id, name)
        world.pool.catalog.create_dataset(f"c{step}", "volume", SIZE_BYTES, {}, row)
        clones[f"c{step}"] = kept[name]
    elif choice == 6 and names:
        name = rng.choice(names)
        await operations.destroy_snapshot(name)
        del kept[name]


def test_a_full_pool_refuses_writes_and_resumes_by_itself_after_a_trim() -> None:
    async def work(world: World) -> None:
        async with world.open() as here, trio.open_nursery() as nursery:
            nursery.start_soon(here.sweeper.run)
            writer = Writer(here, seed=1)
            await writer.fill()
            with pytest.raises(NoSpace):
                await _fill_up(here.operations, writer)
            await writer.verify()
            for row in world.pool.catalog.snapshots(here.dataset.row.id):
                await here.operations.destroy_snapshot(row.name)
            await here.volume.trim(0, SIZE_BYTES // 2)
            writer.model[: SIZE_BYTES // 2] = bytes(SIZE_BYTES // 2)
            with trio.fail_after(20):
                while True:
                    try:
                        await writer.put(0, b"x" * BLOCK)
                        break
                    except NoSpace:
                        await trio.sleep(0.01)
            await writer.verify()
            nursery.cancel_scope.cancel()

    in_world(work, capacity_bytes=6 * SIZE_BYTES)


async def _fill_up(operations: Operations, writer: Writer) -> None:
    for number in range(1000):
        await operations.snapshot(f"s{number}")
        await writer.fill()


def test_files_without_a_row_are_deleted_unless_somebody_may_need_them() -> None:
    async def work(world: World) -> None:
        async with world.open() as here:
            writer = Writer(here, seed=1)
            await writer.fill()
            mine, foreign = here.dataset.row.id, 77
        for dataset in (mine, foreign):
            await world.backend.create(f"segments/{dataset:08x}/0000000fff-00000001", 8192)
        found = await delete_orphans(world.pool, world.env, busy={mine}, with_unknown=False)
        assert (found.files, found.unknown_files) == (0, 1)
        found = await delete_orphans(world.pool, world.env, busy=(), with_unknown=False)
        assert (found.files, found.size_bytes, found.unknown_files) == (1, 8192, 1)
        assert (await delete_orphans(world.pool, world.env, busy=(), with_unknown=True)).files == 1
        assert await world.backend.segment_files() == await rows(world)
        assert await world.content("vm") == writer.model

    in_world(work)
