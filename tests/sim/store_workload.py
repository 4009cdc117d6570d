"""Operations of a worker in a pool with stores and copies: as sds.daemon carries them out, beside the model."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from sds.core.errors import Busy
from sds.daemon.backups import Backups
from sds.dataset.dataset import Dataset, Settings, open_dataset
from sds.dataset.nodes import Nodes
from sds.log.env import sole_error
from sds.log.reader import FrameReader
from sds.maintenance.cleaner import Cleaned, Cleaner
from sds.maintenance.limiter import Limiter
from sds.maintenance.moves import Goal, Stuck, plan, policies
from sds.maintenance.moving import Moved, carry_out, finish, places_of
from sds.maintenance.scrub import Scrub, Scrubbed
from sds.maintenance.sweep import sweep_family
from sds.pool.files import files_of
from sds.pool.rows import DatasetRow
from tests.sim.oracle import State, VolumeModel
from tests.sim.store_oracle import LongHistory
from tests.sim.store_world import StoreWorld
from tests.sim.workload import VOLUME_SIZE, Actor, Script
from tests.sim.world import QUIET, no_time


@dataclass(slots=True)
class StoreScript(Script):
    """Like Script; volumes have histories that reach behind a recovery."""

    packs: int = 0
    moved: int = 0

    @property
    def here(self) -> StoreWorld:
        assert isinstance(self.world, StoreWorld)
        return self.world

    def create(self, name: str, size_bytes: int = VOLUME_SIZE, settles: bool = False) -> VolumeModel:
        properties = {"flush": "backend"} if settles else {}
        self.world.catalog.create_dataset(name, "volume", size_bytes, properties)
        model = self.models[name] = LongHistory(name, [(0, State(size_bytes))], settles=settles)
        return model

    @asynccontextmanager
    async def open(self, name: str, settings: Settings = QUIET) -> AsyncIterator["StoreActor"]:
        async with open_as_worker(self.here, self.world.catalog.dataset(name), settings) as (dataset, backups):
            yield StoreActor(self, dataset, self.models[name], backups)

    def expected_after_loss(self, with_disks: bool) -> dict[str, VolumeModel]:
        floors = {row.name: row.uploaded.sequence if row.uploaded else 0 for row in self.world.catalog.datasets()}
        disks = {row.id for row in self.world.catalog.backends() if not row.url.startswith("s3:")}
        if any(disks.isdisjoint(row.copies) for row in self.world.catalog.all_segments()):
            with_disks = True  # a copy on a disk had failed before: what is left of it may be in a journal
        found: dict[str, VolumeModel] = {}
        for name, model in self.models.items():
            assert isinstance(model, LongHistory)
            found[name] = model.after_loss(floors[name], with_disks)
        return found


@asynccontextmanager
async def open_as_worker(
    world: StoreWorld, row: DatasetRow, settings: Settings = QUIET
) -> AsyncIterator[tuple[Dataset, Backups]]:
    """As `opened` of sds.daemon does, without lease and owner: OD2."""
    pool = world.pool()
    backups = Backups(pool.backup)
    try:
        async with open_dataset(pool, row, world.env(), settings, "the simulator") as dataset, trio.open_nursery() as n:
            await pool.backup()
            n.start_soon(backups.run)
            try:
                yield dataset, backups
            finally:
                n.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise sole_error(group) from None


class StoreActor(Actor):
    def __init__(self, script: StoreScript, dataset: Dataset, model: VolumeModel, backups: Backups) -> None:
        super().__init__(script, dataset, model)
        self.here = script
        self.backups = backups

    async def snapshot(self, name: str) -> None:
        await super().snapshot(name)
        self.backups.request()

    async def rollback(self, name: str) -> None:
        await self.dataset.newest_root()
        uploads = self.dataset.uploads
        uploads.rollbacks += 1
        uploads.is_rolling_back = True
        try:
            await super().rollback(name)
        finally:
            uploads.is_rolling_back = False
        self.backups.request()

    async def destroy(self, name: str) -> None:
        uploads = self.dataset.uploads
        if uploads.is_needed and uploads.may_lag_behind_rollback:
            await uploads.bring()
        assert isinstance(self.model, LongHistory)
        self.model.destroyed[name] = self.model.snapshots[name]
        await super().destroy(name)
        self.backups.request()

    async def clone(self, snapshot: str, name: str) -> None:
        catalog = self.script.world.catalog
        origin = catalog.snapshot(self.dataset.row.id, snapshot)
        if origin.root is None:
            await self.dataset.newest_root()
            origin = catalog.snapshot(self.dataset.row.id, snapshot)
        await self.dataset.uploads.need(origin.sequence)
        state = self.model.snapshots[snapshot].state
        settles = isinstance(self.model, LongHistory) and self.model.settles
        properties = catalog.dataset_by_id(self.dataset.row.id).properties

        def create() -> None:
            catalog.create_dataset(name, "volume", origin.size_bytes, properties, origin)
            self.script.models[name] = LongHistory(name, [(0, state)], settles=settles, is_clone=True)

        await self.dataset.env.run_blocking(create)
        self.backups.request()

    async def upload(self) -> None:
        await self.checkpoint()
        if self.dataset.uploads.is_needed:
            await self.dataset.uploads.bring()

    async def backup(self) -> None:
        await self.dataset.pool.backup()

    async def clean(self, small: bool = False) -> Cleaned:
        dataset = self.dataset
        nodes = Nodes(dataset.reader, None)
        cleaner = Cleaner(dataset.pool, dataset.row.family, nodes, dataset.env, self.here.here.turn, Limiter(0))
        try:
            cleaned = await cleaner.clean(await cleaner.survey(), small)
        except Busy:
            return Cleaned()
        dataset.reader.forget(set(cleaned.segments))
        self.here.packs += cleaned.packs
        return cleaned

    async def move(self, goal: Goal) -> list[Stuck]:
        return await move(self.here, goal)


async def move(script: StoreScript, goal: Goal) -> list[Stuck]:
    """One pass of sds.daemon.evacuating, which has the batches and the patience."""
    world = script.here
    pool, env = world.pool(), world.env()
    files = files_of(await env.run_blocking(pool.catalog.all_segments))
    policy = policies(await env.run_blocking(pool.catalog.datasets), pool.copies)
    found = plan(files, places_of(pool), policy, goal)
    async with world.turn():
        moved: list[Moved] = [await carry_out(pool, env, one, Limiter(0)) for one in found.moves]
        await finish(pool, env, moved)
    script.moved += sum(bool(one.added or one.dropped) for one in moved)
    return found.stuck


async def sweep_all(world: StoreWorld) -> None:
    """All families: after an import files that somebody had deleted may have rows."""
    pool, env = world.pool(), world.env()
    for family in world.catalog.families():
        reader = FrameReader(pool, env, {})
        try:
            await sweep_family(pool, family, Nodes(reader, None), env)
        finally:
            reader.close()


async def scrub(world: StoreWorld) -> Scrubbed:
    return await Scrub(world.pool(), world.env(), world.turn, no_time, Limiter(0)).run(anew=True)


def flip_bits(content: bytes, rng: random.Random, count: int = 3) -> bytes:
    damaged = bytearray(content)
    for _ in range(count):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)
