"""An open file of a directory backend, for reading.

  O1  The descriptor is closed when `close` was called and no thread uses it any more. Its number is forgotten
      before, so that a late read can never hit a stranger's file.
  O2  read_nowait is one system call that never waits for a disk; a file system that cannot promise that
      (tmpfs) answers False.
"""

import os

from sds.core.errors import BackendError, Corrupt

from .reader_threads import ReaderThreads

_RWF_NOWAIT = os.RWF_NOWAIT
_preadv = os.preadv


class DirectoryReader:
    __slots__ = ("_closed", "_fd", "_name", "_threads", "_url", "_users")

    def __init__(self, url: str, name: str, fd: int, threads: ReaderThreads) -> None:
        self._url = url
        self._name = name
        self._fd = fd
        self._threads = threads
        self._users = 0
        self._closed = False

    def read_nowait(self, offset: int, into: memoryview) -> bool:
        try:
            return _preadv(self._fd, (into,), offset, _RWF_NOWAIT) == len(into)
        except OSError:
            return False

    async def read(self, offset: int, into: memoryview) -> None:
        fd = self._fd
        if fd < 0:
            raise BackendError(f"{self._url}: {self._name}: the reader is closed; open it again")
        self._users += 1
        try:
            error, count = await self._threads.read(fd, offset, into)
        finally:
            self._users -= 1
            if self._closed and not self._users:
                os.close(fd)
        if error is not None:
            raise BackendError(f"{self._url}: {self._name}: read failed: {error.strerror}; check the disk")
        if count != len(into):
            raise Corrupt(
                f"{self._url}: {self._name}: too short, {count} of {len(into)} bytes at {offset} are there"
            )

    def will_need(self, offset: int, length: int) -> bool:
        return self._threads.hint(self._fd, offset, length)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        fd, self._fd = self._fd, -1
        if not self._users:
            os.close(fd)
