"""Changes of the block map other than data: prepared with waiting, then carried out at once.

The same code serves a running dataset and the replay of its log, so both come to the same map.

    prepared = await prepare_unmap(...)      loads what the change touches
    prepared.apply()                         synchronous; valid only if nothing waited in between
"""

from dataclasses import dataclass

from sds.core.page import PAGE_BLOCKS
from sds.dataset.blockmap import INODE_SHIFT, PAGE_SHIFT, BlockMap


@dataclass(frozen=True, slots=True)
class Unmapping:
    """Blocks first .. first+count become holes."""

    blocks: BlockMap
    inode: int
    first: int
    count: int
    stored: dict[int, int]
    """Of the whole pages in the range: BlockMap.stored_counts."""

    def freed(self) -> int:
        """How many mapped blocks `apply` would make holes."""
        count = self.blocks.still_stored(self.stored)
        for block, blocks in partial_pages(self.first, self.count):
            at = block & PAGE_BLOCKS - 1
            page = self.blocks.pages[self.inode << INODE_SHIFT | block >> PAGE_SHIFT]
            count += blocks - page[at : at + blocks].count(0)
        low, high = whole_pages(self.first, self.count)
        for key in self.blocks.pages_in_memory(self.inode, low, high):
            count += PAGE_BLOCKS - self.blocks.pages[key].count(0)
        return count

    def apply(self) -> None:
        for block, count in partial_pages(self.first, self.count):
            self.blocks.punch(self.inode, block, count)
        low, high = whole_pages(self.first, self.count)
        if low < high:
            self.blocks.clear(self.inode, low, high, self.stored)


async def prepare_unmap(blocks: BlockMap, inode: int, first: int, count: int) -> Unmapping:
    low, high = whole_pages(first, count)
    while True:
        stored = await blocks.stored_counts(inode, low, high) if low < high else {}
        missing = [
            key
            for block, _ in partial_pages(first, count)
            if (key := inode << INODE_SHIFT | block >> PAGE_SHIFT) not in blocks.pages
        ]
        if not missing:
            return Unmapping(blocks, inode, first, count, stored)
        for key in missing:
            await blocks.page(key)


def whole_pages(first: int, count: int) -> tuple[int, int]:
    """Indices low <= page < high of the pages that lie wholly in the range of blocks."""
    return -(-first // PAGE_BLOCKS), (first + count) // PAGE_BLOCKS


def partial_pages(first: int, count: int) -> list[tuple[int, int]]:
    """(first block, count) of the parts of the range that are not whole pages: none, one or two."""
    low, high = whole_pages(first, count)
    end = first + count
    if low > high:
        return [(first, count)]  # inside of one page
    parts = [(first, low * PAGE_BLOCKS - first), (high * PAGE_BLOCKS, end - high * PAGE_BLOCKS)]
    return [part for part in parts if part[1]]

