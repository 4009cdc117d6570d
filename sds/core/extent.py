"""A run of bytes in one state, as clients are told about it."""

from dataclasses import dataclass
from typing import Final

DATA: Final = 0
HOLE: Final = 3
"""base:allocation: not allocated (1), and reads as zeros (2)."""
CLEAN: Final = 0
DIRTY: Final = 1


@dataclass(frozen=True, slots=True)
class Extent:
    length: int
    flags: int
    """base:allocation: 1 = hole, 2 = reads as zeros. Changed blocks: 1 = dirty."""


class ExtentList:
    """Extents of one request: clipped to `offset` .. `offset + length`, neighbours in one state joined."""

    def __init__(self, offset: int, length: int, count_max: int) -> None:
        self._at = offset
        self._end = offset + length
        self._count_max = count_max
        self._found: list[list[int]] = []

    def add(self, until: int, flags: int) -> bool:
        """Everything from where the last one ended up to the byte `until` has this state. False: enough."""
        until = min(until, self._end)
        if until > self._at:
            if self._found and self._found[-1][1] == flags:
                self._found[-1][0] += until - self._at
            elif len(self._found) == self._count_max:
                self._end = self._at  # nothing may follow behind a gap
            else:
                self._found.append([until - self._at, flags])
            self._at = min(until, self._end)
        return self._at < self._end

    def result(self) -> list[Extent]:
        return [Extent(length, flags) for length, flags in self._found]
