"""An error at every i-th operation of the backends, and a pool without room: filesystems lose nothing, and nothing is
left half done."""

import random
from contextlib import suppress
from typing import Literal

import pytest

from backends.faulty import FaultPlan
from sds.core.errors import BackendError, Failed, NoSpace, SdsError
from tests.sim.check import fsck
from tests.sim.fs_check import FsExpected, recover_fs
from tests.sim.fs_scripts import WORKLOADS, Body, name_of, prepared
from tests.sim.fs_state import BLOCK
from tests.sim.fs_workload import FsActor, FsScript
from tests.sim.schedule import run_seeded
from tests.sim.world import SEGMENT_SIZE, Shape, World

FAULTS: tuple[tuple[type[SdsError], Literal["before", "after"]], ...] = (
    (BackendError, "before"),
    (BackendError, "after"),
    (NoSpace, "before"),
)
STEP = 2
"""Every second operation, with another beginning for each kind of fault: together all of them."""
ROOM = 16 * SEGMENT_SIZE


async def under_fault(script: FsScript, body: Body, plan: FaultPlan) -> list[tuple[World, FsExpected]]:
    """Worlds that the next worker may find after the workload met the fault, with what they must hold."""
    for disk in script.world.disks:
        disk.faults = plan
    try:
        async with script.open("h") as actor:
            try:
                await body(actor)
            except SdsError:
                assert plan.fired, "an error without a cause"
            await works_on_or_has_failed(actor)
            left = worlds_left(script)
    except SdsError:
        assert plan.fired, "an error without a cause"
        left = worlds_left(script)
    return left


async def works_on_or_has_failed(actor: FsActor) -> None:
    """The fault is over: what is seen is right in any case; changes work, too, or are refused for good."""
    for disk in actor.script.world.disks:
        disk.faults = FaultPlan()
    if actor.dataset.failed is None:
        with suppress(NoSpace):
            await actor.create("after")
        with suppress(Failed):
            await actor.fsync()
    if actor.dataset.failed is not None:
        with pytest.raises(Failed):
            await actor.create("refused")
        with pytest.raises(Failed):
            await actor.fsync()
    await actor.check()


def worlds_left(script: FsScript) -> list[tuple[World, FsExpected]]:
    found = [(script.world.kill(), script.expected(False))]
    found += [(world, script.expected(True)) for world in script.world.power_cuts(2, random.Random(1))][1:]
    return found


@pytest.mark.parametrize("workload", WORKLOADS, ids=name_of)
def test_an_error_at_any_operation_of_a_backend_leaves_every_operation_done_or_not_done(
    workload: tuple[Body, Shape],
) -> None:
    async def check_left() -> None:
        for number, (world, expected) in enumerate(left):
            await recover_fs(world, expected, orderly=number == 0, clock=script.clock)
            world.close()

    body, shape = workload
    script = FsScript(World.new(shape))
    run_seeded(lambda: prepared(script), 1)
    runs = 0
    for begin, (error, when) in enumerate(FAULTS, 1):
        at, fired = begin, True
        while fired:
            plan = FaultPlan(at, error=error, when=when)
            twin = FsScript(script.world.kill(), script.expected(False), script.counter, clock=script.clock)
            left = run_seeded(lambda: under_fault(twin, body, plan), at)  # noqa: B023
            run_seeded(check_left, at)
            twin.world.close()
            runs, at, fired = runs + 1, at + STEP, bool(plan.fired)
    print(f"{name_of(workload)}: {runs} runs")
    assert runs > 12


@pytest.mark.parametrize("shape", [Shape(capacity_bytes=ROOM), Shape(2, 2, capacity_bytes=ROOM)], ids=["one", "two"])
def test_on_a_full_pool_files_are_removed_and_then_there_is_room_again(shape: Shape) -> None:
    async def body() -> None:
        async with script.open("h") as actor:
            files = await fill(actor)
            await actor.check()
            await actor.fsync()
            for name in files:
                await actor.unlink(name)
            await actor.forget_all()
            assert actor.dataset.map.mapped_blocks == 0
            await actor.checkpoint()
            await actor.sweep()
            assert script.swept > 0
            actor.dataset.log.retry_space()
            await actor.create("again")
            await actor.write("again", 0, 8 * BLOCK)
            await actor.fsync()
            await actor.check()
        await fsck(script.world)

    script = FsScript(World.new(shape))
    script.create("h")
    run_seeded(body, 1)
    run_seeded(lambda: recover_fs(script.world, script.expected(False), clock=script.clock), 2)


async def fill(actor: FsActor) -> list[str]:
    """The names of files that there was room for."""
    names: list[str] = []
    for number in range(200):
        names.append(f"f{number}")
        try:
            await actor.create(names[-1])
            actor.script.counter |= 1  # then the next content is odd: it does not compress
            actor.script.counter += 1
            await actor.write(names[-1], 0, 8 * BLOCK)
        except NoSpace:
            return names if names[-1].encode() in actor.tree.nodes[1].entries else names[:-1]
    raise AssertionError("the pool is never full")


def test_a_filesystem_that_was_full_when_it_died_opens_again() -> None:
    async def body() -> None:
        async with script.open("h") as actor:
            files = await fill(actor)
            for name in files[:3]:
                await actor.hold(actor.inode(name))
                await actor.unlink(name)
            left.append((script.world.kill(), script.expected(False)))

    left: list[tuple[World, FsExpected]] = []
    script = FsScript(World.new(Shape(capacity_bytes=ROOM)))
    script.create("h")
    run_seeded(body, 1)
    for world, expected in left:
        run_seeded(lambda: recover_fs(world, expected, clock=script.clock), 2)  # noqa: B023
