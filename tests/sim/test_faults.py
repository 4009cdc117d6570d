"""An error at every i-th operation of the backends, for every scripted workload."""

import random
from contextlib import suppress
from typing import Literal

import pytest

from backends.faulty import FaultPlan
from sds.core.errors import BackendError, Failed, NoSpace, SdsError
from tests.sim.check import Expected, recover
from tests.sim.oracle import BLOCK
from tests.sim.schedule import run_seeded
from tests.sim.scripts import WORKLOADS, Body, name_of, prepared
from tests.sim.workload import Actor, Script
from tests.sim.world import Shape, World

FAULTS: tuple[tuple[type[SdsError], Literal["before", "after"]], ...] = (
    (BackendError, "before"),
    (BackendError, "after"),
    (NoSpace, "before"),
)


async def under_fault(script: Script, body: Body, plan: FaultPlan) -> list[tuple[World, Expected]]:
    """Worlds that the next worker may find after the workload met the fault, with what they must hold."""
    world = script.world
    for disk in world.disks:
        disk.faults = plan
    try:
        async with script.open("v") as actor:
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


async def works_on_or_has_failed(actor: Actor) -> None:
    """The fault is over: reads are right in any case; writes too, or they are refused for good."""
    for disk in actor.script.world.disks:
        disk.faults = FaultPlan()
    if actor.dataset.failed is None:
        with suppress(NoSpace):
            await actor.write(0, BLOCK)
        try:
            await actor.flush()
        except Failed:
            assert actor.dataset.failed is not None
    if actor.dataset.failed is not None:
        with pytest.raises(Failed):
            await actor.write(0, BLOCK)
        with pytest.raises(Failed):
            await actor.flush()
    await actor.check()


def worlds_left(script: Script) -> list[tuple[World, Expected]]:
    found = [(script.world.kill(), script.expected(False))]
    found += [(world, script.expected(True)) for world in script.world.power_cuts(2, random.Random(1))][1:]
    return found


async def check_left(left: list[tuple[World, Expected]], orderly: bool) -> None:
    for number, (world, expected) in enumerate(left):
        for disk in world.disks:
            disk.faults = FaultPlan()
        await recover(world, expected, orderly=orderly and number == 0)
        world.close()


@pytest.mark.parametrize("workload", WORKLOADS, ids=name_of)
def test_an_error_at_every_operation_loses_nothing_that_was_flushed(workload: tuple[Body, Shape]) -> None:
    body, shape = workload
    script = Script(World.new(shape))
    run_seeded(lambda: prepared(script), 1)
    runs = 0
    for error, when in FAULTS:
        at = 0
        while True:
            at += 1
            plan = FaultPlan(at, error=error, when=when)
            twin = Script(script.world.kill(), script.expected(False), script.counter)
            left = run_seeded(lambda: under_fault(twin, body, plan), at)  # noqa: B023
            run_seeded(lambda: check_left(left, at % 4 == 0), at)  # noqa: B023
            twin.world.close()
            runs += 1
            if not plan.fired:
                break
    assert runs > 3 * 8
    print(f"{name_of(workload)}: {runs} runs")


def test_with_another_backend_the_volume_works_on() -> None:
    """One failed write, sync or seal out of any: with a second disk nothing is refused, and flushes go on."""

    async def body(script: Script, plan: FaultPlan) -> None:
        async with script.open("v") as actor:
            script.world.disks[0].faults = plan
            for block in range(0, 60, 10):
                await actor.write(block * BLOCK, 9 * BLOCK)
                await actor.flush()
            assert actor.dataset.failed is None
            await actor.check()

    for copies, disks in ((1, 2), (2, 3), (2, 2)):
        script = Script(World.new(Shape(disks, copies)))
        run_seeded(lambda: prepared(script), 1)  # noqa: B023
        for kind in ("write", "sync", "seal"):
            at, fired = 0, True
            while fired:
                at += 1
                plan = FaultPlan(at, kind, lasting=True)
                twin = Script(script.world.kill(), script.expected(False), script.counter)
                run_seeded(lambda: body(twin, plan), at)  # noqa: B023
                run_seeded(lambda: check_left(worlds_left(twin), True), at)  # noqa: B023
                fired = bool(plan.fired)
