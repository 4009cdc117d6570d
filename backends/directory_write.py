"""One file that is being written, and the loop that writes all of a buffer.

  W1  Writes bypass the page cache (O_DIRECT) until the kernel refuses that for this file system or this
      memory (EINVAL); from then on the file is written through the page cache. No promise depends on which.
  W2  Syncs of one file take turns, and one that waited behind a failed one fails too: the kernel reports a
      write-back error once per descriptor, so a second fdatasync would succeed and lie.
"""

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable

_WRITE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class WriteFile:
    def __init__(self, fd: int, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.users = 0
        self._name_is_durable = False
        self.retired = False
        self._fd = fd
        self._turn = threading.Lock()
        self._failed = False

    @classmethod
    def open(cls, parent: int, base: str) -> "WriteFile":
        try:
            fd = os.open(base, _WRITE | os.O_DIRECT, dir_fd=parent)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            fd = os.open(base, _WRITE, dir_fd=parent)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        return cls(fd, status.st_size)

    def write(self, offset: int, data: memoryview) -> None:
        try:
            write_all(self._fd, offset, data)
        except OSError:
            self._failed = True
            raise

    def sync(self, make_name_durable: Callable[[], None] | None = None) -> None:
        """The content; with the first sync that is given a way to do it, the name, too (W2 goes for both)."""
        with self._turn:
            self._check()
            try:
                os.fdatasync(self._fd)
                if make_name_durable is not None and not self._name_is_durable:
                    make_name_durable()
                    self._name_is_durable = True
            except OSError:
                self._failed = True
                raise

    def cut(self, size_bytes: int) -> None:
        with self._turn:
            self._check()
            try:
                os.ftruncate(self._fd, size_bytes)
                os.fsync(self._fd)
            except OSError:
                self._failed = True
                raise
            self.size_bytes = size_bytes

    def close_if_done(self) -> None:
        if self.retired and not self.users and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _check(self) -> None:
        if self._failed:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def write_all(fd: int, offset: int, data: memoryview) -> None:
    """Writes every byte, or raises. Short writes are continued."""
    done, total, buffered = 0, data.nbytes, False
    data = data.cast("B") if data.format != "B" else data
    while done < total:
        try:
            count = os.pwritev(fd, [data[done:]], offset + done)
        except OSError as error:
            if error.errno != errno.EINVAL or buffered:
                raise
            drop_direct(fd)  # W1; another thread may have done it meanwhile.
            buffered = True
            continue
        if count == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        done += count


def drop_direct(fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_DIRECT)
