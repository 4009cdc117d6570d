"""A limit on how many bytes per second maintenance reads and writes, so that users notice little of it.

  LI1  Over any time since the first request at most `bytes_per_s` x time + one request pass: nothing is saved up.
  LI2  Requests pass in the order in which they came.
  LI3  Without a limit nothing is ever held up.
"""

import trio


class Limiter:
    def __init__(self, bytes_per_s: int = 0) -> None:
        """0: no limit."""
        self.bytes_per_s = bytes_per_s
        self._next_at = -float("inf")

    async def take(self, size_bytes: int) -> None:
        """Return when these bytes may pass."""
        if not self.bytes_per_s:
            await trio.lowlevel.checkpoint()
            return
        begin_at = max(self._next_at, trio.current_time())
        self._next_at = begin_at + size_bytes / self.bytes_per_s
        await trio.sleep_until(begin_at)
