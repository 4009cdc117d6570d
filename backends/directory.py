"""A directory on a local file system as a backend: DirectoryFiles in threads.

  D5  Whatever may wait runs in a thread and is never abandoned there: a cancelled operation has either not
      begun or is complete when its task goes on. Only reads of cached pages happen in the event loop (B7).
  D6  The threads are this backend's own: a disk that hangs holds up nobody else.

Writes use O_DIRECT where the file system and the caller's memory allow it: filling the page cache costs more
than the write itself, and the stage above is the better cache. Names, durability, errors: directory_files.py.
"""

from collections.abc import Callable
from typing import TypeVar

import trio

from .base import Stat, Usage
from .directory_files import DirectoryFiles
from .directory_reader import DirectoryReader
from .reader_threads import ReaderThreads

THREADS = 16
"""Of one backend, for everything but reads of open files."""
Result = TypeVar("Result")


class DirectoryBackend:
    def __init__(self, path: str) -> None:
        """Raises BadInput or Missing; blocks for one system call."""
        self._files = DirectoryFiles(path)
        self._limiter = trio.CapacityLimiter(THREADS)
        self._reader_threads = ReaderThreads()

    @property
    def url(self) -> str:
        return self._files.url

    async def create(self, name: str, size_bytes: int) -> None:
        await self._thread(lambda: self._files.create(name, size_bytes))

    async def write(self, name: str, offset: int, data: memoryview, sync: bool = False) -> None:
        await self._thread(lambda: self._files.write(name, offset, data, sync))

    async def sync(self, name: str) -> None:
        await self._thread(lambda: self._files.sync(name))

    async def seal(self, name: str, size_bytes: int) -> None:
        await self._thread(lambda: self._files.seal(name, size_bytes))

    async def open(self, name: str) -> DirectoryReader:
        fd = await self._thread(lambda: self._files.open_for_reading(name))
        return DirectoryReader(self.url, name, fd, self._reader_threads)

    async def put(self, name: str, data: bytes) -> None:
        await self._thread(lambda: self._files.put(name, data))

    async def get(self, name: str, size_limit_bytes: int) -> bytes:
        return await self._thread(lambda: self._files.get(name, size_limit_bytes))

    async def delete(self, name: str) -> None:
        await self._thread(lambda: self._files.delete(name))

    async def list(self, prefix: str) -> list[Stat]:
        return await self._thread(lambda: self._files.find(prefix))

    def usage(self) -> Usage:
        return self._files.usage()

    async def close(self) -> None:
        with trio.CancelScope(shield=True):
            await self._thread(self._files.close)
        self._reader_threads.close()

    async def _thread(self, work: Callable[[], Result]) -> Result:
        return await trio.to_thread.run_sync(work, limiter=self._limiter, abandon_on_cancel=False)
