"""A directory on a local file system as a backend: DirectoryFiles in threads.

  D5  Whatever may wait runs in a thread. A cancelled operation has either not begun or is complete when its task goes
      on. Only reads of cached pages and `usage` happen in the event loop (B7).
  D6  The threads are this backend's own: a disk that hangs holds up nobody else.
  D7  A thread that hangs is left alone after HANG_S (B13, bounded.py). It may still finish its work at any later time,
      so until it has ended it keeps the name: whatever would change a file of this name is refused at once. Hence
        - no late put or delete hits what was put later, under the same name;
        - no late write hits a new file: one that is deleted may become room for the next (spares.py), with its blocks;
        - a late write, sync or seal hits a file that is final (B4), which it stays until it is deleted;
        - a late create leaves a file that nobody knows: garbage for the cleaner.
      When the process ends, at most the system calls that are under way still happen.

Writes use O_DIRECT where the file system and the caller's memory allow it: filling the page cache costs more
than the write itself, and the stage above is the better cache. Names, durability, errors: directory_files.py.
"""

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import trio

from sds.core.errors import BackendError, Hung

from .base import HANG_S, Stat, Usage
from .bounded import in_thread
from .directory_files import DirectoryFiles
from .directory_reader import DirectoryReader
from .names import check_prefix
from .reader_threads import ReaderThreads

THREADS = 16
"""Of one backend, for everything but reads of open files."""
Result = TypeVar("Result")


class DirectoryBackend:
    def __init__(self, path: str, limit_s: float = HANG_S) -> None:
        """Raises BadInput or Missing; blocks for one system call. `limit_s`: B13."""
        self._files = DirectoryFiles(path)
        self._limit_s = limit_s
        self._limiter = trio.CapacityLimiter(THREADS)
        self._reader_threads = ReaderThreads(limit_s=limit_s)
        self._hanging: Counter[str] = Counter()
        self._final: set[str] = set()

    @property
    def url(self) -> str:
        return self._files.url

    async def create(self, name: str, size_bytes: int) -> None:
        await self._change(name, lambda: self._files.create(name, size_bytes))

    async def write(self, name: str, offset: int, data: memoryview, sync: bool = False) -> None:
        await self._fill(name, lambda: self._files.write(name, offset, data, sync))

    async def sync(self, name: str) -> None:
        await self._fill(name, lambda: self._files.sync(name))

    async def seal(self, name: str, size_bytes: int) -> None:
        await self._fill(name, lambda: self._files.seal(name, size_bytes))

    async def open(self, name: str) -> DirectoryReader:
        def drop(fd: int | None) -> None:
            if fd is not None:
                self._reader_threads.close_later(fd)

        fd = await self._thread(name, lambda: self._files.open_for_reading(name), drop)
        return DirectoryReader(self.url, name, fd, self._reader_threads)

    async def put(self, name: str, data: bytes) -> None:
        await self._change(name, lambda: self._files.put(name, data))

    async def get(self, name: str, size_limit_bytes: int) -> bytes:
        return await self._thread(name, lambda: self._files.get(name, size_limit_bytes))

    async def delete(self, name: str) -> None:
        await self._change(name, lambda: self._files.delete(name))
        self._final.discard(name)

    async def list(self, prefix: str) -> list[Stat]:
        return await self._thread(prefix, lambda: self._files.find(prefix))

    async def settle(self, prefix: str) -> None:
        """B12: a file stays where it was made."""
        check_prefix(self.url, prefix)
        await trio.lowlevel.checkpoint()

    def usage(self) -> Usage:
        return self._files.usage()

    async def close(self) -> None:
        """A thread that hangs still uses the descriptors: then they stay open until the process ends."""
        try:
            if not self._limiter.borrowed_tokens:
                with trio.CancelScope(shield=True):
                    await self._thread(".", self._files.close)
        finally:
            self._reader_threads.close()

    async def _fill(self, name: str, work: Callable[[], None]) -> None:
        """A write, sync or seal: B4 also where it had no answer."""
        if name in self._final:
            raise BackendError(f"{self.url}: {name}: failed earlier (no answer); write the data elsewhere")
        try:
            await self._change(name, work)
        except Hung:
            self._final.add(name)
            raise

    async def _change(self, name: str, work: Callable[[], None]) -> None:
        """D7."""
        if self._hanging[name] > 0:
            raise BackendError(f"{self.url}: {name}: an earlier operation on it still hangs; try again later")

        def count(by: int) -> None:
            self._hanging[name] += by
            if not self._hanging[name]:
                del self._hanging[name]

        try:
            await self._thread(name, work, lambda _: count(-1))
        except Hung:
            count(1)  # Without a thread it has been taken off already.
            raise

    async def _thread(
        self, name: str, work: Callable[[], Result], late: Callable[[Result | None], None] | None = None
    ) -> Result:
        return await in_thread(work, self._limiter, f"{self.url}: {name}", self._limit_s, late)
