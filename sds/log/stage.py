"""The stage: the memory in which acknowledged frames live until they are on the backends.

  S1  A stage is a row of slots, each as large as a segment and aligned to pages.
  S2  What is in a slot outlives the process (a tmpfs file), not the machine: the header names the boot it belongs to.
  S3  A slot needs no state of its own on the side: it holds the head of the segment it belongs to, and frames whose
      checksums are bound to that segment, so whatever an earlier tenant left behind does not verify.
  S4  One process at a time, whatever leases say (two homes on the same backends): what is in the stage is handed out
      unverified, so nobody else may write there. A lock on the file is held until `close`.

First page of the file:
    off size field
      0    8 magic         b"SDSSTAGE"
      8    4 version       1
     12    4 slot count
     16    8 slot size     bytes
     24   16 pool UUID
     40    8 dataset id
     48   36 boot id       ASCII
     84    8 checksum      xxh3-64 of bytes 0 .. 84
"""

import fcntl
import mmap
import os
import struct
from pathlib import Path
from typing import Final, Protocol

from xxhash import xxh3_64_intdigest

from sds.core.errors import Busy, NoSpace
from sds.core.segment import HEAD_SIZE, SegmentHead, decode_head

PAGE: Final = 4096
HEADER: Final = struct.Struct("<8sIIQ16sQ36s")
MAGIC: Final = b"SDSSTAGE"
_MADV_REMOVE: Final = 9


class Stage(Protocol):
    slot_count: int
    slot_size: int

    def slot(self, index: int) -> memoryview:
        """The memory of a slot, writable."""

    def survivors(self) -> dict[int, tuple[SegmentHead, memoryview]]:
        """Segments that an earlier worker left in the slots, by segment id."""

    def claim(self, index: int) -> None:
        """Make sure the slot has memory behind it before it is written (NoSpace): a full tmpfs kills a writer."""

    def give_back(self, index: int) -> None:
        """Return the memory of a free slot to the system; it reads as zeros afterwards."""

    def remove(self) -> None:
        """Nothing is to survive: only after the dataset was closed in order."""

    def close(self) -> None:
        """Let go of it. May be called twice."""


def find_survivors(slots: list[memoryview]) -> dict[int, tuple[SegmentHead, memoryview]]:
    found: dict[int, tuple[SegmentHead, memoryview]] = {}
    for view in slots:
        head = decode_head(view[:HEAD_SIZE])
        if head is not None and head.segment_size == len(view):
            found[head.segment] = (head, view)
    return found


class MemoryStage:
    """A stage without a file: for read-only opening, and for the simulator, which keeps it over a kill."""

    def __init__(self, slot_count: int, slot_size: int, content: bytes | None = None) -> None:
        self.slot_count = slot_count
        self.slot_size = slot_size
        self.content = bytearray(content if content is not None else slot_count * slot_size)
        self._view = memoryview(self.content)

    def slot(self, index: int) -> memoryview:
        return self._view[index * self.slot_size : (index + 1) * self.slot_size]

    def survivors(self) -> dict[int, tuple[SegmentHead, memoryview]]:
        return find_survivors([self.slot(i) for i in range(self.slot_count)])

    def claim(self, index: int) -> None:
        assert 0 <= index < self.slot_count

    def give_back(self, index: int) -> None:
        self.slot(index)[:HEAD_SIZE] = bytes(HEAD_SIZE)

    def remove(self) -> None:
        for index in range(self.slot_count):
            self.give_back(index)

    def close(self) -> None:
        """Nothing to let go of."""


class FileStage:
    """A stage in a tmpfs file (any file works; then the page cache must write it out).

    A file that is there already, of this boot and dataset, is taken over with its own slot count.
    """

    def __init__(
        self, path: Path, pool: bytes, dataset: int, slot_count: int, slot_size: int, boot_id: str
    ) -> None:
        self.path = path
        self.slot_size = slot_size
        self._identity = (pool, dataset, boot_id.encode()[:36].ljust(36, b"\0"))
        self.slot_count, self._fd = self._take_over() or self._create(slot_count)
        self._map = mmap.mmap(self._fd, PAGE + self.slot_count * slot_size)
        self._view = memoryview(self._map)
        self._claimed: set[int] = set()

    def _take_over(self) -> tuple[int, int] | None:
        """Slots and descriptor of the file if it is ours and of this boot; else it is of no use to anybody (S2)."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            self._lock(fd)
            count = self._slots_in(fd)
        except BaseException:
            os.close(fd)
            raise
        if not count:
            os.close(fd)
            return None
        return count, fd

    def _slots_in(self, fd: int) -> int:
        header = os.pread(fd, HEADER.size + 8, 0)
        if len(header) != HEADER.size + 8:
            return 0
        magic, version, count, slot_size, *identity = HEADER.unpack(header[:-8])
        if magic != MAGIC or version != 1 or tuple(identity) != self._identity or slot_size != self.slot_size:
            return 0
        if xxh3_64_intdigest(header[:-8]).to_bytes(8, "little") != header[-8:]:
            return 0
        return int(count) if os.fstat(fd).st_size == PAGE + count * slot_size else 0

    def _create(self, slot_count: int) -> tuple[int, int]:
        self.path.unlink(missing_ok=True)
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        body = HEADER.pack(MAGIC, 1, slot_count, self.slot_size, *self._identity)
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            self._lock(fd)
            os.ftruncate(fd, PAGE + slot_count * self.slot_size)
            os.pwrite(fd, body + xxh3_64_intdigest(body).to_bytes(8, "little"), 0)
            temporary.rename(self.path)
        except BaseException:
            os.close(fd)
            raise
        return slot_count, fd

    def _lock(self, fd: int) -> None:
        """S4."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(
                f"the stage {self.path} is in use: another process, perhaps with another --home, has this dataset open"
            ) from None

    def claim(self, index: int) -> None:
        if index in self._claimed:
            return
        try:
            os.posix_fallocate(self._fd, PAGE + index * self.slot_size, self.slot_size)
        except OSError as error:
            raise NoSpace(
                f"no memory for the stage {self.path}: {error.strerror}; free some there or use fewer slots"
            ) from None
        self._claimed.add(index)

    def slot(self, index: int) -> memoryview:
        start = PAGE + index * self.slot_size
        return self._view[start : start + self.slot_size]

    def survivors(self) -> dict[int, tuple[SegmentHead, memoryview]]:
        """Looks through the file first: to touch a hole of a full tmpfs in the map is the end of the process."""
        heads = [os.pread(self._fd, HEAD_SIZE, PAGE + i * self.slot_size) for i in range(self.slot_count)]
        return find_survivors([self.slot(i) for i, head in enumerate(heads) if decode_head(head) is not None])

    def give_back(self, index: int) -> None:
        start = PAGE + index * self.slot_size
        self._claimed.discard(index)
        try:
            self._map.madvise(_MADV_REMOVE, start, self.slot_size)
        except OSError:  # not a tmpfs: then at least nobody must take it for a segment
            self._view[start : start + HEAD_SIZE] = bytes(HEAD_SIZE)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # shared with the map's own descriptor
            os.close(descriptor)
        # The map itself goes with the last view of it: buffers that are still being sent keep it alive.
