"""What differs between two versions of a dataset: changed blocks, from two roots.

  DF1  A block is changed if its address is: addresses never change and are never written twice. So no changed block is
       left out; one that was written with the same content again counts as changed.
  DF2  Cost is that of the changes: subtrees with the same address are not read (T2 of sds.dataset.tree).
"""

from array import array
from typing import Self

import trio

from sds.core.keys import map_page_index, map_range
from sds.core.page import PAGE_BLOCKS, decode_value
from sds.dataset import tree
from sds.dataset.blockmap import HOLES
from sds.dataset.nodes import Nodes

PAGES_PER_STEP = 32


class ChangedRuns:
    """Iterator over (first block, count) of changed runs in order; runs of neighbouring pages are not joined."""

    def __init__(self, nodes: Nodes, root_a: int, root_b: int, inode: int, first_page: int, last_page: int) -> None:
        self._nodes = nodes
        low, high = map_range(inode, first_page, last_page)
        self._diff = tree.diff(nodes, root_a, root_b, low, high)
        self._found: list[tuple[int, int]] = []
        self.pages = 0
        """Pages compared so far."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, int]:
        while not self._found:
            key, value_a, value_b = await anext(self._diff)
            index = map_page_index(key)
            before, after = await self._page(value_a), await self._page(value_b)
            self._found = [(index * PAGE_BLOCKS + at, count) for at, count in reversed(unequal(before, after))]
            self.pages += 1
            if self.pages % PAGES_PER_STEP == 0:
                await trio.lowlevel.checkpoint()
        return self._found.pop()

    async def _page(self, value: bytes | None) -> "array[int]":
        if value is None:
            return HOLES
        page = decode_value(value)
        return page if isinstance(page, array) else await self._nodes.read_page(page)


def unequal(before: "array[int]", after: "array[int]") -> list[tuple[int, int]]:
    """(first, count) of the runs of entries that differ."""
    runs: list[tuple[int, int]] = []
    for at, (a, b) in enumerate(zip(before, after, strict=True)):
        if a == b:
            continue
        if runs and runs[-1][0] + runs[-1][1] == at:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((at, 1))
    return runs


async def changed_ranges(nodes: Nodes, root_a: int, root_b: int, inode: int, size_bytes: int) -> list[tuple[int, int]]:
    """(offset, length) of all that changed below `size_bytes`, joined."""
    ranges: list[tuple[int, int]] = []
    pages = -(-size_bytes // (PAGE_BLOCKS << 12))
    async for first, count in ChangedRuns(nodes, root_a, root_b, inode, 0, pages):
        offset, length = first << 12, min(count << 12, size_bytes - (first << 12))
        if length <= 0:
            break
        if ranges and sum(ranges[-1]) == offset:
            ranges[-1] = (ranges[-1][0], ranges[-1][1] + length)
        else:
            ranges.append((offset, length))
    return ranges
