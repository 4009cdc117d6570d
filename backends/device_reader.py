"""An open file of a raw device, for reading: a descriptor of the device, and where on it the file is.

  DR1  Only ranges inside the file are read. After a delete the bytes may be those of another file.
  DR2  The descriptor is closed when `close` was called and no thread uses it any more, those that hang included.
"""

import os

import trio

from sds.core.errors import BackendError, Hung

from .device_errors import error_of
from .device_files import pieces
from .device_format import Entry
from .names import check_read
from .reader_threads import NoAnswer, ReaderThreads


class DeviceReader:
    __slots__ = ("_entry", "_fd", "_name", "_threads", "_url", "_users")

    def __init__(self, url: str, fd: int, entry: Entry, threads: ReaderThreads) -> None:
        self._url = url
        self._name = entry.name
        self._entry = entry
        self._fd = fd
        self._threads = threads
        self._users = 1  # Itself, until close.

    def read_nowait(self, offset: int, into: memoryview) -> bool:
        if self._fd < 0 or offset < 0 or offset + len(into) > self._entry.size_bytes:
            return False
        done = 0
        try:
            for at, length in pieces(self._entry.extents, offset, len(into)):
                if os.preadv(self._fd, (into[done : done + length],), at, os.RWF_NOWAIT) != length:
                    return False
                done += length
        except OSError:
            return False
        return True

    async def read(self, offset: int, into: memoryview) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        check_read(self._url, self._name, offset, len(into), self._entry.size_bytes)
        done = 0
        for at, length in pieces(self._entry.extents, offset, len(into)):
            fd = self._fd
            if fd < 0:
                raise BackendError(f"{self._url}: {self._name}: the reader is closed; open it again")
            self._users += 1
            error, count = await self._threads.read(fd, at, into[done : done + length], self._let_go)
            if isinstance(error, NoAnswer):
                limit = self._threads.limit_s
                raise Hung(f"{self._url}: {self._name}: no answer for {limit:g} s: is the device still there?")
            if error is not None:
                raise error_of(self._url, self._name, error) from error
            if count != length:
                raise BackendError(f"{self._url}: {self._name}: the device ends too early; is it still attached?")
            done += length

    def will_need(self, offset: int, length: int) -> bool:
        if self._fd < 0 or offset < 0:
            return False
        length = min(length, self._entry.size_bytes - offset)
        found = pieces(self._entry.extents, offset, length) if length > 0 else []
        return all([self._threads.hint(self._fd, at, count) for at, count in found]) and bool(found)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._let_go(fd)

    def _let_go(self, fd: int) -> None:
        self._users -= 1
        if not self._users:
            os.close(fd)  # Never the last descriptor of the device while it is in use: quick.
