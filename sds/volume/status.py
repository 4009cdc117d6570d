"""What a client may ask about a volume beside its bytes: what is allocated, what changed since a snapshot.

  ST1  What is told holds at one moment during the request: nothing is told to be a hole, or unchanged, that was
       written before the request began.
  ST2  One request looks at PAGES_PER_REQUEST map pages at most, and then tells less than was asked for; holes and
       subtrees without a change cost nothing.
"""

from collections.abc import Sequence
from typing import Final

from sds.core.errors import Corrupt, Missing, SdsError
from sds.core.extent import CLEAN, DATA, DIRTY, HOLE, Extent, ExtentList
from sds.core.page import PAGE_BLOCKS
from sds.dataset.blockmap import INODE_SHIFT
from sds.dataset.blockreader import TRIES, runs
from sds.dataset.diff import ChangedRuns
from sds.dataset.nodes import Nodes, expect_root
from sds.volume.reading import INODE, VolumeReader

PAGE_BYTES: Final = PAGE_BLOCKS << 12
PAGES_PER_REQUEST: Final = 4096
PREFETCH_BYTES_MAX: Final = 16 << 20


class StatusReader(VolumeReader):
    """The part of sds.nbd.device.Device that reads and tells."""

    async def newest_root(self) -> int:
        """The root of a tree with everything that was written until now."""
        raise AssertionError("subclasses know")

    async def cache(self, offset: int, length: int) -> None:
        """Have the range in memory as far as that is a matter of reading it once."""
        end = min(offset + min(length, PREFETCH_BYTES_MAX), self.size_bytes)
        try:
            while offset < end:
                step = min(end - offset, PAGE_BYTES)
                await self.read(offset, step)
                offset += step
        except SdsError:
            return  # a hint; the read that follows tells

    async def extents(self, offset: int, length: int, count_max: int) -> Sequence[Extent]:
        found = ExtentList(offset, length, count_max)
        first, last = offset // PAGE_BYTES, -(-(offset + length) // PAGE_BYTES)
        looked_at = 0
        async for index in self._map.mapped_pages(INODE, first, last):
            await self._map.page(INODE << INODE_SHIFT | index)
            if not found.add(index * PAGE_BYTES, HOLE):
                break
            end = index * PAGE_BLOCKS
            more = True
            for address, count in runs(self._map, INODE, end, PAGE_BLOCKS):
                end += count
                more = found.add(end << 12, DATA if address else HOLE)
            looked_at += 1
            if not more or looked_at == PAGES_PER_REQUEST:
                break
        else:
            found.add(offset + length, HOLE)
        return found.result()

    def bitmap_names(self) -> Sequence[str]:
        return [row.name for row in self._pool.catalog.snapshots(self._row.id)]

    async def changed(self, bitmap: str, offset: int, length: int, count_max: int) -> Sequence[Extent]:
        for attempt in range(TRIES):
            newest = await self.newest_root()
            snapshot = self._pool.catalog.snapshot(self._row.id, bitmap)
            old = expect_root(snapshot.root, f"snapshot @{bitmap}")
            try:
                return await self._changed(old, newest, ExtentList(offset, length, count_max), offset, length)
            except (Missing, Corrupt):
                # The newest tree may have been overwritten and swept while we walked it. A newer one cannot have.
                if attempt == TRIES - 1:
                    raise
        raise AssertionError("not reached")

    async def _changed(
        self, old: int, newest: int, found: ExtentList, offset: int, length: int
    ) -> Sequence[Extent]:
        first, last = offset // PAGE_BYTES, -(-(offset + length) // PAGE_BYTES)
        changed = ChangedRuns(Nodes(self._reader, None), old, newest, INODE, first, last)
        async for block, count in changed:
            if block + count << 12 <= offset:
                continue
            if not found.add(block << 12, CLEAN) or not found.add(block + count << 12, DIRTY):
                break
            if changed.pages > PAGES_PER_REQUEST:
                break
        else:
            found.add(offset + length, CLEAN)
        return found.result()
