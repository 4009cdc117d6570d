"""Pools with stores and copies: crashes at the events of short histories, and long ones from seeds."""

import random
from collections import Counter

import pytest
import trio

from sds.core.errors import NoSpace
from tests.sim.oracle import BLOCK
from tests.sim.schedule import run_seeded
from tests.sim.store_check import missing_files, recover, verify
from tests.sim.store_sequences import SHAPES, base, explore, explore_all
from tests.sim.store_swarm import StoreSwarm
from tests.sim.store_workload import StoreScript
from tests.sim.store_world import StoreWorld
from tests.sim.world import Shape

PAIRS = (
    ("rollback", "destroy"), ("snapshot", "clean"), ("clean", "rollback"), ("write", "clean"), ("clone", "destroy"),
    ("destroy", "clean"), ("clean", "sweep"), ("rollback", "snapshot"), ("move", "clean"), ("checkpoint", "upload"),
)  # fmt: skip


@pytest.mark.parametrize("which", SHAPES)
def test_every_operation_survives_every_kind_of_crash(which: str) -> None:
    tally: Counter[str] = Counter()
    for settles in (False, True) if "store" in which else (False,):
        tally += explore_all(SHAPES[which], settles, 1, every=0.007)
    print(f"\n{which}: {dict(tally)}")
    assert tally["power"] > 5 and tally["loss"] + tally["home"] > 5


@pytest.mark.parametrize("which", SHAPES)
def test_pairs_of_operations_survive_crashes(which: str) -> None:
    tally: Counter[str] = Counter()
    start = base(SHAPES[which], which == "disk-store")
    for seed, names in enumerate(PAIRS):
        explore(start, names, seed, 0.006, tally)
    assert sum(tally.values()) > 30


@pytest.mark.parametrize("which", SHAPES)
def test_fixed_seeds_keep_every_promise(which: str) -> None:
    total: Counter[str] = Counter()
    for seed in range(5):
        try:
            result = StoreSwarm(seed, which).run()
        except BaseException as error:
            error.add_note(f"again: StoreSwarm({seed}, {which!r}).run()")
            raise
        total += Counter({name: getattr(result, name) for name in ("kills", "power_cuts", "losses", "homes", "packs")})
    print(f"\n{which}: {dict(total)}")
    assert total["packs"] and total["kills"] + total["power_cuts"] + total["losses"] + total["homes"] > 3


def test_a_seed_replays_exactly() -> None:
    for which in ("store", "2of3"):
        assert StoreSwarm(5, which).run().trace == StoreSwarm(5, which).run().trace


def test_a_store_that_is_down_for_a_while_holds_up_nobody_whose_journal_has_room() -> None:
    async def body() -> None:
        script = StoreScript(StoreWorld.of(SHAPES["store"]))
        await script.here.label()
        script.create("v")
        objects = script.here.stores[0].objects
        async with script.open("v") as a:
            objects.down = True
            for number in range(12):
                await a.write(number * 9 * BLOCK, 9 * BLOCK)
                await a.flush()
            assert a.dataset.failed is None
            await a.check()
            assert not [name for name in objects.names() if name.endswith("5-00000001")]
            objects.down = False
            await a.upload()
        assert a.dataset.failed is None
        await verify(script.here)
        left = next(script.here.losses(1, random.Random(1), True))
        await recover(await left.imported(), script.expected_after_loss(True), orderly=False)

    run_seeded(body, 1)


def test_a_journal_that_is_full_while_the_store_is_down_refuses_writes_and_loses_nothing() -> None:
    async def body() -> None:
        script = StoreScript(StoreWorld.of(SHAPES["store"], journal_bytes=16 * 64 << 10))
        await script.here.label()
        script.create("v")
        objects = script.here.stores[0].objects
        async with script.open("v") as a:
            objects.down = True
            written = 0
            with pytest.raises(NoSpace):  # noqa: PT012
                for number in range(60):
                    await a.write(number % 20 * 9 * BLOCK, 9 * BLOCK)
                    written += 1
            assert written > 8
            await a.flush()
            assert a.dataset.failed is None
            await a.check()
            objects.down = False
            await trio.sleep(60)
            for number in range(20):
                await a.write(number * 9 * BLOCK, 9 * BLOCK)
            await a.flush()
            await a.check()
        await recover(script.here.kill(), script.expected(False))

    run_seeded(body, 1)


def test_what_a_row_names_is_looked_for() -> None:
    """The check of SCK3 can fail."""

    async def body() -> None:
        script = StoreScript(StoreWorld.of(Shape(disks=2, copies=2)))
        await script.here.label()
        script.create("v")
        async with script.open("v") as a:
            await a.write(0, BLOCK)
        assert not missing_files(script.here)
        for disk in script.here.disks:
            for name in [name for name in disk._names if name.startswith("segments/")]:
                await disk.delete(name)
            assert bool(missing_files(script.here)) == (disk is script.here.disks[1])

    run_seeded(body, 1)

