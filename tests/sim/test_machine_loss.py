"""A machine is lost with its catalog, stages and journals; the pool is imported from the stores (SO1, SO2)."""

import random
from collections.abc import Awaitable, Callable

import pytest
import trio

from sds.dataset.uploads import OPEN_LIMIT_S
from tests.sim.oracle import BLOCK
from tests.sim.schedule import run_seeded
from tests.sim.store_check import Expected, recover, verify
from tests.sim.store_sequences import PART, SHAPES
from tests.sim.store_workload import StoreActor, StoreScript, scrub, sweep_all
from tests.sim.store_world import Remains, StoreWorld
from tests.sim.workload import VOLUME_SIZE

STORES = ("store", "disk-store")
Loss = tuple[Remains, Expected]


def lost_now(script: StoreScript) -> Loss:
    return next(script.here.losses(1, random.Random(1), True)), script.expected_after_loss(True)


def hold(script: StoreScript, is_held: Callable[[str], bool]) -> None:
    """Objects that do not arrive, as long as they are held."""
    objects = script.here.stores[0].objects
    put = type(objects).put

    async def held(key: str, content: bytes | memoryview, only_new: bool = False) -> None:
        while is_held(key):  # noqa: ASYNC110
            await trio.sleep(0.37)
        await put(objects, key, content, only_new)

    objects.put = held  # type: ignore[method-assign]


async def go_on(loss: Loss) -> StoreWorld:
    """The world after the import; all is as it has to be, and it can be written."""
    left, expected = loss
    world = await left.imported()
    await recover(world, expected, orderly=False)
    await sweep_all(world)
    await verify(world, imported=True)
    assert not (await scrub(world)).findings
    script = StoreScript(world, expected, 1000)
    async with script.open("v") as a:
        await a.write(0, BLOCK)
        await a.flush()
        await a.check()
    return world


def lose(which: str, settles: bool, body: Callable[[StoreActor], Awaitable[None]]) -> Loss:
    """The body runs in an open volume with something uploaded, then the machine is gone."""
    losses: list[Loss] = []

    async def run() -> None:
        script = StoreScript(StoreWorld.of(SHAPES[which]))
        await script.here.label()
        script.create("v", settles=settles)
        await script.here.pool().backup()
        with trio.CancelScope() as scope:
            async with script.open("v") as a:
                await a.write(0, PART)
                await a.upload()
                await a.backup()
                await body(a)
                losses.append(lost_now(script))
                scope.cancel()
                await trio.lowlevel.checkpoint()

    run_seeded(run, 1)
    run_seeded(lambda: go_on(losses[0]), 2)
    return losses[0]


@pytest.mark.parametrize("which", STORES)
def test_what_was_flushed_to_the_backend_is_there(which: str) -> None:
    async def body(a: StoreActor) -> None:
        for number in range(12):
            await a.write(number * PART, PART)
            await a.flush()
        await a.write(0, VOLUME_SIZE // 4)

    _, expected = lose(which, True, body)
    assert len(expected["v"].states) > 3, "something of it was not flushed"


@pytest.mark.parametrize("which", STORES)
def test_files_that_were_still_in_the_journal_take_no_more_with_them_than_was_promised(which: str) -> None:
    """A newest checkpoint that leads into the lost journal: back to the uploaded one."""

    async def body(a: StoreActor) -> None:
        floor = a.model.acknowledged
        hold(a.here, lambda key: key.startswith("segments/"))
        for number in range(6):
            await a.write(number * PART, PART)
            await a.flush()
        await a.checkpoint()
        await a.backup()
        assert a.model.acknowledged > floor

    lose(which, False, body)


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_files_that_arrived_out_of_order_are_no_damage(missing: int) -> None:
    async def body(a: StoreActor) -> None:
        top = max(row.id for row in a.script.world.catalog.all_segments())
        hold(a.here, lambda key: key.startswith(f"segments/00000001/{top + missing:010x}"))
        for number in range(20):
            await a.write(number * PART, PART)
            await a.flush()
        await trio.sleep(30)
        names = a.here.here.stores[0].objects.names()
        assert [name for name in names if f"/{top + missing + 1:010x}" in name], "nothing arrived behind it"

    lose("store", False, body)


def test_a_flush_in_a_new_epoch_waits_for_what_the_old_one_left_in_the_journal() -> None:
    """flush=backend; the opening gave up waiting for the first upload."""
    losses: list[Loss] = []
    held = [True]

    async def run() -> None:
        script = StoreScript(StoreWorld.of(SHAPES["store"]))
        await script.here.label()
        script.create("v", settles=True)
        await script.here.pool().backup()
        with trio.CancelScope() as scope:
            async with script.open("v") as a:
                await a.write(0, PART)
                await a.upload()
                await a.write(PART, PART)  # acknowledged, not flushed: it is in the stage
                first = script.here
                script.world, script.models = first.kill(), script.expected(False)
                hold(script, lambda key: held[0] and key.endswith("-00000001"))
                async with script.open("v") as b:
                    await b.write(2 * PART, PART)
                    with trio.move_on_after(OPEN_LIMIT_S):
                        await b.flush()
                        raise AssertionError("it was acknowledged while a file of the old epoch was in the journal")
                    held[0] = False
                    await b.flush()
                    losses.append(lost_now(script))
                    scope.cancel()
                    await trio.lowlevel.checkpoint()

    run_seeded(run, 1)
    run_seeded(lambda: go_on(losses[0]), 2)


@pytest.mark.parametrize("settles", [False, True])
@pytest.mark.parametrize("which", STORES)
def test_snapshots_clones_and_rollbacks_survive_with_what_they_hold(which: str, settles: bool) -> None:
    async def body(a: StoreActor) -> None:
        await a.snapshot("one")
        await a.write(PART, PART)
        await a.clone("one", "c")
        await a.snapshot("two")
        await a.write(2 * PART, PART)
        await a.rollback("one")
        await a.write(3 * PART, BLOCK)
        await a.destroy("one")
        await a.clean()
        await a.sweep()
        await a.backup()

    _, expected = lose(which, settles, body)
    assert "c" in expected, "the clone is lost"


@pytest.mark.parametrize("which", STORES)
def test_a_snapshot_that_was_pending_is_whole_or_gone(which: str) -> None:
    async def body(a: StoreActor) -> None:
        hold(a.here, lambda key: key.startswith("segments/"))
        await a.write(PART, PART)
        await a.snapshot("pending")
        await a.backup()
        await a.write(2 * PART, PART)

    lose(which, False, body)


def test_two_machines_lost_one_after_the_other() -> None:
    async def body(a: StoreActor) -> None:
        await a.write(PART, PART)
        await a.snapshot("one")
        await a.upload()
        await a.clean()

    left, expected = lose("store", False, body)

    async def again() -> None:
        script = StoreScript(await Remains(left.shape, [], [left.stores[0].copy()], left.journal_bytes).imported())
        script.models = expected
        loss: Loss
        with trio.CancelScope() as scope:
            async with script.open("v") as a:
                await a.write(4 * PART, PART)
                await a.flush()
                loss = lost_now(script)
                scope.cancel()
                await trio.lowlevel.checkpoint()
        await go_on(loss)

    run_seeded(again, 3)
