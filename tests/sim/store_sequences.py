"""All short sequences of operations on volumes in pools with stores and copies, with crashes at their events."""

import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable

from sds.core.errors import SdsError
from tests.sim.effects import Fate
from tests.sim.oracle import BLOCK
from tests.sim.schedule import run_seeded
from tests.sim.store_explore import StoreExplorer
from tests.sim.store_workload import StoreActor, StoreScript
from tests.sim.store_world import SimStore, StoreWorld
from tests.sim.world import Shape

Operation = Callable[[StoreActor, int], Awaitable[object]]
PART = 9 * BLOCK
SHAPES = {
    "store": Shape(disks=0, stores=1, copies=1),
    "disk-store": Shape(disks=1, stores=1, copies=2),
    "2of2": Shape(disks=2, copies=2),
    "2of3": Shape(disks=3, copies=2),
}


async def _clone(a: StoreActor, i: int) -> None:
    await a.clone("s", f"c{i}")


async def _if_there(operation: Callable[[str], Awaitable[object]], a: StoreActor) -> None:
    if a.model.snapshots:
        await operation(next(iter(a.model.snapshots)))


async def _move(a: StoreActor, i: int) -> None:
    """With a place to go to: a disk is drained; else nothing is missing, so nothing moves."""
    catalog = a.script.world.catalog
    if a.script.world.shape.disks > 2:
        await a.dataset.env.run_blocking(catalog.set_backend_state, 1, "draining")
        await a.move("evacuate")
    else:
        await a.move("resilver")


OPERATIONS: dict[str, Operation] = {
    "write": lambda a, i: a.write(2 * BLOCK, PART),
    "flush": lambda a, i: a.flush(),
    "snapshot": lambda a, i: a.snapshot(f"n{i}"),
    "clone": _clone,
    "rollback": lambda a, i: _if_there(a.rollback, a),
    "destroy": lambda a, i: _if_there(a.destroy, a),
    "checkpoint": lambda a, i: a.checkpoint(),
    "upload": lambda a, i: a.upload(),
    "clean": lambda a, i: a.clean(),
    "sweep": lambda a, i: a.sweep(),
    "move": _move,
}


def base(shape: Shape, settles: bool) -> StoreScript:
    """A volume with a snapshot, files that are half dead, one pack, and something behind it; closed."""

    async def fill(script: StoreScript) -> None:
        await script.here.label()
        script.create("v", settles=settles)
        await script.here.pool().backup()
        async with script.open("v") as a:
            for number in range(6):
                await a.write(number % 5 * PART, PART)
            await a.upload()
            for number in range(3):
                await a.write(number * PART, PART)
            await a.upload()
            await a.clean()
            for number in range(4):
                await a.write((number + 2) * PART, PART)
            await a.snapshot("s")
            await a.upload()
            await a.write(0, PART)
            await a.write(PART + BLOCK, BLOCK)
            await a.upload()
        assert script.packs, "the base has no pack"

    script = StoreScript(StoreWorld.of(shape))
    run_seeded(lambda: fill(script), 1)
    return script


def fork(script: StoreScript) -> StoreScript:
    """The same after a rest."""
    world = script.here
    disks = [disk.crash_state(Fate.KEEP) for disk in world.disks]
    stores = [SimStore(store.objects.copy(), store.journal.crash_state(Fate.KEEP)) for store in world.stores]
    twin = StoreWorld(world.shape, disks, stores, world.kill().catalog, {}, world.lost, world.journal_bytes)
    return StoreScript(twin, script.expected(False), script.counter)


def explore(
    start: StoreScript, names: tuple[str, ...], seed: int, every: float, tally: Counter[str], raises: bool = True
) -> list[str]:
    script = fork(start)
    explorer = StoreExplorer(script, random.Random(seed), every, tally=tally)

    async def body() -> None:
        async with script.open("v") as actor:
            for number, name in enumerate(names):
                try:
                    await OPERATIONS[name](actor, number)
                except SdsError as error:
                    error.add_note(name)
                    raise
            await actor.check()

    explorer.watch()
    try:
        run_seeded(body, seed)
        script.here.listen = None
        return explorer.check_all(seed, raises)
    except BaseException as error:
        error.add_note(f"sequence {' '.join(names)}, seed {seed}, {script.here.shape}")
        raise
    finally:
        script.here.close()


def explore_all(shape: Shape, settles: bool, length: int, every: float, raises: bool = True) -> Counter[str]:
    tally: Counter[str] = Counter()
    start = base(shape, settles)
    for seed, names in enumerate(itertools.product(OPERATIONS, repeat=length)):
        for line in explore(start, names, seed, every, tally, raises):
            print(f"{' '.join(names)} seed {seed}: {line}", flush=True)
    return tally
