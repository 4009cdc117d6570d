"""The copy-on-write B+tree of a dataset: reading. The one writer is `merge` (sds/dataset/merge.py),
re-exported here.

  T1  A tree is the address of its root; 0 is the empty tree. Nodes are never changed, so every root that is
      kept stays a whole, readable tree (a snapshot).
  T2  Two subtrees with the same address are the same: `diff` and `walk` skip them without reading.
  T3  The iterators here are plain objects without anything to close: leaving a loop early, by an exception
      or a cancellation, leaks nothing. An iterator that raised may not be continued.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable
from typing import Protocol, Self, TypeVar

from sds.core.errors import Corrupt, Missing
from sds.core.node import Node
from sds.dataset.batch import Batch
from sds.dataset.merge import NodeStore, merge

__all__ = [
    "Batch", "Diff", "NodeReader", "NodeStore", "Scan", "Walk",
    "diff", "get", "get_nowait", "leaf", "leaf_nowait", "merge", "scan", "steadily", "walk",
]  # fmt: skip
T = TypeVar("T")
Cached = Callable[[int], Node | None]
"""A node if it is in memory."""


class NodeReader(Protocol):
    async def read_node(self, address: int) -> Node:
        """The node at this address; Corrupt names it if it is damaged. Several tasks may call it at once."""


async def get(store: NodeReader, root: int, key: bytes) -> bytes | None:
    """The value of a key, None if it is not there."""
    address, level = root, None
    while address:
        node = _checked(await store.read_node(address), address, level)
        if node.level == 0:
            at = bisect_left(node.keys, key)
            return node.values[at] if at < len(node.keys) and node.keys[at] == key else None
        child = bisect_right(node.keys, key) - 1
        address, level = node.children[child] if child >= 0 else 0, node.level - 1
    return None


def get_nowait(cached: Cached, root: int, key: bytes) -> tuple[bool, bytes | None]:
    """(True, the value or None) if all nodes on the way are in memory, else (False, None)."""
    if not root:
        return True, None
    place = leaf_nowait(cached, root, key)
    if place is None:
        return False, None
    leaf = place[0]
    at = bisect_left(leaf.keys, key)
    return True, leaf.values[at] if at < len(leaf.keys) and leaf.keys[at] == key else None


def leaf_nowait(cached: Cached, root: int, key: bytes) -> tuple[Node, bytes | None] | None:
    """(the leaf that the key is in if it is anywhere, a bound: keys from there on are in later leaves; None: it is the
    last leaf). None: a node on the way is not in memory."""
    address, beyond = root, None
    while True:
        node = cached(address)
        if node is None or node.level == 0:
            return None if node is None else (node, beyond)
        child = max(bisect_right(node.keys, key) - 1, 0)
        if child + 1 < len(node.keys):
            beyond = node.keys[child + 1]
        address = node.children[child]


async def leaf(store: NodeReader, root: int, key: bytes) -> None:
    """Bring into memory what `leaf_nowait` needs for this key."""
    address, level = root, None
    while address:
        node = _checked(await store.read_node(address), address, level)
        if node.level == 0:
            return
        address, level = node.children[max(bisect_right(node.keys, key) - 1, 0)], node.level - 1


async def steadily(root_now: Callable[[], int], read: Callable[[int], Awaitable[T]]) -> T | None:
    """What `read` finds in the tree; None if that is the tree no longer when it is done.

    Then an error does not count either: what the old tree refers to may have been swept meanwhile.
    """
    root = root_now()
    try:
        found = await read(root)
    except (Corrupt, Missing):
        if root == root_now():
            raise
        return None
    return found if root == root_now() else None


def scan(store: NodeReader, root: int, lo: bytes = b"", hi: bytes | None = None) -> "Scan":
    """Items with lo <= key < hi in order (hi None: to the end)."""
    return Scan(store, root, lo, hi)


def diff(
    store: NodeReader, root_a: int, root_b: int, lo: bytes = b"", hi: bytes | None = None
) -> "Diff":
    """(key, value in a or None, value in b or None) for each key in lo..hi whose values differ, in order."""
    return Diff(store, root_a, root_b, lo, hi)


def walk(store: NodeReader, root: int, seen: set[int]) -> "Walk":
    """(address, node) of every node of the tree that is not in `seen`, parents first; adds them to `seen`.

    What lies below a node in `seen` is not visited: add a root only together with all of its tree.
    """
    return Walk(store, root, seen)


def _checked(node: Node, address: int, level: int | None) -> Node:
    """A child lies one level below its parent: so a loop or a foreign node ends here."""
    if level is not None and node.level != level:
        why = f"level {node.level}, not {level}"
        raise Corrupt(f"tree node {address:#x} is damaged or foreign ({why}); restore it from a snapshot or a backup")
    return node


class Scan:
    """Iterator over the items of a range, one leaf at a time in memory."""

    __slots__ = ("_at", "_hi", "_items", "_lo", "_stack", "_store")

    def __init__(self, store: NodeReader, root: int, lo: bytes, hi: bytes | None) -> None:
        self._store, self._lo, self._hi = store, lo, hi
        self._stack: list[tuple[int, int | None]] = [(root, None)] if root else []
        self._items: list[tuple[bytes, bytes]] = []
        self._at = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[bytes, bytes]:
        while self._at == len(self._items):
            self._items, self._at = await self.next_leaf(), 0
            if not self._items:
                raise StopAsyncIteration
        self._at += 1
        return self._items[self._at - 1]

    async def next_leaf(self) -> list[tuple[bytes, bytes]]:
        """The items of the next leaf that has some, [] at the end. Faster; do not mix with `async for`."""
        while self._stack:
            address, level = self._stack.pop()
            node = _checked(await self._store.read_node(address), address, level)
            first, last = _clip(node, self._lo, self._hi)
            if node.level:
                self._stack += ((child, node.level - 1) for child in reversed(node.children[first:last]))
            elif first < last:
                return list(zip(node.keys[first:last], node.values[first:last], strict=True))
        return []


class Walk:
    """Iterator over the nodes of a tree that were not seen before."""

    __slots__ = ("_seen", "_stack", "_store")

    def __init__(self, store: NodeReader, root: int, seen: set[int]) -> None:
        self._store, self._seen = store, seen
        self._stack: list[tuple[int, int | None]] = [(root, None)] if root else []

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, Node]:
        while self._stack:
            address, level = self._stack.pop()
            if address in self._seen:
                continue
            node = _checked(await self._store.read_node(address), address, level)
            self._seen.add(address)
            self._stack += ((child, node.level - 1) for child in reversed(node.children))
            return address, node
        raise StopAsyncIteration


def _clip(node: Node, lo: bytes, hi: bytes | None) -> tuple[int, int]:
    """The entries of a node that may hold keys of the range, as a slice."""
    last = len(node.keys) if hi is None else bisect_left(node.keys, hi)
    if node.level == 0:
        return bisect_left(node.keys, lo), last
    return max(bisect_right(node.keys, lo) - 1, 0), last


class _Front:
    """What one side of a diff still has to show: a stack, next on top, of (first key, value or None,
    address, level)."""

    __slots__ = ("hi", "lo", "stack", "store")

    def __init__(self, store: NodeReader, lo: bytes, hi: bytes | None) -> None:
        self.store, self.lo, self.hi = store, lo, hi
        self.stack: list[tuple[bytes, bytes | None, int, int]] = []

    async def open(self, root: int) -> None:
        if root:
            node = await self.store.read_node(root)
            self.stack.append((node.keys[0], None, root, node.level))

    async def expand(self) -> None:
        """Replace the subtree on top by its children or items within the range."""
        _, _, address, level = self.stack.pop()
        node = _checked(await self.store.read_node(address), address, level)
        first, last = _clip(node, self.lo, self.hi)
        for i in range(last - 1, first - 1, -1):
            if level:
                self.stack.append((node.keys[i], None, node.children[i], level - 1))
            else:
                self.stack.append((node.keys[i], node.values[i], 0, -1))


class Diff:
    """Iterator over the differences of two trees."""

    __slots__ = ("_a", "_b", "_roots")

    def __init__(self, store: NodeReader, root_a: int, root_b: int, lo: bytes, hi: bytes | None) -> None:
        self._a, self._b = _Front(store, lo, hi), _Front(store, lo, hi)
        self._roots: tuple[int, int] | None = (root_a, root_b)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[bytes, bytes | None, bytes | None]:
        if self._roots is not None:
            (root_a, root_b), self._roots = self._roots, None
            if root_a != root_b:
                await self._a.open(root_a)
                await self._b.open(root_b)
        a, b = self._a.stack, self._b.stack
        while a or b:
            if not b or (a and a[-1][0] < b[-1][0]):
                found = await self._only(self._a)
                if found is not None:
                    return found[0], found[1], None
            elif not a or b[-1][0] < a[-1][0]:
                found = await self._only(self._b)
                if found is not None:
                    return found[0], None, found[1]
            else:
                both = await self._same_key()
                if both is not None:
                    return both
        raise StopAsyncIteration

    @staticmethod
    async def _only(front: _Front) -> tuple[bytes, bytes] | None:
        """The other side has nothing this low: an item is a difference, a subtree is opened."""
        key, value, _, _ = front.stack[-1]
        if value is None:
            await front.expand()
            return None
        front.stack.pop()
        return key, value

    async def _same_key(self) -> tuple[bytes, bytes, bytes] | None:
        """Both tops begin with the same key: skip what is the same, open the higher one, compare items."""
        a, b = self._a.stack, self._b.stack
        key, value_a, address_a, level_a = a[-1]
        _, value_b, address_b, level_b = b[-1]
        if level_a != level_b:
            await (self._a if level_a > level_b else self._b).expand()
        elif value_a is None or value_b is None:
            if address_a == address_b:
                a.pop()
                b.pop()
            else:
                await self._a.expand()
                await self._b.expand()
        else:
            a.pop()
            b.pop()
            if value_a != value_b:
                return key, value_a, value_b
        return None
