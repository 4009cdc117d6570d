"""The block map: which address each block of each inode has now. Pages of the map are the unit in memory.

  B1  `pages` holds the newest version of whatever pages are in memory. Pages of the layers (current and frozen) are
      pinned there unless a newer layer cleared or replaced them.
  B2  A page that is not in memory is, in this order: a hole if a layer cleared it, newest layer first (down to a layer
      that was rolled back, which stands on its own tree); else what the tree says.
  B3  Changes are synchronous and only touch pages in memory. Loading is the only thing that waits, and what was
      loaded counts only if no checkpoint and no change of that page came in between.
  B4  mapped_blocks is exact at any time.

Page key: inode << 44 | page index, so that pages of one inode are neighbours.
"""

import logging
from array import array
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Final

from sds.core.errors import SdsError
from sds.core.keys import MAP, map_key, map_page_index, map_range, split_key
from sds.core.page import PAGE_BLOCKS, decode_value, new_page, value_block_count
from sds.dataset import tree
from sds.dataset.layer import Layer, Layers
from sds.dataset.nodes import Nodes

INODE_SHIFT: Final = 44
INDEX_MASK: Final = (1 << INODE_SHIFT) - 1
PAGE_SHIFT: Final = PAGE_BLOCKS.bit_length() - 1
_log = logging.getLogger(__name__)
HOLES: Final = new_page()
"""The page of holes; shared, never changed (Y1)."""


