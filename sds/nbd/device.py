"""What the NBD server needs of the thing it exports. `sds.volume.Volume` is one; tests have one in memory.

  D1  The *_nowait methods never wait: they do the whole operation atomically, or nothing and return None/False;
      then the caller awaits the method without the suffix.
  D2  Ranges are validated by the server before: 0 <= offset, 0 < length, offset + length <= size_bytes.
      Any byte alignment is legal; an operation is atomic against all others of the device.
  D3  A write is visible to all readers when it returns; durable after a flush that began later.
  D4  Errors are SdsErrors; their `errno` says what the client is told.
  D5  Buffers handed out by reads are stable until the next `await` of the caller, unless the caller copies them.
"""

from collections.abc import Sequence
from typing import Protocol

from sds.core.extent import Extent as Extent

Buffer = bytes | bytearray | memoryview


class Device(Protocol):
    read_only: bool

    @property
    def size_bytes(self) -> int:
        """May grow or shrink between requests (resize)."""

    def read_nowait(self, offset: int, length: int) -> Sequence[Buffer] | None:
        """Buffers that together are the bytes, in order; None: would wait, or would fail (read() tells why)."""

    async def read(self, offset: int, length: int) -> Sequence[Buffer]: ...

    def write_nowait(self, offset: int, data: memoryview) -> bool:
        """False: would wait or would fail; nothing was done."""

    async def write(self, offset: int, data: memoryview) -> None: ...

    async def trim(self, offset: int, length: int) -> None:
        """Unmap the whole 4 KiB blocks inside the range; parts of blocks keep their bytes."""

    async def write_zeroes(self, offset: int, length: int, no_hole: bool) -> None:
        """The range reads as zeros; with `no_hole` it stays allocated (O(length) then)."""

    async def flush(self) -> None:
        """All writes that returned before the call are durable."""

    async def cache(self, offset: int, length: int) -> None:
        """Prefetch; a hint, errors are not told."""

    async def extents(self, offset: int, length: int, count_max: int) -> Sequence[Extent]:
        """base:allocation from `offset` on: at least one extent, together at most `length` bytes."""

    def bitmap_names(self) -> Sequence[str]:
        """Snapshots that changed blocks can be told against (`qemu:dirty-bitmap:NAME`)."""

    async def changed(self, bitmap: str, offset: int, length: int, count_max: int) -> Sequence[Extent]:
        """Changed blocks since the snapshot; as `extents`. Missing if the snapshot is gone."""
