"""Which slots of a stage are free, which hold segments, and which hold only what the backends have, too: a cache.

  SL1  A slot is handed out again only when its segment is durable on every copy (L5 of log.py): `cache` says so.
  SL2  Where memory is short, slots without any are set aside and the others do; two are needed.
"""

from collections import deque
from collections.abc import Iterable

from sds.core.errors import NoSpace
from sds.log.open_segment import OpenSegment
from sds.log.stage import Stage


class Slots:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._free = list(range(stage.slot_count))
        self._set_aside: list[int] = []
        self._cached: deque[OpenSegment] = deque()
        self.staged: dict[int, memoryview] = {}
        """By segment id: what can be read from memory."""

    def take(self, count: int) -> list[int]:
        """Up to `count` slots, of the oldest cached segments if none are free."""
        slots: list[int] = []
        while len(slots) < count and (self._free or self._cached):
            if not self._free:
                self._drop_cached()
            slots.append(self._free.pop())
        return slots

    def claim(self, slots: list[int], in_use: int) -> None:
        """Take memory for these slots; the list gets shorter (SL2). `in_use`: slots with segments on their way."""
        for count, slot in enumerate(slots):
            try:
                self._stage.claim(slot)
            except NoSpace:
                if count + in_use + len(self._cached) < 2:
                    raise
                self._set_aside += slots[count:]
                del slots[count:]
                return

    def view(self, slot: int) -> memoryview:
        return self._stage.slot(slot)

    def cache(self, segment: OpenSegment) -> None:
        """SL1."""
        self._cached.append(segment)

    def free(self, slots: Iterable[int]) -> None:
        self._free += slots

    def drop_cache(self) -> None:
        while self._cached:
            self._drop_cached()

    def give_back(self) -> None:
        """Return the memory of all free slots to the system."""
        self._free += self._set_aside
        self._set_aside.clear()
        for slot in self._free:
            self._stage.give_back(slot)

    def _drop_cached(self) -> None:
        cached = self._cached.popleft()
        del self.staged[cached.id]
        self._free.append(cached.slot)
