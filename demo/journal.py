"""A writer of files that remembers which of its calls had returned, and later demands exactly that back.

  J1  File n is written under the name n.new, then renamed to n; then comes n + 1. So at any moment the directory
      holds the files 0 to some k, whole, and of k + 1 at most a beginning under the name k+1.new. A state in which
      anything else is there was never that of this directory: operations are missing, torn or out of order.
      (The kernel may make several requests of one write, so a beginning may end anywhere.)
  J2  A file counts as acknowledged when its rename has returned. Every SYNC_EVERYth was synced before.
  J3  After a crash no acknowledged file may be missing, and at most one that was not acknowledged may be there.
"""

import os
import threading
from pathlib import Path
from typing import Final

SYNC_EVERY: Final = 50
BYTES_MAX: Final = 20_000


class Journal:
    def __init__(self, directory: Path, first: int = 0) -> None:
        self.directory = directory
        self.acked = first
        """So many files are there for sure."""
        self.syncs = 0
        self.broke_off = ""
        """Why writing ended by itself."""
        self._end = threading.Event()
        self._far = threading.Condition()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def reach(self, count: int, timeout_s: float = 60.0) -> bool:
        """Wait until so many are acknowledged. False: it takes too long, or writing has ended before."""
        with self._far:
            self._far.wait_for(lambda: self.acked >= count or bool(self.broke_off), timeout_s)
        return self.acked >= count

    def stop(self) -> None:
        """Returns when nothing is in flight any more."""
        self._end.set()
        self._thread.join()

    def _write(self) -> None:
        try:
            while not self._end.is_set():
                self._write_one(self.acked)
                with self._far:
                    self.acked += 1
                    self._far.notify_all()
        except OSError as error:
            with self._far:
                self.broke_off = str(error)
                self._far.notify_all()

    def _write_one(self, number: int) -> None:
        new = self.directory / f"{number}.new"
        with new.open("wb", buffering=0) as file:
            for piece in pieces(number):
                file.write(piece)
            if number % SYNC_EVERY == 0:
                os.fsync(file.fileno())
                self.syncs += 1
        new.rename(self.directory / str(number))


def content(number: int) -> bytes:
    line = b"file %d\n" % number
    return line * (1 + number * 7919 % BYTES_MAX // len(line))


def pieces(number: int) -> tuple[bytes, bytes]:
    """In two writes, so that there is a middle to crash in."""
    whole = content(number)
    return whole[: len(whole) // 3], whole[len(whole) // 3 :]


def count_of(directory: Path) -> tuple[int, list[str]]:
    """J1: (how many files there are, what is wrong in words)."""
    names = {path.name for path in directory.iterdir()}
    count = sum(name.isdigit() for name in names)
    wrong = [f"{number} is missing among {count}" for number in range(count) if str(number) not in names]
    for name in sorted(names):
        number, dot, rest = name.partition(".")
        data = (directory / name).read_bytes()
        if not number.isdigit() or (dot and (rest != "new" or int(number) != count)):
            wrong.append(f"{name} has no business there")
        elif dot and not content(count).startswith(data):
            wrong.append(f"{name} holds {len(data)} bytes that were never its contents")
        elif not dot and data != content(int(number)):
            wrong.append(f"{name} does not hold what was written to it")
    return count, wrong


def losses(directory: Path, at_least: int, at_most: int) -> list[str]:
    """J3: what is not as it must be, in words."""
    count, wrong = count_of(directory)
    if not at_least <= count <= at_most:
        wrong.insert(0, f"{count} files are there, and {at_least} to {at_most} are legal")
    return wrong
