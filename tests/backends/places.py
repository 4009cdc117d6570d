"""The backends that the conformance suite runs on, made by name."""

import mmap
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio

from backends.base import Backend
from backends.cache import MemoryCache
from backends.device import DeviceBackend, format_device
from backends.directory import DirectoryBackend
from backends.faulty import FaultPlan, Faulty
from backends.memory import MemoryBackend
from backends.object_backend import Limits, ObjectBackend
from tests.sim.disk import SimDisk
from tests.sim.objects import SimObjects
from tests.sim.schedule import run_seeded

PAGE = 4096
KINDS = ("memory", "directory", "directory-in-memory", "sim", "faulty", "objects", "device")
Result = TypeVar("Result")


@contextmanager
def backend_of(kind: str, capacity_bytes: int | None = None) -> Iterator[Backend]:
    """An empty backend; the capacity binds only where the backend can be told one."""
    if kind.startswith("directory"):
        place = "/dev/shm" if kind == "directory-in-memory" else None
        path = tempfile.mkdtemp(prefix="sds-test-", dir=place)
        try:
            yield DirectoryBackend(path)
        finally:
            shutil.rmtree(path)
    elif kind == "device":
        with tempfile.NamedTemporaryFile(prefix="sds-test-") as image:
            image.truncate(max(64 << 20, capacity_bytes or 1 << 30))
            yield DeviceBackend(format_device(image.name, force=False))
    elif kind == "sim":
        yield SimDisk(seed=7, capacity_bytes=capacity_bytes)
    elif kind == "faulty":
        yield Faulty(MemoryBackend(capacity_bytes or 1 << 30), FaultPlan())
    elif kind == "objects":
        limits = Limits(capacity_bytes=capacity_bytes or 1 << 40)
        yield ObjectBackend(SimObjects(seed=7), SimDisk(seed=7), MemoryCache(), limits)
    else:
        yield MemoryBackend(capacity_bytes or 1 << 30)


def run_on(
    kind: str, body: Callable[[Backend], Awaitable[Result]], capacity_bytes: int | None = None
) -> Result:
    """Runs the body on an empty backend, closes it, and hands back what the body returned."""

    async def main() -> Result:
        result = await body(backend)
        await backend.close()
        return result

    with backend_of(kind, capacity_bytes) as backend:
        return run_seeded(main, seed=1) if kind in ("sim", "memory", "faulty", "objects") else trio.run(main)


def pages(count: int, fill: int = 1) -> memoryview:
    """Page-aligned memory; every page differs from the others and from those of another fill."""
    memory = mmap.mmap(-1, count * PAGE)
    for index in range(count):
        memory[index * PAGE : (index + 1) * PAGE] = bytes([fill, index % 251]) * (PAGE // 2)
    return memoryview(memory)


async def read_back(backend: Backend, name: str, offset: int, length: int) -> bytes:
    reader = await backend.open(name)
    try:
        into = bytearray(length)
        await reader.read(offset, memoryview(into))
        return bytes(into)
    finally:
        reader.close()
