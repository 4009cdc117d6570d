"""VO2: writes of parts of one block, at the same time, from anywhere."""

import random

import trio

from sds.volume.volume import Volume
from tests.sim.oracle import BLOCK
from tests.sim.schedule import run_seeded
from tests.sim.workload import Script
from tests.sim.world import Shape, World

PARTS = 8
PART = BLOCK // PARTS


def test_parts_of_one_block_written_at_once_are_all_there_afterwards() -> None:
    """Each writer has its own part; whoever reads the rest too early must notice."""
    waited = 0

    async def body() -> None:
        nonlocal waited
        async with world.open("v") as dataset:
            volume = Volume(dataset)
            await volume.write(0, memoryview(random.Random(1).randbytes(BLOCK)))
            await dataset.checkpoint()
        async with world.open("v") as dataset:
            volume = Volume(dataset)
            waited += volume.read_nowait(0, BLOCK) is None  # cold: every writer has to wait for what is there
            async with trio.open_nursery() as nursery:
                for part in range(PARTS):
                    nursery.start_soon(volume.write, part * PART, memoryview(bytes([part + 1]) * PART))
            found = b"".join(await volume.read(0, BLOCK))
            assert found == b"".join(bytes([part + 1]) * PART for part in range(PARTS))

    for seed in range(10):
        world = World.new(Shape(latency=4), seed)
        Script(world).create("v")
        run_seeded(body, seed)
    assert waited
