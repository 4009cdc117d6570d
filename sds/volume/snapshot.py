"""A snapshot of a volume, to be read only: a fixed root, no log. Implements sds.nbd.device.Device.

  VS1  Whoever serves it holds the snapshot (Pool.hold_snapshot, shared), so it is neither destroyed nor swept.
  VS2  Nothing is ever written; every attempt is Failed (a read-only device), whatever the client was told before.
  VS3  Bounded memory: PAGES_MAX map pages, and the caches of Nodes and FrameReader.
"""

from typing import Final

from sds.core.errors import Failed
from sds.dataset.blockmap import BlockMap
from sds.dataset.layer import Layers
from sds.dataset.nodes import Nodes, expect_root
from sds.log.env import Env
from sds.log.reader import FrameReader
from sds.pool.pool import Pool
from sds.pool.rows import DatasetRow, SnapshotRow
from sds.volume.status import StatusReader

PAGES_MAX: Final = 1 << 14


class SnapshotVolume(StatusReader):
    read_only = True

    def __init__(self, pool: Pool, row: DatasetRow, snapshot: SnapshotRow, env: Env) -> None:
        self._root = expect_root(snapshot.root, f"snapshot @{snapshot.name}")
        self._size_bytes = snapshot.size_bytes
        self._name = f"{pool.name}/{row.name}@{snapshot.name}"
        reader = FrameReader(pool, env, {})
        blocks = BlockMap(Nodes(reader, None), Layers(self._root), snapshot.mapped_blocks, PAGES_MAX)
        super().__init__(pool, row, blocks, reader)

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    async def newest_root(self) -> int:
        return self._root

    def close(self) -> None:
        self._reader.close()

    def write_nowait(self, offset: int, data: memoryview) -> bool:
        return False

    async def write(self, offset: int, data: memoryview) -> None:
        raise self._refusal()

    async def trim(self, offset: int, length: int) -> None:
        raise self._refusal()

    async def write_zeroes(self, offset: int, length: int, no_hole: bool) -> None:
        raise self._refusal()

    async def flush(self) -> None:
        """There is nothing that is not durable."""

    def _refusal(self) -> Failed:
        return Failed(f"{self._name} is a snapshot and never changes: clone it to write")
