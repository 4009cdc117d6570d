"""Flushes of one device, shared by all who wait for one.

  DY1  Who asks for a flush gets one that began after the call; all who wait at that time get the same one.
  DY2  A failed flush is told to everybody who had anything on its way: `failures` is read before the first write, and
       handed in with the flush. The kernel tells of an error once, so a later flush that succeeds proves nothing.
"""

import errno
import os
import threading
from collections.abc import Callable


class Flusher:
    def __init__(self, flush: Callable[[], None]) -> None:
        self.failures = 0
        self._flush = flush
        self._turn = threading.Lock()
        self._begun = 0
        self._done = 0

    def flush(self, failures_before: int) -> None:
        """OSError if this one fails, or another one did since `failures` was read."""
        ticket = self._begun + 1
        with self._turn:
            if self._done < ticket and self.failures == failures_before:
                self._begun += 1
                try:
                    self._flush()
                except OSError:
                    self.failures += 1
                    raise
                self._done = self._begun
            self.check(failures_before)

    def check(self, failures_before: int) -> None:
        if self.failures != failures_before:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
