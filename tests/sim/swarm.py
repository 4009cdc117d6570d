"""The random mode: everything at once, from one seed. Each seed also draws the shape of its world and its habits.

  SW1  Replays: the same seed gives the same events, in the same order, to the same worlds. `trace` is their hash.
  SW2  A round ends by kill -9, a power cut or in order; the next one goes on with what was left, after the check.
  SW3  Faults strike in some rounds. An operation that raised an SdsError counts as not acknowledged, nothing more.
"""

import hashlib
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import trio

from backends.faulty import FaultPlan, Kind
from sds.core.errors import BackendError, NoSpace, SdsError
from sds.dataset.dataset import Settings
from tests.sim.check import Expected, fsck, recover
from tests.sim.oracle import BLOCK
from tests.sim.schedule import run_seeded
from tests.sim.workload import VOLUME_SIZE, Actor, Script
from tests.sim.world import Shape, World

KINDS: tuple[Kind, ...] = ("create", "write", "sync", "seal", "open", "read", "delete", "list")
SPOTS = (0, 1, 2, 3, 7, 8, 120, 126, 127, 128, 129, 200, 254)


@dataclass(slots=True)
class Result:
    trace: str = ""
    rounds: int = 0
    kills: int = 0
    power_cuts: int = 0
    faults: int = 0
    refused: int = 0
    """Operations that raised an SdsError."""
    swept: int = 0
    """Segments deleted."""


class Swarm:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.result = Result()
        self.rng = rng = random.Random(seed)
        disks = rng.choice((1, 1, 2, 3))
        self.shape = Shape(
            disks, rng.randint(1, min(disks, 2)), 64 << 10, rng.choice((None, None, 3 << 20)), rng.randint(0, 4),
            rng.choice(("drop", "keep", "zero")),
        )  # fmt: skip
        self.settings = Settings(
            stage_slots=rng.randint(2, 6), map_pages_max=rng.choice((4, 64)), flush_delay_s=rng.choice((0.3, 1e9)),
            checkpoint_delay_s=rng.choice((0.5, 1e9)), checkpoint_bytes=rng.choice((32 << 10, 1 << 40)),
            idle_delay_s=rng.choice((0.2, 1e9)),
        )  # fmt: skip
        self.script = Script(World.new(self.shape, self.seed))
        self.script.create("v")
        self.digest = hashlib.sha256()
        self.countdown = 0
        self.power_cut = False
        self.after: tuple[World, Expected] | None = None
        self.scope = trio.CancelScope()

    def run(self) -> Result:
        for number in range(self.rng.randint(2, 4)):
            run_seeded(self.round, self.seed * 8 + number)
            self.result.rounds += 1
        self.script.world.close()
        self.result.swept = self.script.swept
        self.result.trace = self.digest.hexdigest()[:16]
        return self.result

    # -- one life of the worker --------------------------------------------------------------------------------------

    async def round(self) -> None:
        world = self.script.world
        rng = self.rng
        world.watch = self.event
        if rng.random() < 0.5:
            world.think_s = lambda: rng.choice((0.0, 0.001, 0.04)) * rng.random()
        ending = rng.choice(("kill", "power", "power", "order"))
        self.countdown = rng.randint(10, 500) if ending != "order" else 0
        self.power_cut = ending == "power"
        self.after = None
        if rng.random() < 0.4:
            disk = rng.choice(world.disks)
            disk.faults = FaultPlan(
                rng.randint(1, 40), rng.choice((None, *KINDS)), rng.choice((BackendError, BackendError, NoSpace)),
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

    async def aftermath(self, world: World) -> None:
        world.watch = None
        for disk in world.disks:
            disk.faults = FaultPlan()
        if self.after is None:  # in order, or failed
            self.after = world.kill(), self.script.expected(False)
        after, expected = self.after
        world.close()
        self.script.world = after
        await recover(after, expected, self.settings)
        for model in expected.values():
            assert model.states, model.name
        self.script.models = expected
        with suppress(NoSpace):
            await fsck(after)

    async def serve(self, name: str) -> None:
        async with self.script.open(name, self.settings) as actor:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.writer, actor, SPOTS[::2])
                nursery.start_soon(self.writer, actor, SPOTS[1::2])
                nursery.start_soon(self.admin, actor)
            if not actor.dataset.failed and not any(disk.faults.at for disk in self.script.world.disks):
                await actor.check()

    async def writer(self, actor: Actor, spots: tuple[int, ...]) -> None:
        rng = self.rng
        for _ in range(rng.randint(5, 30)):
            at = rng.choice(spots) * BLOCK
            kind = rng.random()
            if kind < 0.45:
                await self.attempt(actor.write, at, BLOCK)
            elif kind < 0.6:
                start, length = rng.randint(0, BLOCK - 2), rng.randint(1, BLOCK)
                length = min(length, BLOCK - start)
                await self.attempt(actor.write, at + start, length)
            elif kind < 0.7:
                await self.attempt(actor.zero, at, BLOCK, rng.random() < 0.5)
            elif kind < 0.8:
                await self.attempt(actor.trim, at, BLOCK)
            else:
                await self.attempt(actor.flush)
            await self.rest()

    async def admin(self, actor: Actor) -> None:
        rng = self.rng
        for number in range(rng.randint(0, 8)):
            snapshots = [name for name, s in actor.model.snapshots.items() if s.acknowledged]
            kind = rng.randrange(12)
            name = rng.choice(snapshots) if snapshots else ""
            if kind < 3 or not snapshots:
                new = f"s{self.script.counter}-{number}"
                await self.attempt(actor.snapshot, new)
            elif kind == 3:
                await self.attempt(actor.rollback, name)
            elif kind == 4:
                await self.attempt(actor.destroy, name)
            elif kind == 5 and len(self.script.models) < 3:
                new = f"c{self.script.counter}-{number}"
                await self.attempt(actor.clone, name, new)
            elif kind == 6:
                await self.attempt(actor.checkpoint)
            elif kind == 7:
                await self.attempt(actor.trim, 0, VOLUME_SIZE // 2)
            elif kind > 9:
                await self.attempt(actor.sweep)
            elif kind == 8:
                await self.attempt(actor.write, 100 * BLOCK, 40 * BLOCK)
            else:
                size = rng.choice((VOLUME_SIZE // 2, VOLUME_SIZE, VOLUME_SIZE * 2))
                await self.attempt(actor.resize, size)
            await self.rest()

    async def attempt(self, operation: Callable[..., Awaitable[None]], *args: object) -> None:
        try:
            await operation(*args)
        except SdsError:
            self.result.refused += 1

    async def rest(self) -> None:
        if self.rng.random() < 0.3:
            await trio.sleep(self.rng.random() * 0.2)
        else:
            await trio.lowlevel.checkpoint()

    # -- the end -------------------------------------------------------------------------------------------------------

    def event(self, event: str) -> None:
        self.digest.update(f"{event} {trio.current_time():.9f} {self.script.counter}\n".encode())
        if self.countdown and self.after is None:
            self.countdown -= 1
            if not self.countdown:
                self.die()

    def die(self) -> None:
        world = self.script.world
        if self.power_cut:
            worlds = list(world.power_cuts(12, self.rng))
            chosen = self.rng.randrange(len(worlds))
            for number, other in enumerate(worlds):
                if number != chosen:
                    other.close()
            self.after = worlds[chosen], self.script.expected(True)
            self.result.power_cuts += 1
        else:
            self.after = world.kill(), self.script.expected(False)
            self.result.kills += 1
        self.scope.cancel()
