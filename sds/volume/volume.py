"""A volume: a thin virtual disk on an open dataset. Implements sds.nbd.device.Device.

  VO1  An operation is one synchronous section (D2 of sds.dataset): what is read was written by whole operations, but
       for operations of more than `piece_bytes`, which are several in a row.
  VO2  Unaligned writes read what they do not cover and only count if nobody has changed it meanwhile.
  VO3  Blocks are found by the map, every byte that comes from a backend is verified (R1 of sds.log.reader).
"""

from typing import Final

from sds.core.address import BLOCK_SIZE
from sds.core.errors import BadInput, Failed
from sds.core.frame import DATA, HEADER_SIZE, RAW
from sds.core.frame import Buffer as Buffer
from sds.core.page import PAGE_BLOCKS
from sds.dataset.blockmap import INODE_SHIFT, PAGE_SHIFT, page_keys
from sds.dataset.blockwriter import BlockWriter, Frame, stored_bytes
from sds.dataset.dataset import VOLUME_INODE, Dataset
from sds.volume.status import StatusReader

BLOCK_MASK: Final = BLOCK_SIZE - 1
ZERO_BLOCKS_PER_STEP: Final = 1 << 14
_KEY: Final = VOLUME_INODE << INODE_SHIFT
_OFFSET_IN_PAGE: Final = PAGE_BLOCKS - 1


