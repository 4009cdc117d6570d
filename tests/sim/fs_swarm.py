"""The random mode for filesystems: several tasks on one tree, with everything else at once, from one seed.

  FW1  As SW1 to SW3 of sds.tests.sim.swarm.
  FW2  In some worlds names meet: their hash has a few values only.
  FW3  Memory is tiny, so that sections have to wait and are done again, and layers are merged all the time: a few
       nodes, a few map pages, a few changed items.
"""

import hashlib
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from unittest.mock import patch

import trio
from xxhash import xxh3_64_intdigest

from backends.faulty import FaultPlan
from sds.core.errors import BackendError, NoSpace, SdsError
from sds.dataset.dataset import Settings
from tests.sim.check import fsck
from tests.sim.fs_check import FsExpected, recover_fs
from tests.sim.fs_random import NAMES, Hands
from tests.sim.fs_workload import FsActor, FsScript
from tests.sim.schedule import run_seeded
from tests.sim.swarm import KINDS, Result
from tests.sim.world import Shape, World


def few_nodes(count: int) -> AbstractContextManager[object]:
    """FW3."""
    return patch("sds.dataset.nodes.NODES_MAX", count)


def names_that_meet() -> AbstractContextManager[object]:
    """FW2."""
    return patch("sds.filesystem.entries.xxh3_64_intdigest", lambda name, seed: xxh3_64_intdigest(name, seed) % 8 << 60)


@dataclass(slots=True)
class FsResult(Result):
    operations: int = 0
    failed: int = 0
    """With an errno that the model had foreseen."""


