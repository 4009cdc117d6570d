"""Contents of files: what one edit does to them; the caller stores the attributes and commits.

    EMPTY ──small write──▶ INLINE (an item in the tree) ──grows beyond INLINE_MAX──▶ BLOCKS ──truncate to 0──▶ EMPTY

  FI1  What lies behind the end of a file in its last block is zeros, and no block beyond it is mapped. So a file can
       grow without writing anything.
  FI2  Blocks of which only a part is written are read first. What was read is kept by address, and an address never
       gets other contents: it is right whenever the section is done again.
  FI3  `Attr.blocks` is the number of mapped blocks, exactly.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from sds.core.address import BLOCK_SIZE
from sds.core.errors import Corrupt, Missing
from sds.core.frame import Buffer
from sds.core.page import PAGE_BLOCKS
from sds.dataset.blockmap import INODE_SHIFT, PAGE_SHIFT, BlockMap, page_keys
from sds.dataset.blockreader import BlockReader
from sds.dataset.blockwriter import BlockWriter
from sds.dataset.changes import Unmapping, prepare_unmap
from sds.dataset.section import Wait
from sds.dataset.transaction import Blocks
from sds.filesystem.attributes import INLINE, Attr
from sds.filesystem.edit import Edit
from sds.filesystem.inodes import inline_key
from sds.log.reader import FrameReader

INLINE_MAX: Final = 2048
BLOCK_MASK: Final = BLOCK_SIZE - 1
Known = dict[int, bytes]
"""Address -> block (FI2): lives as long as an operation."""


Spill = Callable[[int], Awaitable[object]]
"""Makes an INLINE file one with blocks (`Files.spill` in an edit of its own)."""


class Files:
    def __init__(self, blocks: BlockMap, reader: FrameReader, writer: BlockWriter, spill: Spill) -> None:
        self._map = blocks
        self._frames = reader
        self._reader = BlockReader(blocks, reader)
        self._spill = spill
        self.writer = writer

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, edit: Edit, attr: Attr, offset: int, data: memoryview, known: Known) -> Attr:
        """At most a piece (`piece_bytes`). The attributes with the new size and blocks. Wait."""
        size = max(attr.size_bytes, offset + len(data))
        if not attr.blocks and size <= INLINE_MAX:
            return self._put_inline(edit, attr, offset, data, size)
        if attr.flags & INLINE:
            raise Wait(partial(self._spill, attr.inode))
        head = offset & BLOCK_MASK
        if head or len(data) & BLOCK_MASK:
            data = self._completed(attr, offset, data, known)
        return self._put_blocks(edit, attr, offset >> 12, data)._replace(size_bytes=size)

    @property
    def piece_bytes(self) -> int:
        return self.writer.piece_bytes - BLOCK_SIZE

    def spill(self, edit: Edit, attr: Attr) -> Attr:
        """The contents become a block: nothing that anybody sees has changed."""
        content = edit.get(inline_key(attr.inode)) or b""
        edit.delete(inline_key(attr.inode))
        attr = attr._replace(flags=attr.flags & ~INLINE)
        return self._put_blocks(edit, attr, 0, memoryview(content + bytes(BLOCK_SIZE - len(content))))

    def _put_inline(self, edit: Edit, attr: Attr, offset: int, data: memoryview, size: int) -> Attr:
        old = edit.get(inline_key(attr.inode)) or b"" if attr.flags & INLINE else b""
        content = bytearray(size)
        content[: len(old)] = old
        content[offset : offset + len(data)] = data
        edit.put(inline_key(attr.inode), bytes(content))
        return attr._replace(size_bytes=size, flags=attr.flags | INLINE)

    def _put_blocks(self, edit: Edit, attr: Attr, first: int, data: memoryview) -> Attr:
        blocks = Blocks(self.writer, attr.inode, first, len(data) >> 12, self.writer.frames(data))
        edit.write(blocks)
        return attr._replace(blocks=attr.blocks + self._holes(attr.inode, first, len(data) >> 12))

    def _holes(self, inode: int, first: int, count: int) -> int:
        """How many of these blocks are holes; their map pages are in memory."""
        holes = 0
        for page_key in page_keys(inode, first, count):
            page = self._map.pages[page_key]
            at = first & PAGE_BLOCKS - 1
            step = min(count, PAGE_BLOCKS - at)
            holes += page[at : at + step].count(0)
            first, count = first + step, count - step
        return holes

    def _completed(self, attr: Attr, offset: int, data: memoryview, known: Known) -> memoryview:
        """The data with what is stored around it, up to whole blocks."""
        head = offset & BLOCK_MASK
        tail = -(offset + len(data)) & BLOCK_MASK
        whole = bytearray(head + len(data) + tail)
        if head:
            whole[:BLOCK_SIZE] = self._block(attr.inode, offset >> 12, known)
        if tail and offset + len(data) < attr.size_bytes:
            whole[-BLOCK_SIZE:] = self._block(attr.inode, offset + len(data) >> 12, known)
        whole[head : head + len(data)] = data
        return memoryview(whole)

    def _block(self, inode: int, block: int, known: Known) -> Buffer:
        """One block as it is now. Wait."""
        page_key = inode << INODE_SHIFT | block >> PAGE_SHIFT
        page = self._map.pages.get(page_key)
        if page is None:
            raise Wait(partial(self._map.page, page_key))
        address = page[block & PAGE_BLOCKS - 1]
        if address in known:
            return known[address]
        found = self._reader.blocks_nowait(inode, block, 1)
        if found is None:
            raise Wait(partial(self._fetch, page_key, block & PAGE_BLOCKS - 1, address, known))
        return found[0]

    async def _fetch(self, page_key: int, at: int, address: int, known: Known) -> None:
        try:
            known[address] = bytes(await self._frames.blocks(address, 1))
        except (Missing, Corrupt):
            page = self._map.pages.get(page_key)
            if page is not None and page[at] == address:
                raise
            await trio.lowlevel.checkpoint()  # overwritten and swept meanwhile: the map leads elsewhere now

    # -- truncating -------------------------------------------------------------------------------------------------

    async def prepare_resize(self, attr: Attr, size_bytes: int) -> Unmapping | None:
        """What becomes holes when a file gets this size; for `resize`, at once."""
        first, last = blocks_of(size_bytes), pages_of(attr.size_bytes) * PAGE_BLOCKS
        if not attr.blocks or first >= blocks_of(attr.size_bytes):
            return None
        return await prepare_unmap(self._map, attr.inode, first, last - first)

    def resize(self, edit: Edit, attr: Attr, size_bytes: int, change: Unmapping | None, known: Known) -> Attr:
        """The attributes with the new size. `change`: from `prepare_resize`, just now. Wait."""
        if attr.flags & INLINE:
            return self._resize_inline(edit, attr, size_bytes)
        if attr.blocks and size_bytes < attr.size_bytes and size_bytes & BLOCK_MASK:
            attr = self._cut_block(edit, attr, size_bytes, known)
        if change is not None:
            edit.unmap(change)
            attr = attr._replace(blocks=attr.blocks - change.freed())
        return attr._replace(size_bytes=size_bytes)

    def _resize_inline(self, edit: Edit, attr: Attr, size_bytes: int) -> Attr:
        if size_bytes > INLINE_MAX:
            raise Wait(partial(self._spill, attr.inode))
        if not size_bytes:
            edit.delete(inline_key(attr.inode))
            return attr._replace(size_bytes=0, flags=attr.flags & ~INLINE)
        content = edit.get(inline_key(attr.inode)) or b""
        edit.put(inline_key(attr.inode), content[:size_bytes].ljust(size_bytes, b"\0"))
        return attr._replace(size_bytes=size_bytes)

    def _cut_block(self, edit: Edit, attr: Attr, size_bytes: int, known: Known) -> Attr:
        """FI1: zeros behind the new end, in the block that it is in."""
        block, keep = size_bytes >> 12, size_bytes & BLOCK_MASK
        content = bytes(self._block(attr.inode, block, known))
        if not any(content[keep:]):
            return attr
        return self._put_blocks(edit, attr, block, memoryview(content[:keep].ljust(BLOCK_SIZE, b"\0")))


def blocks_of(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_SIZE)


def pages_of(size_bytes: int) -> int:
    """Map pages of a file of this size."""
    return -(-size_bytes // (BLOCK_SIZE * PAGE_BLOCKS))
