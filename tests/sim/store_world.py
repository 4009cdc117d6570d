"""Worlds with several disks and object stores: what a machine leaves when it dies, and what an import makes of it.

  SWO1  A store has three parts: the objects, which outlive everything; its journal, a disk of this machine; its cache,
        which no crash outlives here.
  SWO2  `kill` and `power_cuts` are as in world.py, for journals too; of requests to a store that are in flight each
        was carried out or never will be (SO4).
  SWO3  `losses`: this machine with catalog, stages and journals is gone. Either its disks, too, or they are found as a
        power cut left them. `Remains.imported` is what `sds pool import` does with the rest, by the same functions.
  SWO4  One process has one object backend per store: `pool` gives the same until the world is copied.
  SWO5  `listen` is told of each event by place, name of the file (or of the transaction): WO4 by name.
"""

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import trio

from backends.base import Backend
from backends.cache import MemoryCache
from backends.object_backend import Limits, ObjectBackend
from sds.core.errors import BackendError, SdsError
from sds.pool.backup import PREFIX, newest_backup, prune
from sds.pool.catalog import Catalog
from sds.pool.found import find_segments
from sds.pool.label import Label, write_label
from sds.pool.pool import Pool
from sds.pool.rows import PoolRow
from sds.pool.state import journalled_segments, packs_in_use, state_generation
from tests.sim.disk import SimDisk
from tests.sim.objects import SimObjects
from tests.sim.world import NOWHERE, UUID, Shape, World, no_time

T = TypeVar("T")
JOURNAL_BYTES = 4 << 20
Listener = Callable[[str, str, str], None]
"""Place (URL, `journal`, or `catalog`), event, name."""


class StorePool(Pool):
    """Backs up without a thread; else as sds.pool.backup does."""

    async def backup(self) -> int:
        data = self.catalog.export_state()
        generation = state_generation(data)
        failures: list[str] = []

        async def put(backend: Backend) -> None:
            try:
                await backend.put(f"{PREFIX}{generation:016x}", data)
                await prune(backend)
            except SdsError as error:
                failures.append(str(error))

        async with trio.open_nursery() as nursery:
            for backend in self.backends.values():
                nursery.start_soon(put, backend)
        count = len(self.backends)
        if count - len(failures) < max(1, min(self.copies, count)):
            raise BackendError(f"catalog backup failed: {'; '.join(failures)}")
        return generation


@dataclass(slots=True)
class SimStore:
    """SWO1."""

    objects: SimObjects
    journal: SimDisk
    process: ObjectBackend | None = None

    @classmethod
    def new(cls, seed: int, number: int, latency: int) -> "SimStore":
        url = f"s3:sim-{number}"
        return cls(SimObjects(seed, url=url), SimDisk(seed + 1, latency=latency, url=f"journal:{number}"))

    @property
    def url(self) -> str:
        return self.objects.url

    def backend(self, journal_bytes: int) -> ObjectBackend:
        if self.process is None:
            self.process = ObjectBackend(self.objects, self.journal, MemoryCache(), Limits(journal_bytes))
        return self.process

    def peek(self, name: str) -> bytes | None:
        local = self.journal.peek(name)
        return self.objects.peek(name) if local is None else local


