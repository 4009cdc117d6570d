"""A block device, or a regular file that plays one (for trials): blocking reads, writes, flushes, discards, locks.

  DI1  Writes, and reads of the table, bypass the page cache (O_DIRECT): an error of a write is told to its writer, and
       the table is read as the device has it. Memory that the kernel refuses is copied to aligned memory. Only a
       regular file on a file system without O_DIRECT goes through the page cache.
  DI2  Content is read through the page cache by another descriptor; a direct write drops the cached pages of its
       range.
  DI3  A lock is an open-file-description lock on a range of bytes: it excludes other objects and processes of this
       machine that use the same device node, says nothing to threads of this object, and ends with the process.
  DI4  Whole blocks are written: the sectors beside a changed one are written again as they are. Torn or not, they stay.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
from contextlib import suppress

from .device_format import BLOCK
from .directory_write import drop_direct

LOCK_TABLE = 0
"""Byte that is locked while the table changes."""
LOCK_USE = 1
"""Byte on which every user of the device has a shared lock."""
_OFD_GETLK, _OFD_SETLK, _OFD_SETLKW = 36, 37, 38
_FLOCK = struct.Struct("@hhqqi4x")
_BLKDISCARD = 0x1277
_PUNCH_KEEP_SIZE = 3
_CHUNK = 1 << 20
_libc = ctypes.CDLL(None, use_errno=True)


class Disk:
    def __init__(self, path: str) -> None:
        """OSError if it cannot be opened for writing or is neither a block device nor a regular file."""
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK
        self.path = path
        self.cached = os.open(path, flags)
        try:
            mode = os.fstat(self.cached).st_mode
            self.is_block = stat.S_ISBLK(mode)
            if not self.is_block and not stat.S_ISREG(mode):
                raise OSError(errno.ENOTBLK, os.strerror(errno.ENOTBLK))
            self.size_bytes = os.lseek(self.cached, 0, os.SEEK_END)
            self._direct = self._open_direct(flags)
        except BaseException:
            os.close(self.cached)
            raise
        self._discards = True

    def _open_direct(self, flags: int) -> int:
        try:
            return os.open(self.path, flags | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return os.open(self.path, flags)

    def close(self) -> None:
        """The numbers are forgotten first: a late thread must not hit a stranger's file."""
        cached, direct = self.cached, self._direct
        self.cached = self._direct = -1
        os.close(cached)
        os.close(direct)

    # Reading and writing

    def read(self, offset: int, length: int) -> bytes:
        """Whole blocks, past the page cache."""
        memory = mmap.mmap(-1, length)
        view = memoryview(memory)
        done = 0
        while done < length:
            try:
                count = os.preadv(self._direct, [view[done:]], offset + done)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._is_direct():
                    raise
                drop_direct(self._direct)
                continue
            if count == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            done += count
        return bytes(view)

    def read_cached(self, offset: int, into: memoryview) -> None:
        done = 0
        while done < into.nbytes:
            count = os.preadv(self.cached, [into[done:]], offset + done)
            if count == 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            done += count

    def write(self, offset: int, data: memoryview) -> None:
        """Whole blocks."""
        done = 0
        while done < data.nbytes:
            done += self._write_some(offset + done, data[done:])

    def _write_some(self, offset: int, data: memoryview) -> int:
        try:
            count = os.pwritev(self._direct, [data], offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            piece = data[:_CHUNK]
            aligned = mmap.mmap(-1, piece.nbytes)
            aligned[:] = bytes(piece)
            try:
                count = os.pwritev(self._direct, [aligned], offset)
            except OSError as again:
                if again.errno != errno.EINVAL or not self._is_direct():
                    raise
                drop_direct(self._direct)
                return 0
        if count <= 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return count

    def write_sector(self, offset: int, sector: bytes) -> None:
        """DI4. Only under the lock of the table."""
        at = offset - offset % BLOCK
        block = bytearray(self.read(at, BLOCK))
        block[offset - at : offset - at + len(sector)] = sector
        self.write(at, memoryview(block))

    def flush(self) -> None:
        os.fdatasync(self._direct)

    def discard(self, offset: int, length: int) -> None:
        """A kindness to SSDs and sparse files. Given up for good after the first refusal."""
        if not self._discards:
            return
        try:
            if self.is_block:
                fcntl.ioctl(self.cached, _BLKDISCARD, struct.pack("@QQ", offset, length))
            else:
                where = (ctypes.c_int64(offset), ctypes.c_int64(length))
                if _libc.fallocate(self.cached, _PUNCH_KEEP_SIZE, *where):
                    raise OSError(ctypes.get_errno(), "fallocate")
        except OSError:
            self._discards = False

    def _is_direct(self) -> bool:
        return bool(fcntl.fcntl(self._direct, fcntl.F_GETFL) & os.O_DIRECT)

    # Locks

    def lock(self, offset: int, length: int = 1, *, exclusive: bool, wait: bool) -> bool:
        kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
        return self._lock(kind, offset, length, _OFD_SETLKW if wait else _OFD_SETLK)

    def unlock(self, offset: int, length: int = 1) -> None:
        with suppress(OSError):  # Unlocking does not fail but for a closed descriptor.
            self._lock(fcntl.F_UNLCK, offset, length, _OFD_SETLK)

    def is_locked_by_another(self, offset: int, length: int) -> bool:
        request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, length, 0)
        answer: bytes = fcntl.fcntl(self._direct, _OFD_GETLK, request)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def _lock(self, kind: int, offset: int, length: int, command: int) -> bool:
        try:
            fcntl.fcntl(self._direct, command, _FLOCK.pack(kind, os.SEEK_SET, offset, length, 0))
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            return False
        return True
