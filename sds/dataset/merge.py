"""Merging a sorted batch of updates into the tree: a copy-on-write function of (root, batch).

The tree is read from left to right, only where the batch touches it, and written from left to right by one
*shaper* per level:

    batch + old tree --visit--> nodes, untouched subtrees --shaper[0]--> shaper[1] --> ... --> new root

A shaper holds the last node of its level back. When a neighbour arrives and one of the two is small they are
made one (and split again if that is too large), whether they were touched or not; else the held one goes up,
as an entry of the level above.

  G1  A batch that changes nothing writes nothing and returns the same root. Untouched subtrees keep their
      address.
  G2  A subtree that lies within a deleted range is dropped without being read.
  G3  A small node that is its parent's only child takes the parent's place at its right neighbour (or, at
      the end of the tree, at its left one), so deletes never leave a tree of tiny nodes.
  G4  Nothing is in memory but the batch, one path, and for each level the entries of one node under
      construction.
  G5  Nodes are written children first. A merge that was cancelled or failed leaves unreachable nodes, no
      more.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

from sds.core.errors import Corrupt
from sds.core.node import NODE_SIZE_TARGET, Node, stored_size
from sds.dataset.batch import Batch, SortedBatch, sort_batch

_SMALL = 4
"""A node below 1 / _SMALL of the limit is made one with a neighbour."""
_STEP = 2048
"""Entries that are cut into nodes at once, about 2 ms, however large the batch; more than a node ever has."""
_FILL = 0.9
"""A large node is cut into pieces of about this much of the limit: the next insert shall not split again."""


class NodeStore(Protocol):
    """Reads and writes nodes; caches, encodes, and lets other tasks run in between."""

    async def read_node(self, address: int) -> Node:
        """The node at this address; Corrupt names it if it is damaged. Several tasks may call it at once."""

    async def write_node(self, node: Node) -> int:
        """Append the node to the log; its address, never 0."""


async def merge(store: NodeStore, root: int, batch: Batch, *, node_size: int = NODE_SIZE_TARGET) -> int:
    """The root of the tree with the batch applied. `node_size` is smaller in tests only."""
    updates = await sort_batch(batch)
    return await _Merge(store, updates, node_size).run(root) if updates else root


@dataclass(frozen=True, slots=True)
class _Part:
    """A finished node of some level: `node` if it is not written yet, else its address."""

    key: bytes
    address: int
    node: Node | None = None
    is_small: bool = False


@dataclass(slots=True)
class _Shaper:
    """One level under construction: `held` waits for its right neighbour; keys, children: the node of this
    level that is being filled from the level below."""

    held: _Part | None = None
    keys: list[bytes] = field(default_factory=list)
    children: list[int] = field(default_factory=list)


class _Merge:
    """One merge. `visit` walks the old tree, `arrive`, `pass_up`, `close` shape the new one."""

    def __init__(self, store: NodeStore, updates: SortedBatch, node_size: int) -> None:
        self.store = store
        self.updates = updates
        self.node_size = node_size
        self.shapers: list[_Shaper] = [_Shaper()]

    async def run(self, root: int) -> int:
        if root:
            await self.visit(root, None, b"", None)
        else:
            await self.arrive_items(*self.updates.span(b"", None))
        return await self.finish(root)

    async def visit(self, address: int, level: int | None, lo: bytes, hi: bytes | None) -> None:
        """Send the new contents of this subtree, whose keys are in lo..hi, to the shapers."""
        node = await self.read(address, level)
        if node.level == 0:
            await self.visit_leaf(address, node, lo, hi)
            return
        self.grow(node.level)
        count = len(node.keys)
        for i, (key, child) in enumerate(zip(node.keys, node.children, strict=True)):
            child_lo = key if i else lo
            child_hi = node.keys[i + 1] if i + 1 < count else hi
            first, last = self.updates.span(child_lo, child_hi)
            below = node.level - 1
            if self.updates.covers(key, child_hi):
                await self.arrive_items(first, last)
            elif first < last or self.updates.ranges(child_lo, child_hi) or not await self.settled(below):
                await self.visit(child, below, child_lo, child_hi)
            else:
                await self.arrive(below, _Part(key, child))
        await self.close(node.level, address, node)

    async def visit_leaf(self, address: int, node: Node, lo: bytes, hi: bytes | None) -> None:
        keys, values = self.apply(node, lo, hi)
        if keys == node.keys and values == node.values:
            await self.arrive(0, _Part(node.keys[0], address))
        else:
            await self.arrive_entries(0, keys, values, [])

    def apply(self, node: Node, lo: bytes, hi: bytes | None) -> tuple[list[bytes], list[bytes]]:
        """The leaf's items with the batch applied."""
        items = dict(zip(node.keys, node.values, strict=True))
        for range_lo, range_hi in self.updates.ranges(lo, hi):
            for key in node.keys[bisect_left(node.keys, range_lo) : bisect_left(node.keys, range_hi)]:
                del items[key]
        count = len(items)
        for key, value in self.updates.updates(*self.updates.span(lo, hi)):
            if value is None:
                count -= items.pop(key, None) is not None
            else:
                items[key] = value
        if len(items) == count:
            return list(items), list(items.values())
        keys = sorted(items)
        return keys, [items[key] for key in keys]

    async def arrive_items(self, first: int, last: int) -> None:
        """This slice of the batch becomes leaves of its own: there is nothing else in its place."""
        for start in range(first, last, _STEP):
            updates = self.updates.updates(start, min(start + _STEP, last))
            items = {key: value for key, value in updates if value is not None}
            await self.arrive_entries(0, list(items), list(items.values()), [])

    async def arrive_entries(
        self, level: int, keys: list[bytes], values: list[bytes], children: list[int]
    ) -> None:
        for i in range(0, len(keys), _STEP):
            j = i + _STEP
            for part in _pieces(Node(level, keys[i:j], values[i:j], children[i:j]), self.node_size):
                await self.arrive(level, part)

    async def arrive(self, level: int, part: _Part) -> None:
        """A finished node of this level: hold it back; if it or the held one is small, join them."""
        shaper = self.shapers[level]
        held = shaper.held
        if held is not None and (held.is_small or part.is_small):
            a, b = await self.load(held, level), await self.load(part, level)
            parts = _pieces(_joined(a, b), self.node_size)
            shaper.held = None
        else:
            parts = [part]
        for piece in parts:
            await self.pass_up(level)
            shaper.held = piece

    async def pass_up(self, level: int) -> None:
        """The held node becomes an entry of the level above."""
        shaper = self.shapers[level]
        part, shaper.held = shaper.held, None
        if part is None:
            return
        address = part.address if part.node is None else await self.store.write_node(part.node)
        self.grow(level + 1)
        self.shapers[level + 1].keys.append(part.key)
        self.shapers[level + 1].children.append(address)

    async def settled(self, level: int) -> bool:
        """Close what lies below this level; False if a small node is left that needs a right neighbour."""
        await self.close(level)
        return not any(shaper.held for shaper in self.shapers[:level])

    async def close(self, level: int, address: int = 0, old: Node | None = None) -> None:
        """The children of a node of this level are complete: finish it, and what lies below. Small only
        children stay held (G3). `old` is what it was: if it is the same again, it keeps its address (G1)."""
        for below in range(level):
            held = self.shapers[below].held
            if held is None or (held.is_small and not self.shapers[below + 1].keys):
                continue
            await self.pass_up(below)
            same = old if below + 1 == level else None
            await self.finish_node(below + 1, address, same)

    async def finish_node(self, level: int, address: int = 0, old: Node | None = None) -> None:
        """The node that is being filled on this level gets no more entries."""
        shaper = self.shapers[level]
        keys, children = shaper.keys, shaper.children
        shaper.keys, shaper.children = [], []
        if old is not None and keys == old.keys and children == old.children:
            await self.arrive(level, _Part(keys[0], address))
        else:
            await self.arrive_entries(level, keys, [], children)

    async def finish(self, old_root: int) -> int:
        """Everything has arrived: close level by level, up to the new root."""
        level = 0
        while level < len(self.shapers):
            held = self.shapers[level].held
            above = self.shapers[level + 1 :]
            if held is not None and not any(shaper.held or shaper.keys for shaper in above):
                return await self.collapse(held, level, old_root)
            if held is not None and held.is_small and not above[0].keys:
                await self.join_left(level, held)
            if self.shapers[level].held is not None:
                await self.pass_up(level)
                await self.finish_node(level + 1)
            level += 1
        return 0

    async def join_left(self, level: int, small: _Part) -> None:
        """Make a small node at the tree's end one with its left neighbour: open what was closed there."""
        top = next((i for i in range(level + 1, len(self.shapers)) if self.shapers[i].held), None)
        if top is None:
            return
        left, self.shapers[top].held = self.shapers[top].held, None
        for above in range(top, level, -1):
            assert left is not None
            node = await self.load(left, above)
            self.shapers[above].keys = node.keys[:-1]
            self.shapers[above].children = node.children[:-1]
            left = _Part(node.keys[-1], node.children[-1])
        self.shapers[level].held = left
        await self.arrive(level, small)

    async def collapse(self, part: _Part, level: int, old_root: int) -> int:
        """The address of the root, without ancestors that have one child only."""
        if part.address and part.address == old_root:
            return old_root
        node, address = await self.load(part, level), part.address
        while node.level and len(node.children) == 1:
            address = node.children[0]
            node = await self.read(address, node.level - 1)
        return address or await self.store.write_node(node)

    async def load(self, part: _Part, level: int) -> Node:
        return part.node or await self.read(part.address, level)

    async def read(self, address: int, level: int | None) -> Node:
        node = await self.store.read_node(address)
        if level is not None and node.level != level:
            why = f"level {node.level}, not {level}"
            raise Corrupt(f"tree node {address:#x} is damaged or foreign ({why}); restore it from a snapshot or backup")
        return node

    def grow(self, level: int) -> None:
        while len(self.shapers) <= level:
            self.shapers.append(_Shaper())


def _joined(a: Node, b: Node) -> Node:
    return Node(a.level, a.keys + b.keys, a.values + b.values, a.children + b.children)


def _pieces(node: Node, node_size: int) -> list[_Part]:
    """The node, cut into even pieces if it is too large for one."""
    size = stored_size(node.keys, None if node.level else node.values)
    count = len(node.keys)
    if size <= node_size or count < (4 if node.level else 2):
        return [_Part(node.keys[0], 0, node, size * _SMALL < node_size)]
    number = max(2, min(-int(-size // (node_size * _FILL)), count // 2))
    weights = map(len, node.keys) if node.level else map(_weight, node.keys, node.values)
    sums = list(accumulate(weights))
    parts: list[_Part] = []
    start = 0
    for i in range(1, number + 1):
        end = count if i == number else bisect_left(sums, sums[-1] * i // number, start) + 1
        end = min(max(end, start + 1), count - (number - i))
        piece = Node(node.level, node.keys[start:end], node.values[start:end], node.children[start:end])
        parts += _pieces(piece, node_size)
        start = end
    return parts


def _weight(key: bytes, value: bytes) -> int:
    return len(key) + len(value)
