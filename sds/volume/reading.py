"""Reading a volume: of the head of an open dataset, or of a snapshot."""

from collections.abc import Sequence
from typing import Final

from sds.core.address import BLOCK_SIZE
from sds.core.errors import BadInput
from sds.core.frame import Buffer
from sds.core.page import PAGE_BLOCKS
from sds.dataset.blockmap import INODE_SHIFT, PAGE_SHIFT, BlockMap
from sds.dataset.blockreader import ZEROS, BlockReader, trimmed
from sds.dataset.readahead import ReadAhead
from sds.log.reader import FrameReader
from sds.pool.pool import Pool
from sds.pool.rows import DatasetRow

INODE: Final = 1
_KEY: Final = INODE << INODE_SHIFT
_OFFSET_IN_PAGE: Final = PAGE_BLOCKS - 1


class VolumeReader:
    """The read half of sds.nbd.device.Device."""

    def __init__(self, pool: Pool, row: DatasetRow, blocks: BlockMap, reader: FrameReader) -> None:
        self._pool = pool
        self._row = row
        self._map = blocks
        self._reader = reader
        self._blocks = BlockReader(blocks, reader)
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
        buffers = self._blocks.blocks_nowait(INODE, first, last - first + 1)
        return None if buffers is None else trimmed(buffers, offset & 4095, length)

    async def read(self, offset: int, length: int) -> Sequence[Buffer]:
        if offset + length > self.size_bytes:
            raise BadInput(f"{offset}+{length} is beyond the end of the volume, {self.size_bytes} bytes")
        await self._ahead.missed()
        first = offset >> 12
        last = offset + length - 1 >> 12
        return trimmed(await self._blocks.blocks(INODE, first, last - first + 1), offset & 4095, length)