class FsSwarm:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.result = FsResult()
        self.rng = rng = random.Random(seed)
        disks = rng.choice((1, 1, 2, 3))
        self.shape = Shape(
            disks, rng.randint(1, min(disks, 2)), 64 << 10, rng.choice((None, None, 2 << 20)), rng.randint(0, 4),
            rng.choice(("drop", "keep", "zero")),
        )  # fmt: skip
        self.settings = Settings(
            stage_slots=rng.randint(2, 6), map_pages_max=rng.choice((16, 64)), items_max=rng.choice((8, 40, 1 << 18)),
            flush_delay_s=rng.choice((0.3, 1e9)), checkpoint_delay_s=rng.choice((0.5, 1e9)),
            checkpoint_bytes=rng.choice((32 << 10, 1 << 40)), idle_delay_s=rng.choice((0.2, 1e9)),
        )  # fmt: skip
        self.nodes = rng.choice((16, 16, 4096))
        self.names = NAMES[: rng.choice((4, 4, 30))]
        self.names_meet = rng.random() < 0.3
        self.relatime = rng.random() < 0.3
        self.script = FsScript(World.new(self.shape, seed))
        self.script.create("h")
        self.digest = hashlib.sha256()
        self.countdown = 0
        self.power_cut = False
        self.after: tuple[World, FsExpected] | None = None
        self.scope = trio.CancelScope()

    def run(self) -> FsResult:
        with few_nodes(self.nodes), names_that_meet() if self.names_meet else nullcontext():
            for number in range(self.rng.randint(2, 4)):
                run_seeded(self.round, self.seed * 8 + number)
                self.result.rounds += 1
        self.script.world.close()
        self.result.swept = self.script.swept
        self.result.trace = self.digest.hexdigest()[:16]
        return self.result

    # -- one life of the worker --------------------------------------------------------------------------------------

    async def round(self) -> None:
        world, rng = self.script.world, self.rng
        world.watch = self.event
        if rng.random() < 0.5:
            world.think_s = lambda: rng.choice((0.0, 0.001, 0.04)) * rng.random()
        ending = rng.choice(("kill", "power", "power", "order"))
        self.countdown = rng.randint(10, 600) if ending != "order" else 0
        self.power_cut = ending == "power"
        self.after = None
        if rng.random() < 0.4:
            rng.choice(world.disks).faults = FaultPlan(
                rng.randint(1, 60), rng.choice((None, *KINDS)), rng.choice((BackendError, BackendError, NoSpace)),
                rng.choice(("before", "after")), rng.random() < 0.3,
            )  # fmt: skip
        with trio.CancelScope() as self.scope:
            await self.life()
        self.result.faults += sum(disk.faults.fired for disk in world.disks)
        await self.aftermath(world)

    async def life(self) -> None:
        names = sorted(self.script.models)
        chosen = [names[0]] + ([self.rng.choice(names)] if len(names) > 1 else [])
        try:
            async with trio.open_nursery() as nursery:
                for name in dict.fromkeys(chosen):
                    nursery.start_soon(self.serve, name)
        except* SdsError:
            self.result.refused += 1

    async def serve(self, name: str) -> None:
        async with self.script.open(name, self.settings, self.relatime) as actor:
            async with trio.open_nursery() as nursery:
                for _ in range(self.rng.randint(1, 3)):
                    nursery.start_soon(self.work, Hands(actor, self.rng, self.names))
                nursery.start_soon(self.admin, actor)
            if not any(disk.faults.at for disk in self.script.world.disks):
                await actor.check()

    async def work(self, hands: Hands) -> None:
        for _ in range(self.rng.randint(10, 80)):
            await self.attempt(hands.step)
            await self.rest()
        await self.attempt(hands.finish)

    async def admin(self, actor: FsActor) -> None:
        rng = self.rng
        for number in range(rng.randint(0, 6)):
            snapshots = [name for name, s in actor.model.snapshots.items() if s.acknowledged]
            name = rng.choice(snapshots) if snapshots else ""
            kind = rng.randrange(9)
            if kind < 3 or not snapshots:
                await self.attempt(actor.snapshot, f"s{self.script.counter}-{number}")
            elif kind == 3:
                await self.attempt(actor.destroy, name)
            elif kind == 4 and len(self.script.models) < 3:
                await self.attempt(actor.clone, name, f"c{self.script.counter}-{number}")
            elif kind == 5:
                await self.attempt(actor.rollback, name)
            elif kind == 6:
                await self.attempt(actor.checkpoint)
            else:
                await self.attempt(actor.sweep)
            await self.rest()

    async def attempt(self, operation: Callable[..., Awaitable[None]], *args: object) -> None:
        self.result.operations += 1
        try:
            await operation(*args)
        except SdsError:
            self.result.refused += 1
        except OSError:
            self.result.failed += 1

    async def rest(self) -> None:
        if self.rng.random() < 0.3:
            await trio.sleep(self.rng.random() * 0.2)
        else:
            await trio.lowlevel.checkpoint()

    # -- the end -------------------------------------------------------------------------------------------------------

    def event(self, event: str) -> None:
        self.digest.update(f"{event} {trio.current_time():.9f} {self.script.clock.now_ns}\n".encode())
        if self.countdown and self.after is None:
            self.countdown -= 1
            if not self.countdown:
                self.die()

    def die(self) -> None:
        world = self.script.world
        if self.power_cut:
            worlds = list(world.power_cuts(12, self.rng))
            chosen = worlds.pop(self.rng.randrange(len(worlds)))
            for other in worlds:
                other.close()
            self.after = chosen, self.script.expected(True)
            self.result.power_cuts += 1
        else:
            self.after = world.kill(), self.script.expected(False)
            self.result.kills += 1
        self.scope.cancel()

    async def aftermath(self, world: World) -> None:
        world.watch = None
        for disk in world.disks:
            disk.faults = FaultPlan()
        if self.after is None:  # in order, or failed
            self.after = world.kill(), self.script.expected(False)
        after, expected = self.after
        world.close()
        self.script.world = after
        await recover_fs(after, expected, self.settings, clock=self.script.clock)
        self.script.models = expected
        with suppress(NoSpace):
            await fsck(after)
