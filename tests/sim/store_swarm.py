"""The random mode for pools with stores and copies: as swarm.py (SW1 to SW3), with cleaning, moving, scrubs, faults of
stores, and machines that are lost.

  SSW1  A round may end by a loss of the machine, with or without its disks; the next goes on with what was imported.
  SSW2  At every catalog transaction and delete: what a row names is there (SCK3).
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from backends.faulty import FaultPlan
from sds.core.errors import BackendError, NoSpace, SdsError
from sds.dataset.dataset import Settings
from tests.sim.objects import Rates
from tests.sim.schedule import run_seeded
from tests.sim.store_check import Expected, missing_files, recover, verify
from tests.sim.store_sequences import SHAPES
from tests.sim.store_workload import StoreActor, StoreScript, move, scrub, sweep_all
from tests.sim.store_world import Remains, StoreWorld
from tests.sim.swarm import KINDS, SPOTS, Result, Swarm
from tests.sim.workload import Actor
from tests.sim.world import World

ENDINGS = ("kill", "power", "loss", "home", "order")


@dataclass(slots=True)
class StoreResult(Result):
    losses: int = 0
    homes: int = 0
    packs: int = 0
    moved: int = 0
    healed: int = 0


class StoreSwarm(Swarm):
    result: StoreResult
    script: StoreScript

    def __init__(self, seed: int, which: str = "") -> None:
        super().__init__(seed)
        self.script.world.close()
        self.result = StoreResult()
        rng = self.rng
        self.which = which or rng.choice(sorted(SHAPES))
        self.shape = SHAPES[self.which]
        self.settles = rng.random() < 0.4
        self.settings = Settings(
            stage_slots=rng.randint(2, 6), map_pages_max=rng.choice((4, 64)), flush_delay_s=rng.choice((0.3, 1e9)),
            checkpoint_delay_s=rng.choice((0.5, 5.0, 1e9)), checkpoint_bytes=rng.choice((32 << 10, 1 << 40)),
            idle_delay_s=rng.choice((0.2, 1e9)),
        )  # fmt: skip
        journal_bytes = rng.choice((1 << 20, 1 << 24))
        self.script = StoreScript(StoreWorld.of(self.shape, seed, journal_bytes))
        self.left: tuple[StoreWorld | Remains, Expected] | None = None
        self.ending = ""
        self.calm = True
        self.imported = self.found_disks = False

    def run(self) -> StoreResult:
        run_seeded(self.prepare, self.seed)
        super().run()
        self.result.packs, self.result.moved = self.script.packs, self.script.moved
        return self.result

    async def prepare(self) -> None:
        await self.script.here.label()
        self.script.create("v", settles=self.settles)
        await self.script.here.pool().backup()

    # -- one life of the worker ----------------------------------------------------------------------------------------

    async def round(self) -> None:
        world = self.script.here
        rng = self.rng
        world.listen = self.heard
        possible = [e for e in ENDINGS if not (e == "loss" and not world.stores) and not (e == "home" and world.lost)]
        self.ending = rng.choice([e for e in possible if not (e == "home" and not world.disks)])
        self.countdown = rng.randint(10, 1500) if self.ending != "order" else 0
        self.left = None
        self.calm = rng.random() < 0.4
        if not self.calm:
            self.trouble(world)
        with trio.CancelScope() as self.scope:
            await self.life()
        for store in world.stores:
            self.result.faults += store.objects.faults.fired
        self.result.faults += sum(disk.faults.fired for disk in world.disks)
        await self.end(world)

    def trouble(self, world: StoreWorld) -> None:
        rng = self.rng
        for store in world.stores:
            if rng.random() < 0.7:
                store.objects.rates = Rates(
                    rng.choice((0, 0.1, 0.3)), rng.choice((0, 0.1)), rng.choice((0, 0.1)), rng.choice((0, 0.1)),
                    rng.choice((0, 0.1)),
                )  # fmt: skip
        if world.disks and rng.random() < 0.4:
            rng.choice(world.disks).faults = FaultPlan(
                rng.randint(1, 40), rng.choice((None, *KINDS)), rng.choice((BackendError, BackendError, NoSpace)),
                rng.choice(("before", "after")), rng.random() < 0.3,
            )  # fmt: skip

    async def end(self, world: StoreWorld) -> None:
        world.listen = None
        calm_down(world)
        if self.left is None:
            self.left = world.kill(), self.script.expected(False)
        left, expected = self.left
        world.close()
        self.imported |= isinstance(left, Remains)
        self.found_disks |= isinstance(left, Remains) and bool(left.disks)
        after = await left.imported() if isinstance(left, Remains) else left
        self.script.world = after
        await recover(after, expected, orderly=False)
        self.script.models = expected
        await sweep_all(after)
        if self.found_disks:
            return  # files of copies that had failed, or of creates that were torn, count as copies until a scrub
        await verify(after, imported=self.imported)
        found = await scrub(after)
        if not after.lost and not any(disk.faults.fired for disk in world.disks):
            assert not found.findings, "; ".join(map(str, found.findings))

    async def serve(self, name: str) -> None:
        async with self.script.open(name, self.settings) as actor:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.writer, actor, SPOTS[::2])
                nursery.start_soon(self.writer, actor, SPOTS[1::2])
                nursery.start_soon(self.admin, actor)
                nursery.start_soon(self.keeper, actor)
                if not self.calm:
                    nursery.start_soon(self.weather)
            calm_down(self.script.here)
            if not actor.dataset.failed:
                await actor.check()

    async def writer(self, actor: Actor, spots: tuple[int, ...]) -> None:
        await super().writer(actor, spots)
        for start in self.rng.sample(range(0, 240, 8), self.rng.randint(0, 12)):
            await self.attempt(actor.write, start * 4096, 8 * 4096)
            await self.rest()

    async def keeper(self, actor: StoreActor) -> None:
        rng = self.rng
        for _ in range(rng.randint(0, 8)):
            kind = rng.randrange(8)
            if kind < 3:
                await self.attempt(actor.upload)
                await self.attempt(actor.clean, rng.random() < 0.3)
            elif kind == 3:
                await self.attempt(actor.sweep)
            elif kind == 4:
                await self.attempt(self.scrub)
            elif kind == 5:
                await self.attempt(self.drain)
            elif kind == 6:
                await self.attempt(move, self.script, "resilver")
            else:
                await self.attempt(actor.backup)
            await trio.sleep(rng.random())

    async def scrub(self) -> None:
        self.result.healed += (await scrub(self.script.here)).counters.healed

    async def drain(self) -> None:
        """One disk of three, for a while."""
        world = self.script.here
        if len(world.disks) > 2:
            key = self.rng.randint(1, 3)
            world.catalog.set_backend_state(key, "draining")
            try:
                await move(self.script, "evacuate")
            finally:
                world.catalog.set_backend_state(key, "online")

    async def weather(self) -> None:
        stores = self.script.here.stores
        while stores and self.rng.random() < 0.5:
            await trio.sleep(self.rng.random() * 10)
            for store in stores:
                store.objects.down = True
            await trio.sleep(self.rng.choice((1.0, 20.0, 60.0)) * self.rng.random())
            for store in stores:
                store.objects.down = False

    async def attempt(self, operation: Callable[..., Awaitable[object]], *args: object) -> None:
        try:
            await operation(*args)
        except* SdsError:
            self.result.refused += 1

    # -- the end -------------------------------------------------------------------------------------------------------

    def heard(self, place: str, event: str, name: str) -> None:
        self.digest.update(f"{place} {event} {name} {trio.current_time():.9f} {self.script.counter}\n".encode())
        if self.left is not None:
            return
        if event == "catalog:end" or event.startswith("delete:"):
            missing = missing_files(self.script.here)
            assert not missing, f"{place} {event} {name}: {missing}"
        if self.countdown:
            self.countdown -= 1
            if not self.countdown:
                self.die()

    def die(self) -> None:
        world, rng = self.script.here, self.rng
        if self.ending == "loss" and has_files_on_disks_only(world):
            self.ending = "power"  # copies that were lost before, and not made anew yet: nothing was promised
        if self.ending == "kill":
            self.left = world.kill(), self.script.expected(False)
            self.result.kills += 1
        elif self.ending == "power":
            self.left = _one(list(world.power_cuts(6, rng)), rng), self.script.expected(True)
            self.result.power_cuts += 1
        else:
            with_disks = self.ending == "loss"
            remains = rng.choice(list(world.losses(6, rng, with_disks)))
            self.left = remains, self.script.expected_after_loss(with_disks)
            self.result.losses += with_disks
            self.result.homes += not with_disks
        self.scope.cancel()


def calm_down(world: StoreWorld) -> None:
    for disk in world.disks:
        disk.faults = FaultPlan()
    for store in world.stores:
        store.objects.rates = Rates()
        store.objects.down = False


def has_files_on_disks_only(world: StoreWorld) -> bool:
    stores = {row.id for row in world.catalog.backends() if row.url.startswith("s3:")}
    return any(stores.isdisjoint(row.copies) for row in world.catalog.all_segments())


def _one(worlds: list[World], rng: random.Random) -> StoreWorld:
    chosen = rng.randrange(len(worlds))
    for number, other in enumerate(worlds):
        if number != chosen:
            other.close()
    found = worlds[chosen]
    assert isinstance(found, StoreWorld)
    return found
