"""Cached files in a directory: the blocking half of DirectoryCache. Every method may be called from any thread.

One sparse file per cached file, named by the file's name with `/` written as `_`; no side files:

    what                     where
    which chunks are there   a chunk without a hole in it (SEEK_HOLE) is there, whatever process wrote it
    last use                 atime, set by us (opened with O_NOATIME), at most once in REUSE_S
    used again later         permission bit 0o100: the file was used REUSE_S or more after an earlier use

  CF1  Eviction takes whole files until the allocated blocks fit: those that were used at one time only before those
       that were used again later (so one scan does not flush what is in use), the longest unused first. What is
       protected so takes at most PROTECTED of the limit. Files that this process has open go after all others.
  CF2  One process at a time evicts (flock of `.lock`), and each at most once in EVICT_S.
  CF3  A file that is gone (evicted, or deleted with the whole directory) is made anew by the next write to it.
"""

import contextlib
import errno
import fcntl
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable

from sds.core.errors import BadInput

REUSE_S = 60.0
EVICT_S = 1.0
PROTECTED = 0.8
FULL_RETRY_S = 10.0
_AGAIN = 0o100
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_log = logging.getLogger(__name__)


class Copy:
    """A descriptor and which chunks it has; swapped as one, so that the two always fit."""

    __slots__ = ("fd", "present")

    def __init__(self, fd: int, present: bytearray) -> None:
        self.fd = fd
        self.present = present


class Entry:
    """A cached file that this process has open, once for all who read it."""

    __slots__ = ("_dead", "copy", "lock", "name", "old", "reads", "size_bytes", "touched", "users")

    def __init__(self, name: str, size_bytes: int, copy: Copy, touched: float) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self.copy = copy
        self.touched = touched
        self.users = 0
        self.reads = 0
        self.old: list[int] = []
        self._dead = False
        self.lock = threading.Lock()

    def kill(self) -> None:
        self._dead = True

    def is_dead(self) -> bool:
        return self._dead


