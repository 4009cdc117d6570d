"""A backend in memory: the contract at its simplest, for tests and for measuring what stands above it.

  Y1  "Durable" means until the object is gone: sync and seal add nothing, and a created file cannot vanish, so what
      stands above is never caught forgetting the first sync (B1). Errors and limits are a disk's; waiting is one
      checkpoint.
  Y2  An open reader shares the bytes of its file: it sees later writes, and outlives the name.
"""

import trio

from sds.core.errors import BackendError, Corrupt, Exists, Missing, NoSpace

from .base import Stat, Usage
from .names import check_name, check_prefix, check_range, check_read, check_size


class _File:
    __slots__ = ("data", "sealed")

    def __init__(self, data: bytearray) -> None:
        self.data = data
        self.sealed = False


class MemoryBackend:
    def __init__(self, capacity_bytes: int = 1 << 30, url: str = "memory:") -> None:
        self._capacity_bytes = capacity_bytes
        self._url = url
        self._files: dict[str, _File] = {}

    @property
    def url(self) -> str:
        return self._url

    async def create(self, name: str, size_bytes: int) -> None:
        check_name(self._url, name)
        check_size(self._url, name, size_bytes, 1 << 62)
        await trio.lowlevel.checkpoint()
        if name in self._files:
            raise Exists(f"{self._url}: {name}: exists already; choose another name")
        self._need_room(name, size_bytes)
        self._files[name] = _File(bytearray(size_bytes))

    async def write(self, name: str, offset: int, data: memoryview, sync: bool = False) -> None:
        await trio.lowlevel.checkpoint()
        file = self._existing(name)
        check_range(self._url, name, offset, len(data), len(file.data))
        if file.sealed:
            raise BackendError(f"{self._url}: {name}: is sealed; create another file")
        file.data[offset : offset + len(data)] = data

    async def sync(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        self._existing(name)

    async def seal(self, name: str, size_bytes: int) -> None:
        await trio.lowlevel.checkpoint()
        file = self._existing(name)
        check_size(self._url, name, size_bytes, len(file.data))
        del file.data[size_bytes:]
        file.sealed = True

    async def open(self, name: str) -> "MemoryReader":
        await trio.lowlevel.checkpoint()
        return MemoryReader(self._url, name, self._existing(name))

    async def put(self, name: str, data: bytes) -> None:
        check_name(self._url, name)
        await trio.lowlevel.checkpoint()
        old = self._files.get(name)
        self._need_room(name, len(data) - (len(old.data) if old else 0))
        self._files[name] = _File(bytearray(data))

    async def get(self, name: str, size_limit_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        file = self._existing(name)
        if len(file.data) > size_limit_bytes:
            raise Corrupt(f"{self._url}: {name}: {len(file.data)} bytes, expected at most {size_limit_bytes}")
        return bytes(file.data)

    async def delete(self, name: str) -> None:
        check_name(self._url, name)
        await trio.lowlevel.checkpoint()
        self._files.pop(name, None)

    async def list(self, prefix: str) -> list[Stat]:
        check_prefix(self._url, prefix)
        await trio.lowlevel.checkpoint()
        return [Stat(name, len(f.data)) for name, f in sorted(self._files.items()) if name.startswith(prefix)]

    async def settle(self, prefix: str) -> None:
        """B12: a file stays where it was made."""
        check_prefix(self.url, prefix)
        await trio.lowlevel.checkpoint()

    def usage(self) -> Usage:
        used = sum(len(file.data) for file in self._files.values())
        return Usage(self._capacity_bytes, max(0, self._capacity_bytes - used))

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()

    def _existing(self, name: str) -> _File:
        check_name(self._url, name)
        if name not in self._files:
            raise Missing(f"{self._url}: {name}: no such file")
        return self._files[name]

    def _need_room(self, name: str, size_bytes: int) -> None:
        if size_bytes > self.usage().free_bytes:
            raise NoSpace(f"{self._url}: {name}: no room for {size_bytes} bytes; free space or add a backend")


class MemoryReader:
    __slots__ = ("_file", "_name", "_url")

    def __init__(self, url: str, name: str, file: _File) -> None:
        self._url = url
        self._name = name
        self._file: _File | None = file

    def read_nowait(self, offset: int, into: memoryview) -> bool:
        file = self._file
        if file is None or offset < 0 or offset + len(into) > len(file.data):
            return False
        into[:] = memoryview(file.data)[offset : offset + len(into)]
        return True

    async def read(self, offset: int, into: memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self._file is None:
            raise BackendError(f"{self._url}: {self._name}: the reader is closed")
        check_read(self._url, self._name, offset, len(into), len(self._file.data))
        self.read_nowait(offset, into)

    def will_need(self, offset: int, length: int) -> bool:
        return True

    def close(self) -> None:
        self._file = None
