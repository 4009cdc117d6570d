"""A pool in memory with small segments, and a volume in it with a model of what it must hold."""

import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio

from backends.base import Backend
from backends.memory import MemoryBackend
from sds.daemon.opened import Opened, opened
from sds.dataset.dataset import Settings
from sds.dataset.nodes import Nodes
from sds.log.env import Env
from sds.log.reader import FrameReader
from sds.log.stage import MemoryStage, Stage
from sds.maintenance.sweep import Swept, sweep_family
from sds.pool.create import create_pool
from sds.pool.home import Home
from sds.pool.lease import Holder
from sds.pool.pool import Pool
from sds.pool.rows import SnapshotRow
from sds.volume.snapshot import SnapshotVolume

T = TypeVar("T")
BLOCK = 4096
SEGMENT_SIZE = 256 << 10
SIZE_BYTES = 8 << 20
ME = Holder.me("test")
QUIET = Settings(flush_delay_s=1e9, checkpoint_delay_s=1e9, checkpoint_bytes=1 << 40, idle_delay_s=1e9)


class Crash(Exception):
    """The worker dies here; its stage stays."""


class RecordingBackend(MemoryBackend):
    """Remembers in which order files came and went."""

    def __init__(self, capacity_bytes: int) -> None:
        super().__init__(capacity_bytes)
        self.history: list[tuple[str, str]] = []

    async def put(self, name: str, data: bytes) -> None:
        await super().put(name, data)
        self.history.append(("put", name))

    async def delete(self, name: str) -> None:
        self.history.append(("delete", name))
        await super().delete(name)

    async def segment_files(self) -> set[int]:
        return {int(stat.name.split("/")[2].split("-")[0], 16) for stat in await self.list("segments/")}


class World:
    def __init__(self, pool: Pool, backend: RecordingBackend) -> None:
        self.pool = pool
        self.backend = backend
        self.crash_on: set[str] = set()
        """Names of catalog methods: instead of calling one, the worker dies."""
        self.env = memory_env(self.crash_on)

    @asynccontextmanager
    async def open(self, name: str = "vm", settings: Settings = QUIET) -> AsyncIterator[Opened]:
        row = self.pool.catalog.dataset(name)
        with self.pool.lease(row, ME):
            async with opened(self.pool, row.id, ME, self.env, settings) as here:
                yield here

    async def sweep(self, name: str = "vm") -> Swept:
        """As a command does that has nothing open."""
        reader = FrameReader(self.pool, self.env, {})
        try:
            family = self.pool.catalog.dataset(name).family
            return await sweep_family(self.pool, family, Nodes(reader, None), self.env)
        finally:
            reader.close()

    async def content(self, name: str, snapshot: SnapshotRow | None = None) -> bytes:
        """Read without opening: what the catalog and the backends have."""
        row = self.pool.catalog.dataset(name)
        if snapshot is None:
            assert row.checkpoint is not None
            root, size_bytes = row.checkpoint.root, row.size_bytes
            snapshot = SnapshotRow(0, row.id, "head", 0, size_bytes, root)
        device = SnapshotVolume(self.pool, row, snapshot, self.env)
        try:
            return b"".join(await device.read(0, snapshot.size_bytes))
        finally:
            device.close()


def in_world(work: Callable[[World], Awaitable[None]], capacity_bytes: int = 1 << 30) -> None:
    async def body() -> None:
        backend = RecordingBackend(capacity_bytes)

        def connect(url: str, local: Path | None) -> Backend:
            return backend

        with tempfile.TemporaryDirectory() as directory:
            home = Home(Path(directory) / "home")
            pool = await create_pool(home, "tank", ["memory:"], connect, lambda: 1000.0, 1, SEGMENT_SIZE)
            pool.catalog.create_dataset("vm", "volume", SIZE_BYTES)
            try:
                await work(World(pool, backend))
            finally:
                await pool.close()

    trio.run(body)


def memory_env(crash_on: Collection[str]) -> Env:
    stages: dict[int, bytearray] = {}

    async def run_blocking(function: Callable[..., T], *arguments: Any) -> T:
        await trio.lowlevel.checkpoint()
        if function.__name__ in crash_on:
            raise Crash(function.__name__)
        return function(*arguments)

    def open_stage(pool: bytes, dataset: int, slot_count: int, slot_size: int) -> Stage:
        left = bytes(stages[dataset]) if dataset in stages else None  # taken over with its own slot count
        stage = MemoryStage(len(left) // slot_size if left else slot_count, slot_size, left)
        stages[dataset] = stage.content
        return stage

    return Env(run_blocking, open_stage)


class Writer:
    """Random whole blocks on an open volume, and the model."""

    def __init__(self, here: Opened, seed: int, model: bytes | bytearray | None = None) -> None:
        self.here = here
        self.rng = random.Random(seed)
        self.model = bytearray(model if model is not None else SIZE_BYTES)

    async def write(self, count: int) -> None:
        for _ in range(count):
            length = self.rng.choice((1, 1, 2, 4)) * BLOCK
            offset = self.rng.randrange((SIZE_BYTES - length) // BLOCK) * BLOCK
            await self.put(offset, self.rng.randbytes(length))

    async def put(self, offset: int, data: bytes) -> None:
        await self.here.volume.write(offset, memoryview(data))
        self.model[offset : offset + len(data)] = data

    async def fill(self) -> None:
        for offset in range(0, SIZE_BYTES, 16 * BLOCK):
            await self.put(offset, self.rng.randbytes(16 * BLOCK))

    async def verify(self) -> None:
        got = b"".join(await self.here.volume.read(0, len(self.model)))
        assert got == self.model