class Volume(StatusReader):
    read_only = False

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset.pool, dataset.row, dataset.map, dataset.reader)
        self._dataset = dataset
        self._log = dataset.log
        compress = dataset.row.properties.get("compress", "lz4")
        self._writer = BlockWriter(dataset.map, dataset.log, dataset.pool.segment_size, compress)
        self._compressor = self._writer.compressor
        self.piece_bytes = self._writer.piece_bytes

    @property
    def size_bytes(self) -> int:
        return self._dataset.size_bytes

    async def newest_root(self) -> int:
        return await self._dataset.newest_root()

    def compress_with(self, name: str) -> None:
        self._writer.compress_with(name)
        self._compressor = self._writer.compressor

    # -- writing ------------------------------------------------------------------------------------------------------

    def write_nowait(self, offset: int, data: memoryview) -> bool:
        length = len(data)
        if offset & BLOCK_MASK or length & BLOCK_MASK or offset + length > self._dataset.checkpointer.size_bytes:
            return False
        if length == BLOCK_SIZE:
            return self._write_block(offset >> 12, data)
        return length <= self.piece_bytes and self._write_blocks(offset >> 12, data)

    def _write_block(self, block: int, data: Buffer) -> bool:
        page = self._map.writable(_KEY | block >> PAGE_SHIFT)
        if page is None:
            return False
        packed = self._compressor.compress(data)
        if packed is None:
            address = self._log.append(DATA, RAW, 0, 1, data, BLOCK_SIZE, VOLUME_INODE, block, False)
        else:
            codec = self._compressor.codec
            address = self._log.append(DATA, codec, 0, 1, packed, BLOCK_SIZE, VOLUME_INODE, block, False)
        if not address:
            return False
        at = block & _OFFSET_IN_PAGE
        if not page[at]:
            self._map.mapped_blocks += 1
        page[at] = address
        return True

    def _write_blocks(self, first: int, data: memoryview) -> bool:
        """One operation of several blocks, in as few frames as may be."""
        count = len(data) >> 12
        pages = self._map.pages
        if any(key not in pages for key in page_keys(VOLUME_INODE, first, count)):
            return False
        return self._append(first, self._writer.frames(data))

    def _append(self, first: int, frames: list[Frame]) -> bool:
        """D2: all frames of one operation and their place in the map, or nothing."""
        if not self._log.has_room(stored_bytes(frames), len(frames)):
            return False
        self._writer.append(VOLUME_INODE, first, frames)
        return True

    async def write(self, offset: int, data: memoryview) -> None:
        """NoSpace, Failed; BadInput if the volume became smaller meanwhile."""
        position = 0
        while position < len(data):
            piece = data[position : position + self.piece_bytes - (offset + position & BLOCK_MASK)]
            await self._write_piece(offset + position, piece)
            position += len(piece)

    async def _write_piece(self, offset: int, data: memoryview) -> None:
        while True:
            self._check_range(offset, len(data))
            first, count = offset >> 12, (offset + len(data) - 1 >> 12) - (offset >> 12) + 1
            for key in page_keys(VOLUME_INODE, first, count):
                await self._map.page(key)
            # Asked for at its worst size: then the pages are still in memory, and the append cannot fail.
            await self._log.wait_room(count * (BLOCK_SIZE + HEADER_SIZE + 8), count)
            self._check_range(offset, len(data))  # it may have been resized while we waited
            if offset & BLOCK_MASK or len(data) & BLOCK_MASK:
                before = self._addresses(first, count)
                whole = await self._complete(offset, data)
                if before is None or before != self._addresses(first, count):
                    continue  # VO2
                self._check_range(offset, len(data))  # it may have been resized while we waited
                if self._write_blocks(first, whole):
                    return
            elif self._write_blocks(first, data):
                return

    async def _complete(self, offset: int, data: memoryview) -> memoryview:
        """The data with what is stored around it, up to whole blocks."""
        head = offset & BLOCK_MASK
        tail = -(offset + len(data)) & BLOCK_MASK
        whole = bytearray(head + len(data) + tail)
        if head:
            whole[:BLOCK_SIZE] = b"".join(await self._blocks.blocks(VOLUME_INODE, offset >> 12, 1))
        if tail:
            whole[-BLOCK_SIZE:] = b"".join(await self._blocks.blocks(VOLUME_INODE, offset + len(data) >> 12, 1))
        whole[head : head + len(data)] = data
        return memoryview(whole)

    def _addresses(self, first: int, count: int) -> tuple[int, ...] | None:
        """Where the first and the last of these blocks are now; None if that is not in memory."""
        found = []
        for block in (first, first + count - 1):
            page = self._map.pages.get(_KEY | block >> PAGE_SHIFT)
            if page is None:
                return None
            found.append(page[block & _OFFSET_IN_PAGE])
        return tuple(found)

    # -- the rest -----------------------------------------------------------------------------------------------------

    async def trim(self, offset: int, length: int) -> None:
        self._check_range(offset, length)
        first, last = -(-offset // BLOCK_SIZE), (offset + length) // BLOCK_SIZE
        if offset + length == self.size_bytes:
            last = -(-self.size_bytes // BLOCK_SIZE)
        if first < last:
            await self._dataset.unmap(VOLUME_INODE, first, last - first)

    async def write_zeroes(self, offset: int, length: int, no_hole: bool) -> None:
        self._check_range(offset, length)
        head = min(length, -offset & BLOCK_MASK)
        tail = min(length - head, offset + length & BLOCK_MASK)
        if head:
            await self.write(offset, memoryview(bytes(head)))
        if tail:
            await self.write(offset + length - tail, memoryview(bytes(tail)))
        first, count = offset + head >> 12, length - head - tail >> 12
        if count and no_hole:
            await self._write_zero_blocks(first, count)
        elif count:
            await self._dataset.unmap(VOLUME_INODE, first, count)

    async def _write_zero_blocks(self, first: int, count: int) -> None:
        """Blocks that are allocated and read as zeros: frames without a payload."""
        while count:
            step = min(count, self._writer.frame_blocks * 8)
            for key in page_keys(VOLUME_INODE, first, step):
                await self._map.page(key)
            frames = self._writer.zero_frames(step)
            await self._log.wait_room(stored_bytes(frames), len(frames))
            self._check_range(first << 12, step << 12)  # it may have been resized while we waited
            pages = self._map.pages
            if all(key in pages for key in page_keys(VOLUME_INODE, first, step)) and self._append(first, frames):
                first, count = first + step, count - step

    async def flush(self) -> None:
        await self._dataset.flush()

    def _check_range(self, offset: int, length: int) -> None:
        if offset + length > self.size_bytes:
            raise BadInput(f"{offset}+{length} is beyond the end of the volume, {self.size_bytes} bytes")
        if self._dataset.failed is not None:
            raise Failed(str(self._dataset.failed))
