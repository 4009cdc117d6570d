"""An open file of a directory backend, for reading.

  O1  The descriptor is closed when `close` was called and no thread uses it any more, one that hangs included. Its
      number is forgotten before, so that a late read can never hit a stranger's file.
  O2  read_nowait is one system call that never waits for a disk; a file system that cannot promise that
      (tmpfs) answers False.
  O3  Closing does not wait for a disk either: if the file has no name any more, a thread closes it.
  O4  A read that hangs ends with Hung (B13). Its buffer may still be filled later: use another one for the next read.
"""

import os
from contextlib import suppress

import trio

from sds.core.errors import BackendError, Corrupt, Hung

from .reader_threads import NoAnswer, ReaderThreads

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
        await trio.lowlevel.checkpoint_if_cancelled()
        fd = self._fd
        if fd < 0:
            raise BackendError(f"{self._url}: {self._name}: the reader is closed; open it again")
        self._users += 1
        error, count = await self._threads.read(fd, offset, into, self._let_go)
        if isinstance(error, NoAnswer):
            where = f"{self._url}: {self._name}"
            raise Hung(f"{where}: read: no answer for {self._threads.limit_s:g} s: is the disk still there?")
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
            self._close(fd)

    def _let_go(self, fd: int) -> None:
        self._users -= 1
        if self._closed and not self._users:
            self._close(fd)

    def _close(self, fd: int) -> None:
        if os.fstat(fd).st_nlink:
            with suppress(OSError):  # Only reads went through it: nothing can be lost.
                os.close(fd)
        else:
            self._threads.close_later(fd)
