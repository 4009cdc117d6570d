"""A pool without room: ENOSPC before the ack, reads and deletes go on, swept space is written again."""

import pytest

from sds.core.errors import NoSpace
from tests.sim.check import Expected, fsck, recover
from tests.sim.oracle import BLOCK
from tests.sim.schedule import run_seeded
from tests.sim.workload import VOLUME_SIZE, Actor, Script
from tests.sim.world import SEGMENT_SIZE, Shape, World

ROOM = 16 * SEGMENT_SIZE


@pytest.mark.parametrize("shape", [Shape(capacity_bytes=ROOM), Shape(2, 2, capacity_bytes=ROOM)], ids=["one", "two"])
def test_a_full_pool_refuses_writes_before_the_ack_and_goes_on_after_a_sweep(shape: Shape) -> None:
    async def body() -> None:
        async with script.open("v") as actor:
            await fill_incompressible(actor)
            await actor.check()
            await actor.flush()
            await actor.trim(0, VOLUME_SIZE)
            await actor.checkpoint()
            await actor.check()
            await actor.sweep()
            assert script.swept > 0
            actor.dataset.log.retry_space()
            await actor.write(0, 8 * BLOCK)
            await actor.flush()
            await actor.check()
        await fsck(script.world)

    script = Script(World.new(shape))
    script.create("v")
    run_seeded(body, 1)
    run_seeded(lambda: recover(script.world, script.expected(False)), 2)


async def fill_incompressible(actor: Actor) -> None:
    for number in range(200):
        actor.script.counter |= 1  # then the next content is odd: it does not compress
        actor.script.counter += 1
        try:
            await actor.write(number % 24 * 8 * BLOCK, 8 * BLOCK)
        except NoSpace:
            return
    raise AssertionError("the pool is never full")


def test_a_pool_that_was_full_when_it_died_opens_again() -> None:
    async def body() -> None:
        async with script.open("v") as actor:
            await fill_incompressible(actor)
            left.append((script.world.kill(), script.expected(False)))

    left: list[tuple[World, Expected]] = []
    script = Script(World.new(Shape(capacity_bytes=ROOM)))
    script.create("v")
    run_seeded(body, 1)
    for world, expected in left:
        run_seeded(lambda: recover(world, expected), 2)  # noqa: B023
