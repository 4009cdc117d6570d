"""Operations on a volume in a world, carried out on the engine and on the model alike."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sds.core.errors import Busy
from sds.dataset.dataset import Dataset, Settings
from sds.dataset.nodes import Nodes
from sds.log.reader import FrameReader
from sds.maintenance.sweep import sweep_family
from sds.pool.rows import SnapshotRow
from sds.volume.volume import Volume
from tests.sim.oracle import BLOCK, ZERO, Intent, State, Tap, VolumeModel
from tests.sim.world import QUIET, World

VOLUME_SIZE = 1 << 20
"""Two map pages."""
CHUNK = 64 << 10
ZEROS = bytes(CHUNK)


@dataclass(slots=True)
class Script:
    """The models of all volumes of a world, and the content for the next write."""

    world: World
    models: dict[str, VolumeModel] = field(default_factory=dict)
    counter: int = 0
    swept: int = 0

    def create(self, name: str, size_bytes: int = VOLUME_SIZE) -> VolumeModel:
        self.world.catalog.create_dataset(name, "volume", size_bytes)
        model = self.models[name] = VolumeModel.new(name, State(size_bytes))
        return model

    def content(self, length: int) -> bytes:
        self.counter += 1
        return content_of(self.counter, length)

    @asynccontextmanager
    async def open(self, name: str, settings: Settings = QUIET) -> "AsyncIterator[Actor]":
        async with self.world.open(name, settings) as dataset:
            yield Actor(self, dataset, self.models[name])

    def expected(self, power_cut: bool) -> dict[str, VolumeModel]:
        return {name: model.after_crash(power_cut) for name, model in self.models.items()}


class Actor:
    """An open volume and its model."""

    def __init__(self, script: Script, dataset: Dataset, model: VolumeModel) -> None:
        self.script = script
        self.dataset = dataset
        self.volume = Volume(dataset)
        self.model = model
        self.tap = Tap(dataset, model)

    async def write(self, offset: int, length: int) -> None:
        await self.write_data(offset, self.script.content(length))

    async def write_data(self, offset: int, data: bytes) -> None:
        with self.tap.intent(Intent(offset, data)):
            if not self.volume.write_nowait(offset, memoryview(data)):
                await self.volume.write(offset, memoryview(data))

    async def zero(self, offset: int, length: int, no_hole: bool) -> None:
        with self.tap.intent(Intent(offset, bytes(length))):
            await self.volume.write_zeroes(offset, length, no_hole)

    async def trim(self, offset: int, length: int) -> None:
        with self.tap.intent(Intent(offset, bytes(length))):
            await self.volume.trim(offset, length)

    async def flush(self) -> None:
        target = self.model.acknowledged
        await self.volume.flush()
        self.model.promise(target)

    async def checkpoint(self) -> None:
        target = self.model.acknowledged
        await self.dataset.checkpoint()
        self.model.promise(target)

    async def resize(self, size_bytes: int) -> None:
        with self.tap.intent(Intent()) as intent:
            await self.dataset.resize(size_bytes)
        self.model.promise(intent.last_sequence)

    async def snapshot(self, name: str) -> None:
        with self.tap.intent(Intent(snapshot=name)) as intent:
            await self.dataset.snapshot(name)
        self.model.snapshots[name].acknowledged = True
        self.model.promise(intent.last_sequence)

    async def rollback(self, name: str) -> None:
        row = self._snapshot_row(name)
        if row.root is None:
            await self.checkpoint()
            row = self._snapshot_row(name)
        with self.tap.intent(Intent(snapshot=name)) as intent:
            await self.dataset.rollback(row)
        self.model.promise(intent.last_sequence)

    async def destroy(self, name: str) -> None:
        row = self._snapshot_row(name)
        self.model.snapshots[name].destroying = True
        await self.dataset.env.run_blocking(self.script.world.catalog.destroy_snapshot, row.id)
        del self.model.snapshots[name]

    async def clone(self, snapshot: str, name: str) -> None:
        """The clone exists from the commit of its row on."""
        catalog = self.script.world.catalog
        size_bytes = self._snapshot_row(snapshot).size_bytes
        state = self.model.snapshots[snapshot].state

        def create() -> None:
            catalog.create_dataset(name, "volume", size_bytes, origin=self._snapshot_row(snapshot))
            self.script.models[name] = VolumeModel.new(name, state)

        try:
            await self.dataset.env.run_blocking(create)
        except Busy:
            await self.checkpoint()
            await self.dataset.env.run_blocking(create)

    async def sweep(self) -> None:
        """P5: what is dead goes. Whether something was deleted that is not, the checks will tell."""
        dataset = self.dataset
        reader = FrameReader(dataset.pool, dataset.env, {})
        try:
            swept = await sweep_family(dataset.pool, dataset.row.family, Nodes(reader, None), dataset.env)
            self.script.swept += swept.segments
        finally:
            reader.close()

    async def read_all(self) -> State:
        return await read_state(self.volume)

    async def check(self) -> None:
        """The open volume shows exactly what the model has."""
        assert await self.read_all() == self.model.now, f"{self.model.name} reads wrong"

    def _snapshot_row(self, name: str) -> SnapshotRow:
        return self.script.world.catalog.snapshot(self.dataset.row.id, name)


def content_of(number: int, length: int) -> bytes:
    """Never the same twice; every second one does not compress."""
    if number % 2 or length < 8:
        return (b"%08d" % number + random.Random(number).randbytes(length))[:length]
    return (b"%08d" % number * (length // 8 + 1))[:length]


async def read_state(volume: Volume) -> State:
    size = volume.size_bytes
    data = b"".join(await volume.read(0, size))
    return state_of(size, data)


def state_of(size_bytes: int, data: bytes) -> State:
    blocks = {}
    for at in range(0, len(data), CHUNK):
        if data[at : at + CHUNK] != ZEROS:
            for start in range(at, min(at + CHUNK, len(data)), BLOCK):
                block = data[start : start + BLOCK].ljust(BLOCK, b"\0")
                if block != ZERO:
                    blocks[start // BLOCK] = block
    return State(size_bytes, blocks)
