"""An idle log lets go of what it holds at hand, and is there again at once."""

from sds.dataset.dataset import Settings
from tests.sim.check import fsck, orphans, recover
from tests.sim.oracle import BLOCK
from tests.sim.schedule import run_seeded
from tests.sim.workload import Script
from tests.sim.world import Shape, World

QUIET = Settings(
    stage_slots=4, flush_delay_s=1e9, checkpoint_delay_s=1e9, checkpoint_bytes=1 << 40, idle_delay_s=1e9,
    map_pages_max=64,
)  # fmt: skip


def test_a_log_at_rest_holds_no_prepared_segment_and_writes_on_when_asked() -> None:
    async def body() -> None:
        async with script.open("v", QUIET) as actor:
            for round_ in range(4):
                for block in range(0, 60, 2):
                    await actor.write(block * BLOCK, (1 + round_ % 2) * BLOCK)
                await actor.flush()
                await actor.dataset.log.rest()
                assert len(orphans(script.world)) == 0
                assert len(actor.dataset.log.staged) == 1
            await actor.check()
        await fsck(script.world)

    for seed in range(5):
        script = Script(World.new(Shape()))
        script.create("v")
        run_seeded(body, seed)
        run_seeded(lambda: recover(script.world, script.expected(False)), seed)  # noqa: B023
