"""A pool that lives in simulated disks, a memory catalog and memory stages: everything an engine touches.

  WO1  `kill` is what the next process finds after kill -9: stages, page caches and the catalog as they are.
  WO2  `power_cuts` are legal worlds after a power cut: no stages, disks as sds.tests.sim.disk says, the catalog as
       committed (SQLite commits are durable).
  WO3  Copies share nothing mutable with the original and do not disturb it. Time in the catalog stands still.
  WO4  `watch` is called at every event of a disk and before and after every catalog transaction: between two calls
       nothing becomes durable, so crashes at these points are all there are.
"""

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import trio

from sds.dataset.dataset import Dataset, Settings, open_dataset
from sds.log.env import Env
from sds.log.stage import MemoryStage, Stage
from sds.pool.backup import PREFIX, prune
from sds.pool.catalog import Catalog
from sds.pool.home import Home
from sds.pool.pool import Pool
from sds.pool.rows import PoolRow
from sds.pool.state import state_generation
from tests.sim.disk import SimDisk, SyncFailure

T = TypeVar("T")
SEGMENT_SIZE = 64 << 10
NOWHERE = Home(Path("/nonexistent"))
UUID = bytes(range(100, 116))
QUIET = Settings(
    stage_slots=4, flush_delay_s=1e9, checkpoint_delay_s=1e9, checkpoint_bytes=1 << 40, idle_delay_s=1e9,
    map_pages_max=64,
)  # fmt: skip
"""Nothing happens in the background by time."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a world is made of."""

    disks: int = 1
    copies: int = 1
    segment_size: int = SEGMENT_SIZE
    capacity_bytes: int | None = None
    latency: int = 1
    sync_failure: SyncFailure = "drop"
    stores: int = 0
    """Object stores, behind the disks (sds.tests.sim.store_world)."""


class SimPool(Pool):
    """Backs up without a thread."""

    async def backup(self) -> int:
        data = self.catalog.export_state()
        generation = state_generation(data)
        for backend in self.backends.values():
            await backend.put(f"{PREFIX}{generation:016x}", data)
            await prune(backend)
        return generation


class World:
    def __init__(self, shape: Shape, disks: list[SimDisk], catalog: Catalog, stages: dict[int, MemoryStage]) -> None:
        self.shape = shape
        self.disks = disks
        self.catalog = catalog
        self.stages = stages
        self.watch: Callable[[str], None] | None = None
        self.think_s: Callable[[], float] | None = None
        """How long a catalog transaction takes; None: no time."""
        for disk in disks:
            disk.observer = self._disk_event

    @classmethod
    def new(cls, shape: Shape, seed: int = 0) -> "World":
        row = PoolRow(uuid=UUID, name="sim", segment_size=shape.segment_size, copies=shape.copies)
        catalog = Catalog.in_memory(row, no_time)
        disks = []
        for number in range(shape.disks):
            url = f"sim:{number}"
            catalog.add_backend(url, f"{number:032x}", f"label-{number}")
            disks.append(
                SimDisk(
                    seed * 16 + number, shape.capacity_bytes, sync_failure=shape.sync_failure,
                    latency=shape.latency, url=url,
                )
            )  # fmt: skip
        return cls(shape, disks, catalog, {})

    # -- what an engine needs ------------------------------------------------------------------------------------------

    def pool(self, without: frozenset[int] = frozenset()) -> Pool:
        """`without`: numbers of disks that cannot be reached."""
        rows = self.catalog.backends()
        backends = {row.id: self.disks[at] for at, row in enumerate(rows) if at not in without}
        missing = {row.id: "unplugged" for at, row in enumerate(rows) if at in without}
        return SimPool(NOWHERE, self.catalog.pool(), self.catalog, dict(backends), missing)

    def env(self) -> Env:
        return Env(self._run_blocking, self._open_stage)

    async def _run_blocking(self, function: Callable[..., T], *args: Any) -> T:
        """Like a thread: cancelled before it starts or not at all."""
        if self.think_s is None:
            await trio.lowlevel.checkpoint()
        else:
            await trio.sleep(self.think_s())
        self._event("catalog:start")
        result = function(*args)
        self._event("catalog:end")
        if self.think_s is not None:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.think_s())
        return result

    def _open_stage(self, pool: bytes, dataset: int, slot_count: int, slot_size: int) -> Stage:
        stage = self.stages.get(dataset)
        if stage is None or stage.slot_size != slot_size:
            stage = self.stages[dataset] = MemoryStage(slot_count, slot_size)
        return stage

    @asynccontextmanager
    async def open(
        self, name: str, settings: Settings = QUIET, without: frozenset[int] = frozenset()
    ) -> AsyncIterator[Dataset]:
        row = self.catalog.dataset(name)
        async with open_dataset(self.pool(without), row, self.env(), settings, "the simulator") as dataset:
            yield dataset

    # -- crashes -------------------------------------------------------------------------------------------------------

    def kill(self) -> "World":
        """WO1."""
        stages = {key: MemoryStage(s.slot_count, s.slot_size, bytes(s.content)) for key, s in self.stages.items()}
        return World(self.shape, [disk.kill_state() for disk in self.disks], self._catalog_copy(), stages)

    def power_cuts(self, limit: int, rng: random.Random) -> "Iterator[World]":
        """WO2: at most `limit` worlds. With several disks their states are paired as they come, then at random."""
        per_disk = [list(disk.crash_states(limit, rng)) for disk in self.disks]
        image = self.catalog.serialize()
        for number in range(min(limit, max(map(len, per_disk)))):
            disks = [
                states[number] if number < len(states) else rng.choice(states).kill_state() for states in per_disk
            ]
            if number > 1 and len(disks) > 1:
                disks = [states[rng.randrange(len(states))].kill_state() for states in per_disk]
            yield World(self.shape, disks, Catalog.deserialize(image, no_time), {})

    def copy(self) -> "World":
        return self.kill()

    def digest(self) -> int:
        """Of all that outlives a crash: equal worlds need not be checked twice."""
        parts: list[object] = [self.catalog.serialize()]
        for disk in self.disks:
            for name, file in sorted(disk._names.items()):
                parts.append((name, file.live.size, tuple(sorted((i, hash(p)) for i, p in file.live.pages.items()))))
        parts += [(key, bytes(stage.content)) for key, stage in sorted(self.stages.items())]
        return hash(tuple(parts))

    def _catalog_copy(self) -> Catalog:
        return Catalog.deserialize(self.catalog.serialize(), no_time)

    def close(self) -> None:
        self.catalog.close()

    # -- events --------------------------------------------------------------------------------------------------------

    def _disk_event(self, event: str, _: str) -> None:
        self._event(event)

    def _event(self, event: str) -> None:
        if self.watch is not None:
            self.watch(event)


def no_time() -> float:
    return 0.0
