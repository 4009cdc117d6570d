"""An open dataset from its first to its last moment."""

import pytest

from sds.core.errors import Exists
from sds.dataset.dataset import Settings
from tests.sim.check import fsck, orphans, recover
from tests.sim.oracle import BLOCK, Intent
from tests.sim.schedule import run_seeded
from tests.sim.workload import VOLUME_SIZE, Script
from tests.sim.world import Shape, World

BUSY = Settings(
    stage_slots=4, flush_delay_s=0.2, checkpoint_delay_s=0.1, checkpoint_bytes=1 << 15, idle_delay_s=0.1,
    map_pages_max=8,
)  # fmt: skip


def fresh(shape: Shape | None = None) -> Script:
    script = Script(World.new(shape or Shape()))
    script.create("v")
    return script


def test_background_work_ends_before_the_log_does() -> None:
    """Closing takes longer than the period of every background job."""

    async def body() -> None:
        async with script.open("v", BUSY) as actor:
            for block in range(30):
                await actor.write(block * BLOCK, BLOCK)
        await fsck(script.world)

    for seed in range(10):
        script = fresh()
        script.world.think_s = lambda: 0.15
        run_seeded(body, seed)
        script.world.think_s = None
        run_seeded(lambda: recover(script.world, script.expected(False)), seed)  # noqa: B023


def test_closing_in_order_leaves_no_garbage_and_nothing_to_replay() -> None:
    async def body() -> None:
        async with script.open("v") as actor:
            await actor.write(0, 5 * BLOCK)
            await actor.trim(BLOCK, BLOCK)
        await fsck(script.world)

    script = fresh(Shape(disks=2, copies=2))
    run_seeded(body, 1)
    assert orphans(script.world) == []


def test_two_snapshots_of_one_name_are_refused_and_the_first_stays() -> None:
    async def body() -> None:
        async with script.open("v") as actor:
            await actor.write(0, BLOCK)
            await actor.snapshot("s")
            await actor.write(0, BLOCK)
            with actor.tap.intent(Intent()), pytest.raises(Exists):
                await actor.dataset.snapshot("s")

    script = fresh()
    run_seeded(body, 1)
    run_seeded(lambda: recover(script.world, script.expected(False)), 1)


def test_rollback_over_checkpoints_under_way_and_trims_is_exact() -> None:
    async def body() -> None:
        async with script.open("v") as actor:
            await actor.write(0, 3 * BLOCK)
            await actor.write(130 * BLOCK, BLOCK)
            await actor.snapshot("s")
            for number in range(5):
                await actor.trim(0, VOLUME_SIZE // 2)
                await actor.write(number * BLOCK, 2 * BLOCK)
                await actor.snapshot(f"t{number}")
            await actor.rollback("s")
            await actor.check()
            await actor.write(BLOCK, BLOCK)
            await actor.check()
        await fsck(script.world)

    script = fresh()
    run_seeded(body, 1)
    run_seeded(lambda: recover(script.world, script.expected(False)), 1)
