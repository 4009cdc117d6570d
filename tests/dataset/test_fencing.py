"""P7: a worker that lost its dataset to another one stops acknowledging."""

import pytest
import trio

from sds.core.errors import Failed
from sds.dataset.dataset import Settings
from tests.sim.oracle import BLOCK
from tests.sim.schedule import run_seeded
from tests.sim.workload import Script
from tests.sim.world import Shape, World

EAGER = Settings(
    stage_slots=4, flush_delay_s=1e9, checkpoint_delay_s=0.1, checkpoint_bytes=1 << 40, idle_delay_s=1e9,
    map_pages_max=64,
)  # fmt: skip


def test_a_fenced_worker_acknowledges_nothing_more_after_its_next_checkpoint() -> None:
    async def body() -> None:
        with pytest.raises(Failed):  # noqa: PT012 -- closing in order fails, too
            async with script.open("v", EAGER) as actor:
                await actor.write(0, BLOCK)
                catalog = script.world.catalog
                catalog.acquire(actor.dataset.row.id, "somebody else")
                await trio.sleep(1)  # virtual time: the background checkpoint has met the new epoch
                with pytest.raises(Failed):
                    await actor.dataset.flush()
                with pytest.raises(Failed):
                    await actor.volume.write(0, memoryview(bytes(BLOCK)))

    script = Script(World.new(Shape()))
    script.create("v")
    run_seeded(body, 1)
