"""Copies in the simulator: damage, disks that are lost or replaced, moves beside writers."""

import random
from collections.abc import Callable

import pytest
import trio

from backends.faulty import FaultPlan
from sds.core.errors import SdsError
from sds.pool.label import Label, write_label
from tests.sim.disk import SimDisk
from tests.sim.effects import File
from tests.sim.image import image_of
from tests.sim.oracle import BLOCK
from tests.sim.schedule import run_seeded
from tests.sim.store_check import missing_files, recover, verify
from tests.sim.store_sequences import PART, SHAPES, base, fork
from tests.sim.store_workload import StoreScript, flip_bits, move, scrub
from tests.sim.store_world import StoreWorld
from tests.sim.world import UUID


def files_on(world: StoreWorld, which: int) -> list[str]:
    """Of sealed segments, on a disk or store."""
    listed = world.disks[which]._names if which < len(world.disks) else world.stores[0].objects.names()
    rows = {row.id for row in world.catalog.all_segments() if row.sealed}
    assert rows
    return sorted(name for name in listed if name.startswith(("segments/", "packs/")))


def damage(world: StoreWorld, which: int, name: str, change: Callable[[bytes], bytes]) -> None:
    if which < len(world.disks):
        disk = world.disks[which]
        content = disk.peek(name)
        assert content is not None
        disk._names[name] = disk._durable_names[name] = File.of(image_of(change(content)))
    else:
        objects = world.stores[0].objects
        content = objects.peek(name)
        assert content is not None
        objects.plant(name, change(content))


@pytest.mark.parametrize("which", ["disk-store", "2of2", "2of3"])
def test_flipped_bits_in_one_copy_are_read_past_healed_and_told(which: str) -> None:
    for seed in range(3):
        script = fork(base(SHAPES[which], False))
        world, rng = script.here, random.Random(seed)
        where = seed % (len(world.disks) + len(world.stores))
        names = files_on(world, where)
        for name in names:
            damage(world, where, name, lambda content: flip_bits(content, rng))  # noqa: B023

        async def body(script: StoreScript = script, names: list[str] = names) -> None:
            async with script.open("v") as a:
                await a.check()
                found = await scrub(script.here)
                assert {finding.outcome for finding in found.findings} <= {"healed"}
                healed = {finding.name for finding in found.findings}
                assert healed and healed <= set(names)
                await a.check()
            assert not (await scrub(script.here)).findings
            await verify(script.here)

        run_seeded(body, seed)
        world.close()


@pytest.mark.parametrize("which", ["2of2", "2of3", "disk-store"])
def test_a_disk_that_comes_back_empty_gets_all_its_copies_again(which: str) -> None:
    script = fork(base(SHAPES[which], False))
    world = script.here

    async def body() -> None:
        old = world.disks[0]
        row = world.catalog.backends()[0]
        world.disks[0] = empty = SimDisk(99, url=old.url)
        await write_label(empty, Label(UUID.hex(), "sim", row.uuid, 0))
        async with script.open("v") as a:
            await a.check()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.write, 0, PART)
                found = await scrub(world)
            assert found.is_sound and len(found.findings) > 2
            await move(script, "resilver")
            await a.check()
        assert not missing_files(world)
        await verify(world)
        assert not (await scrub(world)).findings
        await recover(world.kill(), script.expected(False))

    run_seeded(body, 5)


def test_without_one_disk_of_three_all_goes_on_and_a_resilver_brings_the_copies_back() -> None:
    script = fork(base(SHAPES["2of3"], False))
    world = script.here

    async def body() -> None:
        world.lost = frozenset({world.disks[2].url})
        async with script.open("v") as a:
            for number in range(10):
                await a.write(number * PART, PART)
            await a.upload()
            await a.check()
            assert not await move(script, "resilver")
            await a.clean()
            await a.check()
            reached = [[copy for copy in row.copies if copy != 3] for row in world.catalog.all_segments() if row.sealed]
            assert all(len(copies) == 2 for copies in reached)
        world.lost = frozenset()
        await move(script, "resilver")
        assert all(len(row.copies) == 2 for row in world.catalog.all_segments())
        await verify(world)
        assert not (await scrub(world)).findings
        await recover(world.kill(), script.expected(False))

    run_seeded(body, 6)


def test_an_evacuation_beside_a_writer_leaves_nothing_behind_and_loses_nothing() -> None:
    for seed in range(4):
        script = fork(base(SHAPES["2of3"], False))
        world = script.here

        def heard(place: str, event: str, name: str, world: StoreWorld = world) -> None:
            if event == "catalog:end" or event.startswith("delete:"):
                assert not missing_files(world), (place, event, name)

        async def body(script: StoreScript = script, world: StoreWorld = world) -> None:
            async with script.open("v") as a:
                world.catalog.set_backend_state(1, "draining")
                world.listen = heard

                async def write() -> None:
                    for number in range(20):
                        await a.write(number * PART % (200 * BLOCK), PART)
                        await a.flush()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(write)
                    nursery.start_soon(a.clean)
                    for _ in range(3):
                        await move(script, "evacuate")
                await a.dataset.log.rest()
                await a.checkpoint()
                await a.dataset.log.settle()
                await a.checkpoint()
                await move(script, "evacuate")
                assert all(1 not in row.copies for row in world.catalog.all_segments())
                world.listen = None
                await a.check()
            await verify(world)
            world.lost = frozenset({world.disks[0].url})
            await recover(world, script.expected(False))

        run_seeded(body, seed)
        world.close()
        assert script.moved


def test_an_error_of_one_disk_at_every_operation_of_a_move_loses_nothing() -> None:
    start = base(SHAPES["2of3"], False)
    at, fired = 0, True
    while fired:
        at += 3
        script = fork(start)
        world = script.here
        plan = FaultPlan(at)

        async def body(script: StoreScript = script, world: StoreWorld = world, plan: FaultPlan = plan) -> None:
            world.catalog.set_backend_state(1, "draining")
            world.disks[1].faults = plan
            try:
                await move(script, "evacuate")
            except SdsError:
                assert plan.fired
            world.disks[1].faults = FaultPlan()
            assert not missing_files(world)
            await move(script, "evacuate")
            await verify(world)
            await recover(world, script.expected(False))

        run_seeded(body, at)
        world.close()
        fired = bool(plan.fired)
    assert at > 12