class CacheFiles:
    def __init__(
        self, directory: str, limit_bytes: int, chunk_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.directory = directory
        self.chunk_bytes = chunk_bytes
        self.used_bytes = 0
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._lock = threading.Lock()  # Guards the fields below.
        self._open: dict[str, int] = {}
        self._evicted_at = float("-inf")
        self._full_until = float("-inf")
        self._need_holes()

    def path(self, name: str) -> str:
        return f"{self.directory}/{name.replace('/', '_')}"

    def find(self, name: str) -> int | None:
        try:
            return os.stat(self.path(name)).st_size or None
        except OSError:
            return None

    def open(self, name: str, size_bytes: int) -> Entry:
        """OSError if there can be no such file here."""
        copy, touched = self._copy(name, size_bytes)
        entry = Entry(name, size_bytes, copy, touched)
        with self._lock:
            self._open[name] = self._open.get(name, 0) + 1
        self.touch(entry)
        return entry

    def touch(self, entry: Entry) -> None:
        """Notes a use, from time to time."""
        now = self._clock()
        if now - entry.touched < REUSE_S:
            return
        again = entry.touched > 0
        entry.touched = now
        with contextlib.suppress(OSError):  # K2
            stat = os.fstat(entry.copy.fd)
            os.utime(entry.copy.fd, ns=(int(now * 1e9), stat.st_mtime_ns))
            if again:
                os.fchmod(entry.copy.fd, 0o600 | _AGAIN)

    def write(self, entry: Entry, chunk: int, data: memoryview) -> None:
        if entry.is_dead() or self._clock() < self._full_until:
            return
        try:
            with entry.lock:
                if os.fstat(entry.copy.fd).st_nlink == 0:
                    if entry.is_dead():  # Set before the file goes: looked at after.
                        return
                    self._renew(entry)
                copy = entry.copy
                _write_all(copy.fd, chunk * self.chunk_bytes, data)
                count = -(-len(data) // self.chunk_bytes)
                copy.present[chunk : chunk + count] = b"\1" * count
        except OSError as error:
            self._refused(error)
            return
        with self._lock:
            self.used_bytes += len(data)
        self.evict()

    def take(self, name: str, size_bytes: int, source: str) -> bool:
        """Takes a whole file by renaming it. Not kept if it cannot be: it is in the store."""
        if self._limit_bytes < size_bytes:
            return False
        try:
            if os.stat(source).st_size != size_bytes or not size_bytes:
                return False
            now = self._clock()
            os.utime(source, (now, now))
            os.rename(source, self.path(name))
        except OSError as error:
            if error.errno != errno.ENOENT:
                self._refused(error)
            return False
        with self._lock:
            self.used_bytes += size_bytes
        self.evict()
        return True

    def unlink(self, name: str) -> None:
        with contextlib.suppress(OSError):  # K2; FileNotFoundError is the rule.
            os.unlink(self.path(name))

    def close(self, entry: Entry) -> None:
        for fd in (entry.copy.fd, *entry.old):
            os.close(fd)
        entry.old = []
        entry.copy = Copy(-1, bytearray())
        with self._lock:
            self._open[entry.name] -= 1
            if not self._open[entry.name]:
                del self._open[entry.name]

    def evict(self, at_once: bool = False) -> None:
        """CF1, CF2."""
        now = time.monotonic()
        with self._lock:
            if now - self._evicted_at < EVICT_S and not at_once:
                return
            self._evicted_at = now
        try:
            fd = os.open(f"{self.directory}/.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._refused(error)
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._evict()
        except BlockingIOError:
            return  # Another process is at it.
        except OSError as error:
            self._refused(error)
        finally:
            os.close(fd)

    def _evict(self) -> None:
        files = []
        with os.scandir(self.directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if not entry.name.startswith("."):
                        stat = entry.stat(follow_symlinks=False)
                        again = bool(stat.st_mode & _AGAIN)
                        files.append((again, stat.st_atime_ns, entry.name, stat.st_blocks * 512))
        used = sum(size for *_, size in files)
        gone = self._victims(files, used - self._limit_bytes)
        for name in gone:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.directory}/{name}")
        with self._lock:
            self.used_bytes = sum(size for *_, name, size in files if name not in gone)

    def _victims(self, files: list[tuple[bool, int, str, int]], excess_bytes: int) -> set[str]:
        """The names that go, for this many bytes to be freed."""
        with self._lock:
            reading = {name.replace("/", "_") for name in self._open}
        protected_bytes = sum(size for again, *_, size in files if again)
        order = []
        for again, used_at, name, size in sorted(files, key=lambda file: file[1]):
            if again and protected_bytes > PROTECTED * self._limit_bytes:
                protected_bytes -= size
                again = False
            order.append((name in reading, again, used_at, name, size))
        victims: set[str] = set()
        for *_, name, size in sorted(order):
            if excess_bytes <= 0:
                break
            victims.add(name)
            excess_bytes -= size
        return victims

    def _copy(self, name: str, size_bytes: int) -> tuple[Copy, float]:
        """An open file of the right size, and when it was used last (0: it is new)."""
        for _ in range(3):
            fd = _open(self.path(name))
            try:
                stat = os.fstat(fd)
                if stat.st_size == 0:
                    os.ftruncate(fd, size_bytes)
                    return Copy(fd, bytearray(-(-size_bytes // self.chunk_bytes))), 0.0
                if stat.st_size == size_bytes:
                    return Copy(fd, self._scan(fd, size_bytes)), stat.st_atime
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
            self.unlink(name)  # Not ours, or damaged.
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    def _renew(self, entry: Entry) -> None:
        """CF3. The old descriptor may be in use: it stays open until the entry is closed."""
        copy, _ = self._copy(entry.name, entry.size_bytes)
        entry.old.append(entry.copy.fd)
        entry.copy = copy

    def _scan(self, fd: int, size_bytes: int) -> bytearray:
        present = bytearray(-(-size_bytes // self.chunk_bytes))
        at = 0
        while at < size_bytes:
            try:
                start = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                raise
            at = os.lseek(fd, start, os.SEEK_HOLE)
            first = -(-start // self.chunk_bytes)
            last = len(present) if at >= size_bytes else at // self.chunk_bytes
            present[first:last] = b"\1" * max(0, last - first)
        return present

    def _need_holes(self) -> None:
        """A file system that sees no holes would have us read zeros that nobody wrote."""
        try:
            with tempfile.TemporaryFile(dir=self.directory, prefix=".probe-") as file:
                os.ftruncate(file.fileno(), 3 * self.chunk_bytes)
                os.pwrite(file.fileno(), b"x" * self.chunk_bytes, self.chunk_bytes)
                found = self._scan(file.fileno(), 3 * self.chunk_bytes)
        except OSError as error:
            raise BadInput(f"{self.directory}: cannot be a cache: {error.strerror}; choose another") from error
        if found != b"\0\1\0":
            raise BadInput(
                f"{self.directory}: its file system does not show holes in files; keep the cache on ext4, xfs or btrfs"
            )

    def _refused(self, error: OSError) -> None:
        """K2: reads go on without a cache. Full: no use to try again at once."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            if self._full_until < self._clock():
                _log.warning("%s: no space left for the cache; reading goes on without", self.directory)
            self._full_until = self._clock() + FULL_RETRY_S
        else:
            _log.warning("%s: the cache cannot keep a file: %s", self.directory, error.strerror)


def _open(path: str) -> int:
    try:
        return os.open(path, _OPEN | os.O_NOATIME, 0o600)
    except PermissionError:  # Somebody else's file: the kernel may set atime then.
        return os.open(path, _OPEN, 0o600)


def _write_all(fd: int, offset: int, data: memoryview) -> None:
    while data:
        count = os.pwrite(fd, data, offset)
        offset += count
        data = data[count:]
