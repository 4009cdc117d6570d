"""Reading a volume: of the head of an open dataset, or of a snapshot."""

from collections.abc import Sequence
from typing import Final

import trio

from sds.core.address import BLOCK_SIZE, BLOCKS_PER_FRAME
from sds.core.errors import BackendError, BadInput, Corrupt, Missing
from sds.core.frame import Buffer
from sds.core.page import PAGE_BLOCKS
from sds.dataset.blockmap import INODE_SHIFT, PAGE_SHIFT, BlockMap, page_keys
from sds.log.reader import FrameReader
from sds.pool.pool import Pool
from sds.pool.rows import DatasetRow
from sds.volume.readahead import ReadAhead

INODE: Final = 1
ZEROS: Final = memoryview(bytes(PAGE_BLOCKS * BLOCK_SIZE))
READS_AT_ONCE: Final = 64
TRIES: Final = 5
_KEY: Final = INODE << INODE_SHIFT
_OFFSET_IN_PAGE: Final = PAGE_BLOCKS - 1


class VolumeReader:
    """The read half of sds.nbd.device.Device."""

    def __init__(self, pool: Pool, row: DatasetRow, blocks: BlockMap, reader: FrameReader) -> None:
        self._pool = pool
        self._row = row
        self._map = blocks
        self._reader = reader
        self._ahead = ReadAhead(blocks, reader, INODE)

    @property
    def size_bytes(self) -> int:
        raise AssertionError("subclasses know")

    def read_nowait(self, offset: int, length: int) -> Sequence[Buffer] | None:
        if length == BLOCK_SIZE and not offset & 4095:
            block = offset >> 12
            page = self._map.pages.get(_KEY | block >> PAGE_SHIFT)
            if page is None:
                return None
            address = page[block & _OFFSET_IN_PAGE]
            found = self._reader.block_nowait(address) if address else ZEROS[:BLOCK_SIZE]
            return None if found is None else (found,)
        self._ahead.note(offset, length)
        first = offset >> 12
        last = offset + length - 1 >> 12
        buffers = self._blocks_nowait(first, last - first + 1)
        return None if buffers is None else _trimmed(buffers, offset & 4095, length)

    async def read(self, offset: int, length: int) -> Sequence[Buffer]:
        if offset + length > self.size_bytes:
            raise BadInput(f"{offset}+{length} is beyond the end of the volume, {self.size_bytes} bytes")
        await self._ahead.missed()
        first = offset >> 12
        last = offset + length - 1 >> 12
        return _trimmed(await self.read_blocks(first, last - first + 1), offset & 4095, length)

    def _blocks_nowait(self, first: int, count: int) -> list[Buffer] | None:
        buffers: list[Buffer] = []
        one, several = self._reader.block_nowait, self._reader.blocks_nowait
        for address, run in runs(self._map, INODE, first, count):
            if address < 0:
                return None
            found = ZEROS[: run * BLOCK_SIZE] if not address else one(address) if run == 1 else several(address, run)
            if found is None:
                return None
            buffers.append(found)
        return buffers

    async def read_blocks(self, first: int, count: int) -> list[Buffer]:
        """Whole blocks. Corrupt, BackendError."""
        for attempt in range(TRIES):
            for key in page_keys(INODE, first, count):
                await self._map.page(key)
            buffers = self._blocks_nowait(first, count)
            if buffers is not None:
                return buffers
            wanted = runs(self._map, INODE, first, count)
            try:
                if wanted[0][0] >= 0:
                    return await self._fetch(wanted)
            except (Missing, Corrupt):
                # Overwritten and swept since we looked at the map? Then the map leads elsewhere now.
                if attempt == TRIES - 1 or wanted == runs(self._map, INODE, first, count):
                    raise
        raise BackendError(f"blocks {first}+{count} change faster than they can be read: try again")

    async def _fetch(self, wanted: list[tuple[int, int]]) -> list[Buffer]:
        """The bytes at these runs: as they were at the point in time when the map was looked at."""
        buffers: list[Buffer] = [b""] * len(wanted)
        queue = []
        for index, (address, run) in enumerate(wanted):
            if not address:
                buffers[index] = ZEROS[: run * BLOCK_SIZE]
                continue
            found = self._reader.blocks_nowait(address, run)
            if found is None:
                queue.append(index)
            else:
                buffers[index] = bytes(found)  # a slot of the stage may get another tenant while we wait
        if len(queue) == 1:
            address, run = wanted[queue[0]]
            buffers[queue[0]] = await self._reader.blocks(address, run)
            return buffers
        queue.reverse()
        errors: list[Exception] = []

        async def work() -> None:
            while queue and not errors:
                index = queue.pop()
                try:
                    buffers[index] = await self._reader.blocks(*wanted[index])
                except Exception as error:  # told below, one for all
                    errors.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(min(len(queue), READS_AT_ONCE)):
                nursery.start_soon(work)
        if errors:
            raise errors[0]
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


def _trimmed(buffers: list[Buffer], skip: int, length: int) -> list[Buffer]:
    """Cut whole blocks down to `length` bytes from `skip` on."""
    surplus = sum(map(len, buffers)) - skip - length
    if skip:
        buffers[0] = memoryview(buffers[0])[skip:]
    if surplus:
        buffers[-1] = memoryview(buffers[-1])[:-surplus]
    return buffers
