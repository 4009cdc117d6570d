"""DirectoryCache: the cache of the object backend in a directory that processes share. Contract: cache.py (K1-K4).

  DC1  Whatever may wait for a disk runs in a thread; only reads of pages in memory happen in the event loop.
  DC2  A disk of the cache that fails is a cache miss. One that hangs fails the read whose buffer it holds (B13).
  DC3  Safe to delete at any time, file by file or as a whole. Layout and eviction: cache_files.py.
"""

import contextlib
import logging
import os

import trio

from sds.core.errors import BackendError, Hung

from .base import Backend
from .bounded import in_thread
from .cache import CHUNK_BYTES, chunks_of
from .cache_files import CacheFiles, Entry
from .directory import DirectoryBackend
from .reader_threads import NoAnswer, ReaderThreads

THREADS = 8
_RWF_NOWAIT = os.RWF_NOWAIT
_preadv = os.preadv
_log = logging.getLogger(__name__)


class DirectoryCache:
    def __init__(self, directory: str, size_limit_bytes: int, chunk_bytes: int = CHUNK_BYTES) -> None:
        """BadInput if the directory cannot be one. The limit counts allocated blocks; exceeded for about a second."""
        self.files = CacheFiles(directory, size_limit_bytes, chunk_bytes)
        self._entries: dict[str, Entry] = {}
        self._limiter = trio.CapacityLimiter(THREADS)
        self._threads = ReaderThreads()

    @property
    def chunk_bytes(self) -> int:
        return self.files.chunk_bytes

    async def find(self, name: str) -> int | None:
        with contextlib.suppress(BackendError):
            return await in_thread(lambda: self.files.find(name), self._limiter, name)
        return None

    async def open(self, name: str, size_bytes: int) -> "DirectoryCacheFile":
        entry = self._entries.get(name)
        if entry is None or entry.size_bytes != size_bytes:
            entry = await self._open_entry(name, size_bytes)
        if entry is not None:
            entry.users += 1
        return DirectoryCacheFile(self, entry, size_bytes)

    async def _open_entry(self, name: str, size_bytes: int) -> Entry | None:
        try:
            work, limiter = (lambda: self.files.open(name, size_bytes)), self._limiter
            made = await in_thread(work, limiter, name, late=self._close_late)
        except (OSError, BackendError) as error:
            _log.warning("%s: %s is not cached: %s", self.files.directory, name, error)
            return None
        there = self._entries.get(name)
        if there is not None and there.size_bytes == size_bytes:  # Somebody was quicker.
            self.files.close(made)
            return there
        self._entries[name] = made
        return made

    async def take(self, name: str, size_bytes: int, journal: Backend) -> bool:
        if not isinstance(journal, DirectoryBackend):
            return False
        source = f"{journal.url}/{name}"
        with contextlib.suppress(BackendError):
            return await in_thread(lambda: self.files.take(name, size_bytes, source), self._limiter, name)
        return False

    async def drop(self, name: str) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            entry.kill()
        with contextlib.suppress(BackendError):
            await in_thread(lambda: self.files.unlink(name), self._limiter, name)

    def used_bytes(self) -> int:
        return self.files.used_bytes

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
        self._threads.close()

    # For its files

    def read_nowait(self, entry: Entry, offset: int, into: memoryview) -> bool:
        copy = entry.copy
        if not self._covers(copy.present, offset, len(into)):
            return False
        self.files.touch(entry)
        try:
            return _preadv(copy.fd, (into,), offset, _RWF_NOWAIT) == len(into)
        except OSError:
            return False

    async def read(self, entry: Entry, offset: int, into: memoryview) -> bool:
        copy = entry.copy
        if not self._covers(copy.present, offset, len(into)):
            return False
        self.files.touch(entry)
        await trio.lowlevel.checkpoint_if_cancelled()
        entry.reads += 1
        error, count = await self._threads.read(copy.fd, offset, into, lambda _: self._let_go(entry))
        if isinstance(error, NoAnswer):
            raise Hung(f"{self.files.directory}: {entry.name}: the cache does not answer: is its disk still there?")
        return error is None and count == len(into)

    async def write(self, entry: Entry, chunk: int, data: memoryview) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        entry.reads += 1
        work, limiter = (lambda: self.files.write(entry, chunk, data)), self._limiter
        try:
            await in_thread(work, limiter, entry.name, late=lambda _: self._let_go(entry))
        except Hung as error:
            _log.warning("%s: %s", self.files.directory, error)
        except BaseException:
            self._let_go(entry)
            raise
        else:
            self._let_go(entry)

    def hint(self, entry: Entry, offset: int, length: int) -> None:
        self._threads.hint(entry.copy.fd, offset, length)

    def forget(self, entry: Entry) -> None:
        """Unlinks in the event loop: this is rare, and it must not be found again from now on."""
        self.files.unlink(entry.name)
        entry.copy.present[:] = bytes(len(entry.copy.present))

    def _close_late(self, entry: Entry | None) -> None:
        if entry is not None:
            self.files.close(entry)

    def release(self, entry: Entry) -> None:
        entry.users -= 1
        self._close_if_unused(entry)

    def _close_if_unused(self, entry: Entry) -> None:
        if entry.users or entry.reads:
            return
        if self._entries.get(entry.name) is entry:
            del self._entries[entry.name]
        if entry.copy.fd >= 0:
            self.files.close(entry)

    def _let_go(self, entry: Entry) -> None:
        entry.reads -= 1
        self._close_if_unused(entry)

    def _covers(self, present: bytearray, offset: int, length: int) -> bool:
        chunks = chunks_of(offset, length, self.files.chunk_bytes)
        return chunks.stop <= len(present) and all(present[chunk] for chunk in chunks)


class DirectoryCacheFile:
    """`entry` is None where nothing can be kept."""

    __slots__ = ("_cache", "_entry", "_size_bytes")

    def __init__(self, cache: DirectoryCache, entry: Entry | None, size_bytes: int) -> None:
        self._cache = cache
        self._entry = entry
        self._size_bytes = size_bytes

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def has(self, chunk: int) -> bool:
        entry = self._entry
        return entry is not None and chunk < len(entry.copy.present) and bool(entry.copy.present[chunk])

    def read_nowait(self, offset: int, into: memoryview) -> bool:
        return self._entry is not None and self._cache.read_nowait(self._entry, offset, into)

    async def read(self, offset: int, into: memoryview) -> bool:
        return self._entry is not None and await self._cache.read(self._entry, offset, into)

    async def write(self, chunk: int, data: memoryview) -> None:
        if self._entry is not None:
            await self._cache.write(self._entry, chunk, data)

    def will_need(self, offset: int, length: int) -> None:
        if self._entry is not None:
            self._cache.hint(self._entry, offset, length)

    def forget(self) -> None:
        if self._entry is not None:
            self._cache.forget(self._entry)

    def close(self) -> None:
        entry, self._entry = self._entry, None
        if entry is not None:
            self._cache.release(entry)
