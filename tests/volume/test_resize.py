"""Resizing a volume while it is used."""

import pytest
import trio

from sds.core.errors import BadInput
from tests.sim.oracle import BLOCK, Intent
from tests.sim.schedule import run_seeded
from tests.sim.workload import VOLUME_SIZE, Actor, Script
from tests.sim.world import Shape, World

PART = VOLUME_SIZE // 2


async def late(actor: Actor, operation: str, refused: list[str]) -> None:
    """An operation on the last blocks that has to wait (for a page of the map) while the volume shrinks."""
    offset = VOLUME_SIZE - 2 * BLOCK
    actor.dataset.map.pages.clear()
    try:
        if operation == "write":
            await actor.write(offset, BLOCK)
        elif operation == "part":
            await actor.write(offset + 5, 20)
        else:
            await actor.zero(offset, BLOCK, True)
    except BadInput as error:
        refused.append(str(error))


@pytest.mark.parametrize("operation", ["write", "part", "zero"])
def test_nothing_is_written_beyond_the_end_of_a_volume_that_shrinks_meanwhile(operation: str) -> None:
    async def body() -> None:
        async with script.open("v") as actor:
            await actor.write(VOLUME_SIZE - 4 * BLOCK, 4 * BLOCK)
            await actor.checkpoint()
            actor.dataset.nodes._cache.clear()
            await actor.dataset.log.rest()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(late, actor, operation, refused)
                with actor.tap.intent(Intent()):
                    await actor.dataset.resize(PART)
            await actor.resize(VOLUME_SIZE)
            await actor.check()

    refused: list[str] = []
    for seed in range(12):
        script = Script(World.new(Shape(latency=4), seed))
        script.create("v")
        run_seeded(body, seed)
    assert refused


def test_what_lay_beyond_a_smaller_size_is_gone_after_growing_again() -> None:
    async def body() -> None:
        async with script.open("v") as actor:
            await actor.write(PART - BLOCK, 3 * BLOCK)
            await actor.resize(PART)
            await actor.resize(VOLUME_SIZE)
            await actor.check()
            assert actor.dataset.map.mapped_blocks == 1

    script = Script(World.new(Shape()))
    script.create("v")
    run_seeded(body, 1)
