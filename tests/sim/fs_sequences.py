"""All short sequences of operations of a filesystem, with crashes at their events: small worlds, exhaustively."""

import itertools
import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from sds.filesystem.attributes import Changes
from tests.sim.effects import Fate
from tests.sim.explore import Explorer, Tally
from tests.sim.fs_check import recover_fs
from tests.sim.fs_model import EXCHANGE, ROOT
from tests.sim.fs_state import BLOCK
from tests.sim.fs_workload import FsActor, FsScript
from tests.sim.schedule import run_seeded
from tests.sim.world import Shape, World

Operation = Callable[[FsActor, int], Awaitable[object]]


async def _first_snapshot(a: FsActor, then: Callable[[str], Awaitable[None]]) -> None:
    if a.model.snapshots:
        await then(next(iter(a.model.snapshots)))


async def _unlink_open(a: FsActor, i: int) -> None:
    """Nobody has it open after a crash."""
    await a.hold(a.inode("a/f"))
    await a.unlink("a/f")


async def _forget(a: FsActor, i: int) -> None:
    for inode in list(a.opened):
        await a.let_go(inode)
    await a.forget_all()


OPERATIONS: dict[str, Operation] = {
    "create": lambda a, i: a.create(f"new{i}"),
    "mkdir": lambda a, i: a.mkdir("a/sub"),
    "symlink": lambda a, i: a.symlink(f"a/l{i}", b"t" * 3000),
    "inline": lambda a, i: a.write("small", 50, 300),
    "spill": lambda a, i: a.write("small", 1000, 5000),
    "write": lambda a, i: a.write("a/f", BLOCK - 100, BLOCK + 300),
    "pieces": lambda a, i: a.write("a/f", 3 * BLOCK, 7 * BLOCK),
    "shrink": lambda a, i: a.truncate("a/f", BLOCK + 7),
    "empty": lambda a, i: a.truncate("a/f", 0),
    "grow": lambda a, i: a.truncate("small", 1 << 30),
    "move": lambda a, i: a.rename("small", f"b/m{i}"),
    "replace": lambda a, i: a.rename("small", "a/f"),
    "directory": lambda a, i: a.rename("b", "a/b"),
    "exchange": lambda a, i: a.rename("a", "small", EXCHANGE),
    "link": lambda a, i: a.link("a/f", f"b/h{i}"),
    "unlink": lambda a, i: a.unlink("small"),
    "unlink open": _unlink_open,
    "rmdir": lambda a, i: a.rmdir("b"),
    "forget": _forget,
    "chown": lambda a, i: a.change(a.inode("a/f"), Changes(uid=7, mode=0o4755)),
    "xattr": lambda a, i: a.set_xattr(ROOT, b"user.x", bytes(3000 * (i % 2))),
    "fsync": lambda a, i: a.fsync(),
    "snapshot": lambda a, i: a.snapshot(f"n{i}"),
    "rollback": lambda a, i: _first_snapshot(a, a.rollback),
    "clone": lambda a, i: _first_snapshot(a, lambda name: a.clone(name, f"c{i}")),
    "checkpoint": lambda a, i: a.checkpoint(),
}


def base() -> FsScript:
    """A filesystem with a snapshot and something behind it, closed."""

    async def fill(script: FsScript) -> None:
        script.create("h")
        async with script.open("h") as a:
            await a.mkdir("a")
            await a.mkdir("b")
            await a.create("a/f")
            await a.write("a/f", 0, 2 * BLOCK)
            await a.snapshot("s")
            await a.create("small")
            await a.write("small", 0, 100)
            await a.write("a/f", 2 * BLOCK, 2 * BLOCK + 10)

    script = FsScript(World.new(Shape()))
    run_seeded(lambda: fill(script), 1)
    return script


def fork(script: FsScript) -> FsScript:
    """The same after a rest: deletes have settled, stages are gone."""
    world = script.world
    disks = [disk.crash_state(Fate.KEEP) for disk in world.disks]
    twin = World(world.shape, disks, world.kill().catalog, {})
    return FsScript(twin, script.expected(False), script.counter, clock=script.clock)


def explore(start: FsScript, names: tuple[str, ...], seed: int, tally: Tally, every: float, cuts: int = 6) -> None:
    """One sequence, with crashes at this part of its events, those of opening and closing included."""
    script = fork(start)
    explorer = Explorer(script, random.Random(seed), cuts, every, tally, recover_fs)

    async def body() -> None:
        async with script.open("h") as actor:
            for number, name in enumerate(names):
                with suppress(OSError, KeyError):  # the model failed alike, or what it works on is not there any more
                    await OPERATIONS[name](actor, number)
            await actor.check()

    explorer.watch(script.world)
    try:
        run_seeded(body, seed)
        script.world.watch = None
        explorer.check_all(seed)
    except BaseException as error:
        error.add_note(f"sequence {', '.join(names)}; seed {seed}")
        raise
    finally:
        script.world.close()


def explore_all(length: int, every: float, part: float = 1.0) -> Tally:
    """All sequences of exactly this length, or a part of them."""
    tally = Tally()
    start = base()
    chosen: Iterable[tuple[int, tuple[str, ...]]] = enumerate(itertools.product(OPERATIONS, repeat=length))
    rng = random.Random(length)
    for seed, names in chosen:
        if part >= 1 or rng.random() < part:
            explore(start, names, seed, tally, every)
    return tally