class StoreWorld(World):
    def __init__(
        self, shape: Shape, disks: list[SimDisk], stores: list[SimStore], catalog: Catalog, stages: dict[int, Any],
        lost: frozenset[str] = frozenset(), journal_bytes: int = JOURNAL_BYTES,
    ) -> None:  # fmt: skip
        super().__init__(shape, disks, catalog, stages)
        self.stores = stores
        self.lost = lost
        """URLs of backends that are gone."""
        self.journal_bytes = journal_bytes
        self.listen: Listener | None = None
        self.turns = trio.Lock()
        for disk in disks:
            disk.observer = partial(self._heard, disk.url)
        for store in stores:
            store.objects.observer = partial(self._heard, store.url)
            store.journal.observer = partial(self._heard, "journal")

    @classmethod
    def of(cls, shape: Shape, seed: int = 0, journal_bytes: int = JOURNAL_BYTES) -> "StoreWorld":
        """Empty; `label` comes next."""
        row = PoolRow(uuid=UUID, name="sim", segment_size=shape.segment_size, copies=shape.copies)
        catalog = Catalog.in_memory(row, no_time)
        made = World.new(shape, seed)
        made.catalog.close()
        stores = [SimStore.new(seed * 16 + 8 + 2 * n, n, shape.latency) for n in range(shape.stores)]
        for number, url in enumerate([disk.url for disk in made.disks] + [store.url for store in stores]):
            catalog.add_backend(url, f"{number:032x}", f"label-{number}")
        return cls(shape, made.disks, stores, catalog, {}, journal_bytes=journal_bytes)

    async def label(self) -> None:
        pool = self.pool()
        for row in self.catalog.backends():
            await write_label(pool.backends[row.id], Label(UUID.hex(), "sim", row.uuid, 0))
        await pool.backup()

    # -- what an engine needs ------------------------------------------------------------------------------------------

    def pool(self, without: frozenset[int] = frozenset()) -> Pool:
        """`without`: ids of backends that cannot be reached."""
        found: dict[str, Backend] = {disk.url: disk for disk in self.disks}
        found |= {store.url: store.backend(self.journal_bytes) for store in self.stores}
        rows = self.catalog.backends()
        there = {row.id: found[row.url] for row in rows if row.url not in self.lost and row.id not in without}
        missing = {row.id: "unplugged" for row in rows if row.id not in there}
        return StorePool(NOWHERE, self.catalog.pool(), self.catalog, there, missing)

    async def _run_blocking(self, function: Callable[..., T], *args: Any) -> T:
        name = getattr(function, "__name__", "")
        await trio.lowlevel.checkpoint()
        self._heard("catalog", "catalog:start", name)
        result = function(*args)
        self._heard("catalog", "catalog:end", name)
        return result

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One process of this home moves files (MV7)."""
        async with self.turns:
            yield

    def _heard(self, place: str, event: str, name: str) -> None:
        if self.listen is not None:
            self.listen(place, event, name)
        self._event(event)

    def peek(self, backend_id: int, name: str) -> bytes | None:
        """The file as who has this machine would read it."""
        url = next(row.url for row in self.catalog.backends() if row.id == backend_id)
        if url in self.lost:
            return None
        everything: list[SimDisk | SimStore] = [*self.disks, *self.stores]
        return next(one.peek(name) for one in everything if one.url == url)

    # -- crashes -------------------------------------------------------------------------------------------------------

    def kill(self) -> "StoreWorld":
        """WO1. Requests in flight are not carried out any more; other worlds have them."""
        plain = super().kill()
        stores = [SimStore(_settled(store.objects), store.journal.kill_state()) for store in self.stores]
        return self._with(plain.disks, stores, plain.catalog, plain.stages)

    def power_cuts(self, limit: int, rng: random.Random) -> Iterator[World]:
        """WO2, SWO2."""
        mine = [*self.disks, *(store.journal for store in self.stores)]
        per_disk = [list(disk.crash_states(limit, rng)) for disk in mine]
        for number in range(min(limit, max(map(len, per_disk)))):
            cut = [states[number] if number < len(states) else rng.choice(states).kill_state() for states in per_disk]
            if number > 1 and len(cut) > 1:
                cut = [rng.choice(states).kill_state() for states in per_disk]
            stores = [
                SimStore(self._landed(store, number, rng), journal)
                for store, journal in zip(self.stores, cut[len(self.disks) :], strict=True)
            ]
            yield self._with(cut[: len(self.disks)], stores, self._catalog_copy(), {})

    def losses(self, limit: int, rng: random.Random, with_disks: bool) -> "Iterator[Remains]":
        """SWO3."""
        per_disk = [list(disk.crash_states(limit, rng)) for disk in self.disks]
        for number in range(limit):
            stores = [self._landed(store, number, rng) for store in self.stores]
            disks = [] if with_disks else [states[min(number, len(states) - 1)].kill_state() for states in per_disk]
            yield Remains(self.shape, disks, stores, self.journal_bytes)

    def _landed(self, store: SimStore, number: int, rng: random.Random) -> SimObjects:
        states = list(store.objects.crash_states(number + 1, rng))
        return states[min(number, len(states) - 1)].copy()

    def _with(
        self, disks: list[SimDisk], stores: list[SimStore], catalog: Catalog, stages: dict[int, Any]
    ) -> "StoreWorld":
        return StoreWorld(self.shape, disks, stores, catalog, stages, self.lost, self.journal_bytes)

    def digest(self) -> int:
        parts: list[object] = [super().digest()]
        for store in self.stores:
            parts.append(hash(tuple((name, store.objects.peek(name)) for name in store.objects.names())))
            parts += [(name, store.journal.peek(name)) for name in sorted(store.journal._names)]
        return hash(tuple(parts))


def _settled(objects: SimObjects) -> SimObjects:
    return next(objects.crash_states(1, random.Random(0)))


@dataclass(slots=True)
class Remains:
    """SWO3: what is left of a pool without any machine."""

    shape: Shape
    disks: list[SimDisk]
    stores: list[SimObjects]
    journal_bytes: int
    told: list[str] = field(default_factory=list)

    async def imported(self) -> StoreWorld:
        """As sds.pool.transfer does it, without homes, owners and labels."""
        backends: dict[str, Backend] = {disk.url: disk for disk in self.disks}
        for objects in self.stores:
            backends[objects.url] = ObjectBackend(objects, None, MemoryCache(), Limits())
        data, told = await newest_backup(list(backends.values()))
        catalog = Catalog.import_state(data, None, no_time)
        rows = catalog.backends()
        found = await find_segments({row.id: backends[row.url] for row in rows if row.url in backends}, catalog.pool())
        catalog.register_found(found.rows, journalled_segments(data), packs_in_use(data))
        self.told = [*told, *found.told]
        lost = frozenset(row.url for row in rows if row.url not in backends)
        stores = [
            SimStore(objects, SimDisk(number, latency=self.shape.latency, url="journal:new"))
            for number, objects in enumerate(self.stores)
        ]
        world = StoreWorld(self.shape, self.disks, stores, catalog, {}, lost, self.journal_bytes)
        await world.pool().backup()
        return world
