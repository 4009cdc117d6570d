"""A raw block device as a backend: DeviceFiles in threads. What is where: device_format.py. Rules: device_table.py.

Threads and their end: bounded.py. Reads of open files: device_reader.py.
"""

import os
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import trio

from sds.core.errors import BackendError, Hung

from .base import Stat, Usage
from .bounded import in_thread
from .device_files import DeviceFiles
from .device_format import Entry
from .device_reader import DeviceReader
from .device_setup import accept_damage, format_device, wipe_device
from .names import check_prefix
from .reader_threads import ReaderThreads

__all__ = ["DeviceBackend", "accept_damage", "format_device", "wipe_device"]
THREADS = 16
"""Of one backend, for everything but reads of open files."""
Result = TypeVar("Result")


class DeviceBackend:
    def __init__(self, url: str) -> None:
        """Raises BadInput, Missing, Corrupt or BackendError; blocks for a few reads."""
        self._files = DeviceFiles(url)
        self._limiter = trio.CapacityLimiter(THREADS)
        self._reader_threads = ReaderThreads()
        self._hanging: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return self._files.url

    @property
    def damaged_entries(self) -> int:
        """Entries of the table that both copies have lost, as of the last look at it."""
        return self._files.damaged_entries

    async def create(self, name: str, size_bytes: int) -> None:
        await self._thread(name, lambda: self._files.create(name, size_bytes))

    async def write(self, name: str, offset: int, data: memoryview, sync: bool = False) -> None:
        await self._thread(name, lambda: self._files.write(name, offset, data, sync))

    async def sync(self, name: str) -> None:
        await self._thread(name, lambda: self._files.sync(name))

    async def seal(self, name: str, size_bytes: int) -> None:
        await self._thread(name, lambda: self._files.seal(name, size_bytes))

    async def open(self, name: str) -> DeviceReader:
        def discard(result: tuple[int, Entry] | None) -> None:
            if result is not None:
                os.close(result[0])

        fd, entry = await self._thread(name, lambda: self._files.open_for_reading(name), discard)
        return DeviceReader(self.url, fd, entry, self._reader_threads)

    async def put(self, name: str, data: bytes) -> None:
        await self._thread(name, lambda: self._files.put(name, data))

    async def get(self, name: str, size_limit_bytes: int) -> bytes:
        return await self._thread(name, lambda: self._files.get(name, size_limit_bytes))

    async def delete(self, name: str) -> None:
        await self._thread(name, lambda: self._files.delete(name))

    async def list(self, prefix: str) -> list[Stat]:
        return await self._thread(prefix, lambda: self._files.find(prefix))

    async def settle(self, prefix: str) -> None:
        """B12: a file stays where it was made."""
        check_prefix(self.url, prefix)
        await trio.lowlevel.checkpoint()

    def usage(self) -> Usage:
        return self._files.usage()

    async def close(self) -> None:
        with trio.CancelScope(shield=True):
            await self._thread("close", self._files.close)
        self._reader_threads.close()

    async def _thread(
        self, name: str, work: Callable[[], Result], discard: Callable[[Result | None], None] | None = None
    ) -> Result:
        """A name on which a thread hangs is refused until it has ended: nothing late hits what came later."""
        if self._hanging.get(name, 0) > 0:
            raise BackendError(f"{self.url}: {name}: an earlier operation on it hangs; is the device still there?")

        def late(result: Result | None) -> None:
            self._hanging[name] -= 1  # Before the other half, if no thread had begun: 0 in the end.
            if discard is not None:
                discard(result)

        try:
            return await in_thread(work, self._limiter, f"{self.url}: {name}", late=late)
        except Hung:
            self._hanging[name] += 1
            raise
