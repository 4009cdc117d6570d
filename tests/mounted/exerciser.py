"""A random exerciser for one file: everything a program can do to its contents, against a bytearray.

    python -m tests.mounted.exerciser FILE --ops 100000 --seed 7

  EX1  The model is a bytearray. Every read, through a descriptor or a map of memory, must agree with it, and so must
       size and whole content now and then, after a reopen with an empty cache, and at the end.
  EX2  Offsets and lengths are at any byte, often at the borders of pages and at the end of the file. Sizes stay below
       SIZE_MAX, so that operations meet.
  EX3  Everything comes from the seed. A failure tells it, with the last operations.
"""

import argparse
import mmap
import os
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE = 4096
SIZE_MAX = 384 << 10
LENGTH_MAX = 96 << 10
SHOWN_OPERATIONS = 25


class Mismatch(AssertionError):
    """The file does not hold what was written."""


class Exerciser:
    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.seed = seed
        self.rng = random.Random(seed)
        self.model = bytearray()
        self.number = 0
        self.counts: Counter[str] = Counter()
        self._history: deque[str] = deque(maxlen=SHOWN_OPERATIONS)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._operations: dict[Callable[[], None], int] = {
            self.write: 24, self.append: 4, self.read: 24, self.truncate: 5, self.extend: 3, self.map_write: 10,
            self.map_read: 10, self.hole: 4, self.zero: 3, self.sync: 3, self.reopen: 3, self.drop: 4, self.compare: 2,
        }  # fmt: skip

    def run(self, operations: int) -> None:
        """EX1, EX3."""
        try:
            choices = self.rng.choices(list(self._operations), list(self._operations.values()), k=operations)
            for choice in choices:
                self.number += 1
                self.counts[choice.__name__] += 1
                choice()
                self._check_size()
            self.reopen()
            self.compare()
        except (Mismatch, OSError) as error:
            last = "\n".join(self._history)
            error.add_note(f"seed {self.seed}, operation {self.number} on {self.path}; the last ones:\n{last}")
            raise
        finally:
            os.close(self._file)

    # -- where ---------------------------------------------------------------------------------------------------------

    def _offset(self, limit: int) -> int:
        """EX2."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.3:
            at = rng.randrange(limit // PAGE + 1) * PAGE + rng.choice((-1, 0, 0, 0, 1))
        elif kind < 0.5:
            at = len(self.model) + rng.choice((-PAGE, -100, -1, 0, 0, 1, 100, PAGE))
        else:
            at = rng.randrange(limit + 1)
        return min(max(at, 0), limit)

    def _length(self) -> int:
        rng = self.rng
        some, many = rng.randint(1, 2000), rng.randint(1, LENGTH_MAX)
        return rng.choice((1, 10, 511, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, some, many))

    def _range(self, within: bool = False) -> tuple[int, int]:
        """Offset and length; `within` the file, which is not empty then."""
        offset = self._offset(len(self.model) - 1 if within else SIZE_MAX)
        return offset, min(self._length(), (len(self.model) if within else SIZE_MAX) - offset)

    def _data(self, length: int) -> bytes:
        rng = self.rng
        return rng.randbytes(length) if rng.random() < 0.5 else bytes([rng.randrange(1, 256)]) * length

    def _note(self, what: str) -> None:
        self._history.append(f"{self.number:6} {what}, size {len(self.model)}")

    def _grow(self, size: int) -> None:
        self.model += bytes(max(0, size - len(self.model)))

    # -- operations ----------------------------------------------------------------------------------------------------

    def write(self) -> None:
        offset, length = self._range()
        self._note(f"write {length}@{offset}")
        self._write(offset, self._data(length))

    def zero(self) -> None:
        offset, length = self._range()
        self._note(f"write zeros {length}@{offset}")
        self._write(offset, bytes(length))

    def _write(self, offset: int, data: bytes) -> None:
        wrote = os.pwrite(self._file, data, offset)
        if wrote != len(data):
            raise Mismatch(f"wrote {wrote} of {len(data)} bytes")
        if data:
            self._grow(offset + len(data))
            self.model[offset : offset + len(data)] = data

    def append(self) -> None:
        data = self._data(min(self._length(), SIZE_MAX - len(self.model)))
        self._note(f"append {len(data)}")
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            if data and os.write(file, data) != len(data):
                raise Mismatch("a short append")
        finally:
            os.close(file)
        self.model += data

    def read(self) -> None:
        offset, length = self._range()
        self._note(f"read {length}@{offset}")
        self._agree(os.pread(self._file, length, offset), offset, length)

    def truncate(self) -> None:
        size = self._offset(SIZE_MAX)
        self._note(f"truncate to {size}")
        os.ftruncate(self._file, size)
        del self.model[size:]
        self._grow(size)

    def extend(self) -> None:
        """By path, as another process would."""
        size = min(len(self.model) + self._length(), SIZE_MAX)
        self._note(f"extend to {size}")
        os.truncate(self.path, size)
        self._grow(size)

    def hole(self) -> None:
        """posix_fallocate where the system writes zeros itself, then a truncation and back: room that holds nothing."""
        size = len(self.model)
        cut = self._offset(max(size, 1))
        self._note(f"hole from {cut} to {size}")
        os.ftruncate(self._file, min(cut, size))
        os.ftruncate(self._file, size)
        self.model[cut:] = bytes(max(0, size - cut))
        allocate, length = self._range()
        if length:
            self._note(f"fallocate {length}@{allocate}")
            os.posix_fallocate(self._file, allocate, length)
            self._grow(allocate + length)

    def map_write(self) -> None:
        if not self.model:
            return
        offset, length = self._range(within=True)
        data = self._data(length)
        self._note(f"map and write {length}@{offset}")
        with self._map(offset, length) as (memory, at):
            memory[at : at + length] = data
            if self.rng.random() < 0.5:
                memory.flush()
        self.model[offset : offset + length] = data

    def map_read(self) -> None:
        if not self.model:
            return
        offset, length = self._range(within=True)
        self._note(f"map and read {length}@{offset}")
        with self._map(offset, length) as (memory, at):
            self._agree(memory[at : at + length], offset, length)

    @contextmanager
    def _map(self, offset: int, length: int) -> Iterator[tuple[mmap.mmap, int]]:
        """A shared map that holds a range, and where in it the range begins."""
        at = offset % mmap.ALLOCATIONGRANULARITY
        with mmap.mmap(self._file, at + length, offset=offset - at) as memory:
            yield memory, at

    def sync(self) -> None:
        self._note("fsync")
        os.fsync(self._file)

    def reopen(self) -> None:
        self._note("reopen")
        os.close(self._file)
        self._file = os.open(self.path, os.O_RDWR)

    def drop(self) -> None:
        """What the kernel holds of the file is written and forgotten."""
        self._note("drop the cache")
        os.fsync(self._file)
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)

    def compare(self) -> None:
        self._note("compare all")
        self._agree(os.pread(self._file, SIZE_MAX + 1, 0), 0, SIZE_MAX + 1)

    # -- what must be --------------------------------------------------------------------------------------------------

    def _check_size(self) -> None:
        size = os.fstat(self._file).st_size
        if size != len(self.model):
            raise Mismatch(f"the size is {size}, expected {len(self.model)}")

    def _agree(self, got: bytes, offset: int, length: int) -> None:
        expected = self.model[offset : offset + length]
        if got != expected:
            first = next((at for at, pair in enumerate(zip(got, expected, strict=False)) if pair[0] != pair[1]), -1)
            raise Mismatch(
                f"{len(got)} bytes at {offset}, expected {len(expected)}; the first difference is at {offset + first}: "
                f"{got[first : first + 8].hex()}, expected {expected[first : first + 8].hex()}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--ops", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    exerciser = Exerciser(arguments.file, arguments.seed)
    print(f"seed {arguments.seed}", flush=True)
    exerciser.run(arguments.ops)
    print(f"{arguments.ops} operations agree: {dict(exerciser.counts)}")


if __name__ == "__main__":
    main()
