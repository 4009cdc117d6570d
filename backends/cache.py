"""What the object backend wants of a cache, and the trivial one in memory.

A cache keeps *chunks* (`chunk_bytes`, the last one shorter) of files whose content never changes. It may forget
anything at any time, and it may be wrong: whoever reads verifies (frames carry checksums) and says so with `forget`.

  K1  A chunk is there as a whole or not at all. read and read_nowait answer from whole chunks, or say False.
  K2  No trouble of the cache is an error for who reads: it answers "not here" or does not keep.
  K3  A file that was dropped (its owner deleted it) is not kept again by those who have it open.
  K4  Open files stay usable until close, whatever is evicted or dropped meanwhile.
"""

from typing import Protocol, runtime_checkable

import trio

from sds.core.errors import SdsError

from .base import Backend, Reader

CHUNK_BYTES = 256 << 10


@runtime_checkable
class CachedReader(Protocol):
    """A reader (base.py) with a local copy that may be damaged while the original is sound."""

    def distrust(self) -> bool:
        """What you gave me was damaged: forgets the local copy of this file. True: the next read comes from the store.

        Ask once for a read that failed: if what comes from the store is damaged too, the file is.
        """


@runtime_checkable
class OriginalBackend(Protocol):
    """A backend (base.py) that reads through a cache, unless asked not to."""

    async def open_original(self, name: str) -> Reader:
        """As open, but what is read is what is stored: no cache has a say."""


async def open_original(backend: Backend, name: str) -> Reader:
    """What is stored, whatever the backend is."""
    return await (backend.open_original(name) if isinstance(backend, OriginalBackend) else backend.open(name))


class CacheFile(Protocol):
    @property
    def size_bytes(self) -> int: ...

    def has(self, chunk: int) -> bool: ...

    def read_nowait(self, offset: int, into: memoryview) -> bool:
        """Never blocks. False: not all of it is here, or it would have to wait."""

    async def read(self, offset: int, into: memoryview) -> bool:
        """False: not all of it is here."""

    async def write(self, chunk: int, data: memoryview) -> None:
        """Keeps whole chunks from this one on, if it can."""

    def will_need(self, offset: int, length: int) -> None:
        """These bytes, as far as they are here, are read soon."""

    def forget(self) -> None:
        """What is here is damaged: nothing of it is given out again."""

    def close(self) -> None: ...


class Cache(Protocol):
    @property
    def chunk_bytes(self) -> int: ...

    async def find(self, name: str) -> int | None:
        """The size of the file, if something of it is here."""

    async def open(self, name: str, size_bytes: int) -> CacheFile: ...

    async def take(self, name: str, size_bytes: int, journal: Backend) -> bool:
        """Takes a file out of a journal: True if it is gone from there, and those who read it there still can."""

    async def drop(self, name: str) -> None:
        """The file was deleted (K3)."""

    def used_bytes(self) -> int:
        """As far as it knows without looking."""

    async def close(self) -> None: ...


def chunks_of(offset: int, length: int, chunk_bytes: int) -> range:
    """The chunks that a range touches."""
    return range(offset // chunk_bytes, -(-(offset + length) // chunk_bytes)) if length else range(0)


class MemoryCache:
    """For the simulator: whole chunks in a dict, the longest kept go first."""

    def __init__(self, limit_bytes: int = 1 << 30, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._chunk_bytes = chunk_bytes
        self._chunks: dict[tuple[str, int], bytes] = {}
        self._sizes: dict[str, int] = {}
        self._dropped: set[str] = set()

    @property
    def chunk_bytes(self) -> int:
        return self._chunk_bytes

    async def find(self, name: str) -> int | None:
        await trio.lowlevel.checkpoint()
        return self._sizes.get(name)

    async def open(self, name: str, size_bytes: int) -> "MemoryCacheFile":
        await trio.lowlevel.checkpoint()
        self._dropped.discard(name)
        return MemoryCacheFile(self, name, size_bytes)

    async def take(self, name: str, size_bytes: int, journal: Backend) -> bool:
        content = bytearray(size_bytes)
        try:
            reader = await journal.open(name)
            try:
                await reader.read(0, memoryview(content))
            finally:
                reader.close()
        except SdsError:  # K2: it is in the store, which is all that counts.
            return False
        self.keep(name, size_bytes, 0, memoryview(content))
        return False

    async def drop(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        self._dropped.add(name)
        self.forget(name)

    def used_bytes(self) -> int:
        return sum(map(len, self._chunks.values()))

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()

    def keep(self, name: str, size_bytes: int, chunk: int, data: memoryview) -> None:
        if name in self._dropped:
            return
        for at in range(0, len(data), self._chunk_bytes):
            self._chunks[name, chunk + at // self._chunk_bytes] = bytes(data[at : at + self._chunk_bytes])
        self._sizes[name] = size_bytes
        while self.used_bytes() > self._limit_bytes:
            self._chunks.pop(next(iter(self._chunks)))
        left = {kept for kept, _ in self._chunks}
        self._sizes = {kept: size for kept, size in self._sizes.items() if kept in left}

    def chunk(self, name: str, index: int) -> bytes | None:
        return self._chunks.get((name, index))

    def forget(self, name: str) -> None:
        self._sizes.pop(name, None)
        for key in [key for key in self._chunks if key[0] == name]:
            del self._chunks[key]


class MemoryCacheFile:
    def __init__(self, cache: MemoryCache, name: str, size_bytes: int) -> None:
        self._cache = cache
        self._name = name
        self._size_bytes = size_bytes

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def has(self, chunk: int) -> bool:
        return self._cache.chunk(self._name, chunk) is not None

    def read_nowait(self, offset: int, into: memoryview) -> bool:
        size = self._cache.chunk_bytes
        pieces = [self._cache.chunk(self._name, index) for index in chunks_of(offset, len(into), size)]
        whole = b"".join(piece for piece in pieces if piece is not None)
        start = offset % size
        if None in pieces or start + len(into) > len(whole):
            return False
        into[:] = whole[start : start + len(into)]
        return True

    async def read(self, offset: int, into: memoryview) -> bool:
        await trio.lowlevel.checkpoint()
        return self.read_nowait(offset, into)

    async def write(self, chunk: int, data: memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self._cache.keep(self._name, self._size_bytes, chunk, data)

    def will_need(self, offset: int, length: int) -> None:
        """Memory is at hand."""

    def forget(self) -> None:
        self._cache.forget(self._name)

    def close(self) -> None:
        """Nothing to let go of."""
