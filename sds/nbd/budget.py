"""How much may be in flight: a count and a number of bytes, handed out first come, first served.

  G1  What is taken never exceeds the limits, except that a single taker larger than all of `bytes_max` goes
      alone.
  G2  Nobody overtakes a waiter: a large request is not starved by small ones.
  G3  A cancelled waiter leaves nothing taken.
"""

from collections import deque

import trio


class Budget:
    def __init__(self, count_max: int, bytes_max: int) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self.count = 0
        self.bytes = 0
        self._waiters: deque[tuple[int, trio.Event]] = deque()

    @property
    def contended(self) -> bool:
        """Somebody waits: whoever holds a share without making progress is in the way."""
        return bool(self._waiters)

    def _fits(self, size_bytes: int) -> bool:
        return self.count < self._count_max and (
            self.bytes + size_bytes <= self._bytes_max or self.count == 0
        )

    def _grant(self, size_bytes: int) -> None:
        self.count += 1
        self.bytes += size_bytes

    def take_nowait(self, size_bytes: int) -> bool:
        if self._waiters or not self._fits(size_bytes):
            return False
        self._grant(size_bytes)
        return True

    async def take(self, size_bytes: int) -> None:
        if self.take_nowait(size_bytes):
            return
        entry = (size_bytes, trio.Event())
        self._waiters.append(entry)
        try:
            await entry[1].wait()
        except trio.Cancelled:
            if entry[1].is_set():
                self.give(size_bytes)
            else:
                self._waiters.remove(entry)
                self._wake()
            raise

    def give(self, size_bytes: int) -> None:
        self.count -= 1
        self.bytes -= size_bytes
        self._wake()

    def _wake(self) -> None:
        while self._waiters and self._fits(self._waiters[0][0]):
            size_bytes, event = self._waiters.popleft()
            self._grant(size_bytes)
            event.set()
