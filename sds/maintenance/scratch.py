"""Memory that is used for one file after the other: a fresh one costs a page fault for every page.

  SX1  After a read that failed it is let go of: a thread that hangs may still write into it (BD2 of backends.bounded).
"""

from collections.abc import Iterator
from contextlib import contextmanager


class Scratch:
    def __init__(self) -> None:
        self._memory = bytearray()

    @contextmanager
    def take(self, size_bytes: int) -> Iterator[memoryview]:
        """Not zeroed; valid until the next `take`. SX1."""
        if len(self._memory) < size_bytes:
            self._memory = bytearray(size_bytes)
        try:
            yield memoryview(self._memory)[:size_bytes]
        except BaseException:
            self._memory = bytearray()
            raise

    def drop(self) -> None:
        """Give the memory back."""
        self._memory = bytearray()
