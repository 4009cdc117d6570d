"""All short sequences of operations, with crashes at their events: small worlds, exhaustively.

Anchored in the finding that nearly all crash bugs need no more than three operations on a fresh system.
"""

import itertools
import random
from collections.abc import Awaitable, Callable

from tests.sim.effects import Fate
from tests.sim.explore import Explorer, Tally
from tests.sim.oracle import BLOCK
from tests.sim.schedule import run_seeded
from tests.sim.workload import Actor, Script
from tests.sim.world import Shape, World

Operation = Callable[[Actor, int], Awaitable[None]]


async def _clone(a: Actor, i: int) -> None:
    if a.model.snapshots:
        await a.clone(next(iter(a.model.snapshots)), f"c{i}")


async def _rollback(a: Actor, i: int) -> None:
    if a.model.snapshots:
        await a.rollback(next(iter(a.model.snapshots)))


async def _destroy(a: Actor, i: int) -> None:
    if a.model.snapshots:
        await a.destroy(next(iter(a.model.snapshots)))


OPERATIONS: dict[str, Operation] = {
    "write": lambda a, i: a.write(2 * BLOCK, 3 * BLOCK),
    "across": lambda a, i: a.write(125 * BLOCK, 6 * BLOCK),
    "overwrite": lambda a, i: a.write(0, BLOCK),
    "part": lambda a, i: a.write(BLOCK - 100, 300),
    "zero": lambda a, i: a.zero(0, 3 * BLOCK, True),
    "hole": lambda a, i: a.zero(100, 2 * BLOCK, False),
    "trim": lambda a, i: a.trim(0, 128 * BLOCK),
    "flush": lambda a, i: a.flush(),
    "snapshot": lambda a, i: a.snapshot(f"n{i}"),
    "clone": _clone,
    "rollback": _rollback,
    "destroy": _destroy,
    "checkpoint": lambda a, i: a.checkpoint(),
}


def base() -> Script:
    """A volume with a snapshot and something behind it, closed."""

    async def fill(script: Script) -> None:
        script.create("v")
        async with script.open("v") as actor:
            await actor.write(0, 2 * BLOCK)
            await actor.write(130 * BLOCK, BLOCK)
            await actor.snapshot("s")
            await actor.write(BLOCK, BLOCK)
            await actor.write(200 * BLOCK, BLOCK)

    script = Script(World.new(Shape()))
    run_seeded(lambda: fill(script), 1)
    return script


def fork(script: Script) -> Script:
    """The same after a rest: deletes have settled, stages are gone."""
    world = script.world
    disks = [disk.crash_state(Fate.KEEP) for disk in world.disks]
    return Script(World(world.shape, disks, world.kill().catalog, {}), script.expected(False), script.counter)


def explore(start: Script, names: tuple[str, ...], seed: int, tally: Tally, every: float, cuts: int = 6) -> None:
    """One sequence, with crashes at this part of its events, those of opening and closing included."""
    script = fork(start)
    explorer = Explorer(script, random.Random(seed), cuts, every, tally)

    async def body() -> None:
        async with script.open("v") as actor:
            for number, name in enumerate(names):
                await OPERATIONS[name](actor, number)
            await actor.check()

    explorer.watch(script.world)
    try:
        run_seeded(body, seed)
        script.world.watch = None
        explorer.check_all(seed)
    except BaseException as error:
        error.add_note(f"sequence {' '.join(names)}, seed {seed}")
        raise
    finally:
        script.world.close()


def explore_all(length: int, every: float) -> Tally:
    """All sequences of exactly this length."""
    tally = Tally()
    start = base()
    for seed, names in enumerate(itertools.product(OPERATIONS, repeat=length)):
        explore(start, names, seed, tally, every)
    return tally
