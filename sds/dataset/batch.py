"""A batch of updates to a tree, and its sorted form.

  U1  Ranges are deleted first, then items are put or deleted; the order in which they were collected is no
      matter.
  U2  A batch may hold some 100,000 items: it is sorted in steps of a few milliseconds, other tasks run in
      between.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

import trio

from sds.core.keys import KEY_SIZE_MAX
from sds.core.node import ITEM_SIZE_MAX

_STEP = 4096
"""Keys that are sorted at once: about 2 ms."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Updates: first every key in `ranges` (half-open) is deleted, then `items` are put (None: deleted).

    Must not change while it is being merged.
    """

    items: dict[bytes, bytes | None] = field(default_factory=dict)
    ranges: list[tuple[bytes, bytes]] = field(default_factory=list)


class SortedBatch:
    """The keys of a batch in order, its ranges in order and without overlaps."""

    __slots__ = ("_his", "_items", "_keys", "_los")

    def __init__(self, batch: Batch, keys: list[bytes]) -> None:
        self._items = batch.items
        self._keys = keys
        self._los: list[bytes] = []
        self._his: list[bytes] = []
        for lo, hi in sorted(batch.ranges):
            if self._his and lo <= self._his[-1]:
                self._his[-1] = max(self._his[-1], hi)
            elif lo < hi:
                self._los.append(lo)
                self._his.append(hi)

    def __bool__(self) -> bool:
        return bool(self._keys or self._los)

    def span(self, lo: bytes, hi: bytes | None) -> tuple[int, int]:
        """The slice of the items with lo <= key < hi (hi None: to the end)."""
        first = bisect_left(self._keys, lo)
        return first, len(self._keys) if hi is None else bisect_left(self._keys, hi, first)

    def updates(self, first: int, last: int) -> list[tuple[bytes, bytes | None]]:
        """The items of a slice."""
        updates = [(key, self._items[key]) for key in self._keys[first:last]]
        assert all(_fits(key, value) for key, value in updates), "an item is larger than a node takes"
        return updates

    def ranges(self, lo: bytes, hi: bytes | None) -> list[tuple[bytes, bytes]]:
        """The deleted ranges that overlap lo <= key < hi."""
        first = bisect_right(self._his, lo)
        last = len(self._los) if hi is None else bisect_left(self._los, hi)
        return list(zip(self._los[first:last], self._his[first:last], strict=True))

    def covers(self, lo: bytes, hi: bytes | None) -> bool:
        """All of lo <= key < hi is deleted."""
        at = bisect_right(self._los, lo) - 1
        return hi is not None and at >= 0 and hi <= self._his[at]


async def sort_batch(batch: Batch) -> SortedBatch:
    return SortedBatch(batch, await _sort(list(batch.items)))


async def _sort(keys: list[bytes]) -> list[bytes]:
    """sorted(keys): short runs first, then what lies between two splitters of all runs."""
    runs = []
    for start in range(0, len(keys), _STEP):
        runs.append(sorted(keys[start : start + _STEP]))
        await trio.lowlevel.checkpoint()
    if len(runs) < 2:
        return runs[0] if runs else []
    samples = sorted(key for run in runs for key in run[:: _STEP // 16])
    starts = [0] * len(runs)
    result: list[bytes] = []
    for splitter in [*samples[16::16], None]:
        ends = [len(run) if splitter is None else bisect_left(run, splitter) for run in runs]
        part: list[bytes] = []
        for run, start, end in zip(runs, starts, ends, strict=True):
            part += run[start:end]
        part.sort()
        result += part
        starts = ends
        await trio.lowlevel.checkpoint()
    return result


def _fits(key: bytes, value: bytes | None) -> bool:
    return len(key) <= KEY_SIZE_MAX and len(key) + len(value or b"") <= ITEM_SIZE_MAX