class BlockMap:
    def __init__(self, nodes: Nodes, layers: Layers, mapped_blocks: int, pages_max: int) -> None:
        self._nodes = nodes
        self._pages_max = pages_max
        self.layers = layers
        self.mapped_blocks = mapped_blocks
        self.relieve: Callable[[], Awaitable[None]] | None = None
        """Merges dirty pages, so that they can be evicted; None: that cannot be done now."""
        self.pages: dict[int, array[int]] = {}
        for layer in reversed(layers.newest_first()):
            if layer.base_root is not None:
                self.pages.clear()
            for key in [key for key in self.pages if key in layer.cleared]:
                del self.pages[key]
            self.pages |= layer.dirty

    # -- reading ------------------------------------------------------------------------------------------------------

    async def page(self, key: int) -> "array[int]":
        """The newest version of a page, from memory or from the tree."""
        is_relieved = self.relieve is None
        while True:
            page = self.pages.get(key)
            if page is not None:
                return page
            if not is_relieved and self.dirty_pages >= self._pages_max:
                is_relieved = True
                await self._relieve()
                continue
            base = self._base(key)
            if base == 0:
                page = HOLES
            else:
                loaded = await tree.steadily(lambda: self._base(key), lambda root: self._load(root, key))
                if loaded is None or base != self._base(key) or key in self.pages:
                    continue  # B3
                page = loaded
            self._make_room()
            self.pages[key] = page
            return page

    async def _relieve(self) -> None:
        """P8: a page more could soon be one more that cannot be evicted. Where that fails (the pool is full, or has
        failed), reading goes on above the limit."""
        try:
            if self.relieve is not None:
                await self.relieve()
        except SdsError as error:
            _log.debug("dirty pages stay: %s", error)

    def _base(self, key: int) -> int:
        """The root of the tree that a page out of memory is in; 0: in none (B2)."""
        return self.layers.base(lambda layer: key in layer.cleared)

    async def _load(self, root: int, key: int) -> "array[int]":
        value = await tree.get(self._nodes, root, map_key(key >> INODE_SHIFT, key & INDEX_MASK))
        if value is None:
            return HOLES
        found = decode_value(value)
        return found if isinstance(found, array) else await self._nodes.read_page(found)

    def mapped_pages(self, inode: int, first: int, last: int) -> "PageScan":
        """Iterator over the indices of pages in first <= index < last that may have mapped blocks, in order."""
        return PageScan(self, inode, first, last)

    # -- changing (synchronous) -----------------------------------------------------------------------------------

    def writable(self, key: int) -> "array[int] | None":
        """The page, to be changed in place now; None if it is not in memory."""
        page = self.layers.current.dirty.get(key)
        if page is None:
            page = self.pages.get(key)
            if page is None:
                return None
            page = page[:]
            self.layers.current.dirty[key] = self.pages[key] = page
        return page

    def set_run(self, inode: int, block: int, count: int, address: int) -> None:
        """Blocks block .. block+count have consecutive addresses now. Their pages are in memory."""
        if count == 1:  # what random writes are
            page = self.writable(inode << INODE_SHIFT | block >> PAGE_SHIFT)
            assert page is not None
            at = block & PAGE_BLOCKS - 1
            self.mapped_blocks += not page[at]
            page[at] = address
            return
        while count:
            page = self.writable(inode << INODE_SHIFT | block >> PAGE_SHIFT)
            assert page is not None
            at = block & PAGE_BLOCKS - 1
            step = min(count, PAGE_BLOCKS - at)
            self.mapped_blocks += page[at : at + step].count(0)
            page[at : at + step] = array("Q", range(address, address + step))
            block, count, address = block + step, count - step, address + step

    def punch(self, inode: int, block: int, count: int) -> None:
        """Blocks of one page become holes. The page is in memory."""
        page = self.writable(inode << INODE_SHIFT | block >> PAGE_SHIFT)
        assert page is not None
        at = block & PAGE_BLOCKS - 1
        self.mapped_blocks -= count - page[at : at + count].count(0)
        page[at : at + count] = array("Q", bytes(8 * count))

    def clear(self, inode: int, first: int, last: int, stored: dict[int, int]) -> None:
        """Pages first <= index < last become holes; O(pages in memory). `stored`: from `stored_counts`, just now."""
        low, high = (inode << INODE_SHIFT) + first, (inode << INODE_SHIFT) + last
        for key in self.pages_in_memory(inode, first, last):
            page = self.pages.pop(key)
            self.mapped_blocks -= PAGE_BLOCKS - page.count(0)
            self.layers.current.dirty.pop(key, None)
            stored.pop(key, None)
        self.mapped_blocks -= self.still_stored(stored)
        self.layers.current.cleared.add(low, high)

    def still_stored(self, stored: dict[int, int]) -> int:
        """Mapped blocks of these pages, but for those that a layer has cleared."""
        return sum(count for key, count in stored.items() if self._base(key) != 0)

    def pages_in_memory(self, inode: int, first: int, last: int) -> list[int]:
        """Keys of the pages first <= index < last that are in memory."""
        low, high = (inode << INODE_SHIFT) + first, (inode << INODE_SHIFT) + last
        if high - low < len(self.pages):
            return [key for key in range(low, high) if key in self.pages]
        return [key for key in self.pages if low <= key < high]

    async def stored_counts(self, inode: int, first: int, last: int) -> dict[int, int]:
        """Mapped blocks by page key, of the pages in the range that are in the tree now (B2) and not in memory.

        Valid until something waits: pass it to `clear` at once.
        """
        low, high = map_range(inode, first, last)
        while True:
            counts = await tree.steadily(self._root_below, lambda root: self._counts(root, low, high))
            if counts is not None:
                keys = ((inode << INODE_SHIFT | index, count) for index, count in counts.items())
                return {key: count for key, count in keys if key not in self.pages}

    async def _counts(self, root: int, low: bytes, high: bytes) -> dict[int, int]:
        """Mapped blocks by page index."""
        counts = {}
        scan = tree.scan(self._nodes, root, low, high)
        while leaf := await scan.next_leaf():
            for name, value in leaf:
                counts[map_page_index(name)] = value_block_count(value)
        return counts

    async def count_tree(self, root: int) -> int:
        """Mapped blocks of a whole tree; reads its leaves."""
        total = 0
        scan = tree.scan(self._nodes, root)
        while leaf := await scan.next_leaf():
            total += sum(value_block_count(value) for name, value in leaf if split_key(name)[1] == MAP)
        return total

    def _root_below(self) -> int:
        return self.layers.root_below

    def reset(self, root: int, mapped_blocks: int) -> None:
        """Rollback: everything is as in the tree `root` from now on."""
        self.pages.clear()
        self.layers.current.roll_back(root)
        self.mapped_blocks = mapped_blocks

    # -- layers -----------------------------------------------------------------------------------------------------

    def freeze(self) -> Layer:
        """The point in time of a checkpoint or snapshot."""
        layer = self.layers.freeze()
        layer.mapped_blocks = self.mapped_blocks
        return layer

    @property
    def dirty_pages(self) -> int:
        return len(self.layers.current.dirty) + sum(len(layer.dirty) for layer in self.layers.frozen)

    def _make_room(self) -> None:
        """Evict old pages that no layer needs; an eighth at a time, so that it is rare. The newest quarter is kept,
        be it above the limit: whoever has loaded several pages wants them together."""
        if len(self.pages) < self._pages_max:
            return
        layers = (self.layers.current.dirty, *(layer.dirty for layer in self.layers.frozen))
        victims = []
        for key in islice(self.pages, len(self.pages) - self._pages_max // 4):
            if not any(key in dirty for dirty in layers):
                victims.append(key)
                if len(victims) >= self._pages_max // 8:
                    break
        for key in victims:
            del self.pages[key]


class PageScan:
    """Page indices with mapped blocks, in order: those of the tree and those in memory, less what was cleared."""

    def __init__(self, blocks: BlockMap, inode: int, first: int, last: int) -> None:
        self._map = blocks
        self._inode = inode
        self._next = first
        self._last = last
        self._found: deque[int] = deque()

    def __aiter__(self) -> "PageScan":
        return self

    async def __anext__(self) -> int:
        if not self._found:
            await self._refill()
        if not self._found:
            raise StopAsyncIteration
        return self._found.popleft()

    async def _next_leaf(self, root: int) -> list[tuple[bytes, bytes]]:
        low, high = map_range(self._inode, self._next, self._last)
        return await tree.scan(self._map._nodes, root, low, high).next_leaf()

    async def _refill(self) -> None:
        """The indices up to the end of the next leaf of the tree; those in memory up to there join them."""
        blocks, high = self._map, self._inode << INODE_SHIFT
        while self._next < self._last and not self._found:
            leaf = await tree.steadily(blocks._root_below, self._next_leaf)
            if leaf is None:
                continue
            stored = [map_page_index(name) for name, _ in leaf]
            end = stored[-1] + 1 if stored else self._last
            kept = {index for index in stored if blocks._base(high | index) != 0}
            first, last = high + self._next, high + end
            if last - first < len(blocks.pages):
                kept.update(key & INDEX_MASK for key in range(first, last) if key in blocks.pages)
            else:
                kept.update(key & INDEX_MASK for key in blocks.pages if first <= key < last)
            self._found.extend(sorted(kept))
            self._next = end


def page_keys(inode: int, block: int, count: int) -> range:
    """Keys of the pages that blocks block .. block+count are in."""
    first = inode << INODE_SHIFT | block >> PAGE_SHIFT
    return range(first, first + (block + count - 1 >> PAGE_SHIFT) - (block >> PAGE_SHIFT) + 1)
