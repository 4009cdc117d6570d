"""A device in memory: the contract of `sds.nbd.device` at its simplest, and the speed limit of the server.

`patience` > 0 makes a device that always declines the nowait methods and gives way so many times in each
operation; `gate` closes a door that its waiting operations stand at; `failure` is raised by every operation.
"""

from collections.abc import Sequence

import trio

from sds.core.errors import Missing
from sds.nbd.device import Buffer, Extent

BLOCK = 4096
HOLE_ZERO = 3


class MemoryDevice:
    def __init__(self, size_bytes: int, *, read_only: bool = False, patience: int = 0) -> None:
        self.read_only = read_only
        self.data = bytearray(size_bytes)
        self._view = memoryview(self.data)
        self.patience = patience
        self.gate: trio.Event | None = None
        self.failure: Exception | None = None
        self.snapshots: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.waiting = 0

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def _declines(self) -> bool:
        return self.patience > 0 or self.gate is not None or self.failure is not None

    def read_nowait(self, offset: int, length: int) -> Sequence[Buffer] | None:
        if self._declines():
            return None
        return (self._view[offset : offset + length],)

    def write_nowait(self, offset: int, data: memoryview) -> bool:
        if self._declines():
            return False
        self._view[offset : offset + len(data)] = data
        return True

    async def _wait(self, call: str) -> None:
        self.calls.append(call)
        self.waiting += 1
        try:
            for _ in range(self.patience):
                await trio.lowlevel.checkpoint()
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.waiting -= 1
        if self.failure is not None:
            raise self.failure

    async def read(self, offset: int, length: int) -> Sequence[Buffer]:
        await self._wait("read")
        half = length // 2
        return (self._view[offset : offset + half], self._view[offset + half : offset + length])

    async def write(self, offset: int, data: memoryview) -> None:
        await self._wait("write")
        self._view[offset : offset + len(data)] = data

    async def trim(self, offset: int, length: int) -> None:
        await self._wait("trim")
        first, stop = -(-offset // BLOCK) * BLOCK, (offset + length) // BLOCK * BLOCK
        if first < stop:
            self._view[first:stop] = bytes(stop - first)

    async def write_zeroes(self, offset: int, length: int, no_hole: bool) -> None:
        await self._wait("write_zeroes")
        self._view[offset : offset + length] = bytes(length)

    async def flush(self) -> None:
        await self._wait("flush")

    async def cache(self, offset: int, length: int) -> None:
        await self._wait("cache")

    def snapshot(self, name: str) -> None:
        self.snapshots[name] = bytes(self.data)

    def bitmap_names(self) -> Sequence[str]:
        return tuple(self.snapshots)

    async def extents(self, offset: int, length: int, count_max: int) -> Sequence[Extent]:
        await self._wait("extents")
        return self._runs(bytes(self.size_bytes), 0, HOLE_ZERO, offset, length, count_max)

    async def changed(self, bitmap: str, offset: int, length: int, count_max: int) -> Sequence[Extent]:
        await self._wait("changed")
        if bitmap not in self.snapshots:
            raise Missing(f"no snapshot {bitmap}")
        return self._runs(self.snapshots[bitmap], 1, 0, offset, length, count_max)

    def _runs(
        self, other: bytes, different: int, same: int, offset: int, length: int, count_max: int
    ) -> Sequence[Extent]:
        """Runs of blocks that differ from `other`, or not."""
        runs: list[Extent] = []
        at, stop = offset, offset + length
        while at < stop:
            block_end = min(at // BLOCK * BLOCK + BLOCK, stop)
            block = slice(at // BLOCK * BLOCK, at // BLOCK * BLOCK + BLOCK)
            flags = same if self.data[block] == other[block] else different
            if runs and runs[-1].flags == flags:
                runs[-1] = Extent(runs[-1].length + block_end - at, flags)
            elif len(runs) == count_max:
                break
            else:
                runs.append(Extent(block_end - at, flags))
            at = block_end
        return runs
