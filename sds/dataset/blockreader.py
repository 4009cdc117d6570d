"""Reading the blocks of an inode: by the map, from memory at once or from the backends with waiting.

  BR1  What is returned is what the map said at one point in time.
  BR2  Every byte that comes from a backend is verified (R1 of sds.log.reader).
"""

from typing import Final

import trio

from sds.core.address import BLOCK_SIZE, BLOCKS_PER_FRAME
from sds.core.errors import BackendError, Corrupt, Missing
from sds.core.frame import Buffer
from sds.core.page import PAGE_BLOCKS
from sds.dataset.blockmap import INODE_SHIFT, PAGE_SHIFT, BlockMap, page_keys
from sds.log.reader import FrameReader

ZEROS: Final = memoryview(bytes(PAGE_BLOCKS * BLOCK_SIZE))
READS_AT_ONCE: Final = 64
TRIES: Final = 5
_OFFSET_IN_PAGE: Final = PAGE_BLOCKS - 1


class BlockReader:
    def __init__(self, blocks: BlockMap, reader: FrameReader) -> None:
        self._map = blocks
        self._reader = reader

    def blocks_nowait(self, inode: int, first: int, count: int) -> list[Buffer] | None:
        """Whole blocks; None: not all are in memory. They may be views of a slot of the stage: use them at once."""
        buffers: list[Buffer] = []
        one, several = self._reader.block_nowait, self._reader.blocks_nowait
        for address, run in runs(self._map, inode, first, count):
            if address < 0:
                return None
            if not address:
                buffers += zeros(run)
                continue
            found = one(address) if run == 1 else several(address, run)
            if found is None:
                return None
            buffers.append(found)
        return buffers

    async def blocks(self, inode: int, first: int, count: int) -> list[Buffer]:
        """Whole blocks. Corrupt, BackendError."""
        for attempt in range(TRIES):
            for key in page_keys(inode, first, count):
                await self._map.page(key)
            buffers = self.blocks_nowait(inode, first, count)
            if buffers is not None:
                return buffers
            wanted = runs(self._map, inode, first, count)
            try:
                if wanted[0][0] >= 0:
                    return await self._fetch(wanted)
            except (Missing, Corrupt):
                # Overwritten and swept since we looked at the map? Then the map leads elsewhere now.
                if attempt == TRIES - 1 or wanted == runs(self._map, inode, first, count):
                    raise
        raise BackendError(f"blocks {first}+{count} change faster than they can be read: try again")

    async def _fetch(self, wanted: list[tuple[int, int]]) -> list[Buffer]:
        """The bytes at these runs: as they were at the point in time when the map was looked at."""
        buffers: list[list[Buffer]] = [[] for _ in wanted]
        queue = []
        for index, (address, run) in enumerate(wanted):
            if not address:
                buffers[index] = zeros(run)
                continue
            found = self._reader.blocks_nowait(address, run)
            if found is None:
                queue.append(index)
            else:
                buffers[index] = [bytes(found)]  # a slot of the stage may get another tenant while we wait
        if len(queue) == 1:
            buffers[queue[0]] = [await self._reader.blocks(*wanted[queue[0]])]
        else:
            await self._fetch_several(wanted, queue, buffers)
        return [buffer for part in buffers for buffer in part]

    async def _fetch_several(
        self, wanted: list[tuple[int, int]], queue: list[int], buffers: list[list[Buffer]]
    ) -> None:
        queue.reverse()
        errors: list[Exception] = []

        async def work() -> None:
            while queue and not errors:
                index = queue.pop()
                try:
                    buffers[index] = [await self._reader.blocks(*wanted[index])]
                except Exception as error:  # told below, one for all
                    errors.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(min(len(queue), READS_AT_ONCE)):
                nursery.start_soon(work)
        if errors:
            raise errors[0]


def zeros(count: int) -> list[Buffer]:
    """`count` blocks of zeros."""
    buffers: list[Buffer] = []
    while count:
        step = min(count, PAGE_BLOCKS)
        buffers.append(ZEROS[: step * BLOCK_SIZE])
        count -= step
    return buffers


def runs(blocks: BlockMap, inode: int, first: int, count: int) -> list[tuple[int, int]]:
    """(address, count) of runs within one frame, or of holes (address 0), in order; address -1: map page not loaded."""
    found: list[tuple[int, int]] = []
    pages = blocks.pages
    high = inode << INODE_SHIFT
    end = first + count
    while first < end:
        page = pages.get(high | first >> PAGE_SHIFT)
        if page is None:
            return [(-1, count)]
        at = first & _OFFSET_IN_PAGE
        stop = min(PAGE_BLOCKS, at + end - first)
        first += stop - at
        while at < stop:
            address = page[at]
            start = at
            at += 1
            if address:
                limit = min(stop, start + BLOCKS_PER_FRAME - (address & 31))
                following = address + 1
                while at < limit and page[at] == following:
                    at += 1
                    following += 1
            else:
                while at < stop and not page[at]:
                    at += 1
            found.append((address, at - start))
    return found


def trimmed(buffers: list[Buffer], skip: int, length: int) -> list[Buffer]:
    """Cut whole blocks down to `length` bytes from `skip` on."""
    surplus = sum(map(len, buffers)) - skip - length
    if skip:
        buffers[0] = memoryview(buffers[0])[skip:]
    if surplus:
        buffers[-1] = memoryview(buffers[-1])[:-surplus]
    return buffers
