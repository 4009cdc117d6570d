"""A dict of items whose keys can be listed in order. Order is made when somebody asks for it: most changes are never
listed before they are merged.

  SI1  `values` is the dict; `_order` holds its keys but for `_fresh`, which were added since it was last needed.
"""

from collections.abc import Iterator

from sortedcontainers import SortedList


class SortedItems:
    __slots__ = ("_fresh", "_order", "values")

    def __init__(self) -> None:
        self.values: dict[bytes, bytes | None] = {}
        """Key -> value (None: deleted). To be read only."""
        self._order: SortedList[bytes] = SortedList()
        self._fresh: list[bytes] = []

    def __len__(self) -> int:
        return len(self.values)

    def put(self, key: bytes, value: bytes | None) -> None:
        if key not in self.values:
            self._fresh.append(key)
        self.values[key] = value

    def drop(self, low: bytes, high: bytes) -> None:
        """Forget low <= key < high."""
        order = self._ordered()
        for key in list(order.irange(low, high, (True, False))):
            order.remove(key)
            del self.values[key]

    def range(self, low: bytes, high: bytes) -> Iterator[bytes]:
        """Keys low <= key < high in order; do not change anything meanwhile."""
        return self._ordered().irange(low, high, (True, False))

    def key_after(self, low: bytes, count: int) -> bytes | None:
        """The key that has `count` others between itself and `low`, which counts; None: there are not so many."""
        order = self._ordered()
        at = order.bisect_left(low) + count
        return order[at] if at < len(order) else None

    def clear(self) -> None:
        self.values.clear()
        self._order.clear()
        self._fresh.clear()

    def _ordered(self) -> "SortedList[bytes]":
        if self._fresh:
            self._order.update(self._fresh)
            self._fresh.clear()
        return self._order
