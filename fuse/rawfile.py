"""A volume as a directory with one file: a `Tree` (fuse/tree.py) for tools that want a file and not a block device.

  RF1  Node 1 is the directory, node 2 the file, as large as the volume at any moment.
  RF2  Nothing can be made, removed, renamed or given away. The size cannot be changed here (`sds volume resize`).
  RF3  A write at the end of the volume writes what fits and then fails with ENOSPC, as on a disk.
  RF4  Times are kept in memory only: the file was changed when it was opened here, or last written to.
"""

import errno
import os
import stat
import time
from collections.abc import Sequence
from typing import Final, NoReturn, Protocol

from fuse.tree import Buffer
from sds.filesystem.attributes import ROOT_INODE, Attr, Changes, Entry, Owner, Statfs
from sds.filesystem.entries import COOKIE_MIN

FILE_INODE: Final = 2
BLOCK: Final = 4096
SUFFIX: Final = b".img"


class Device(Protocol):
    """As the NBD server uses it: sds.volume.Volume, or a snapshot of one."""

    @property
    def read_only(self) -> bool: ...

    @property
    def size_bytes(self) -> int: ...

    def read_nowait(self, offset: int, length: int, /) -> Sequence[Buffer] | None: ...

    async def read(self, offset: int, length: int, /) -> Sequence[Buffer]: ...

    def write_nowait(self, offset: int, data: memoryview, /) -> bool: ...

    async def write(self, offset: int, data: memoryview, /) -> None: ...

    async def flush(self) -> None: ...


class RawFile:
    """`name` is the volume's; the file has `.img` behind it. `owner` may read and write it, nobody else may."""

    def __init__(self, device: Device, name: str, owner: Owner) -> None:
        self._device = device
        self._name = os.fsencode(name) + SUFFIX
        self._owner = owner
        self._changed_ns = self._read_ns = self._made_ns = time.time_ns()

    def is_volatile(self, parent: int) -> bool:
        return False

    # -- reading ------------------------------------------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes) -> Attr:
        if parent != ROOT_INODE or name != self._name:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self._attr(FILE_INODE)

    async def getattr(self, inode: int) -> Attr:
        return self._attr(inode)

    async def readdir(self, inode: int, cookie: int, limit: int) -> Sequence[Entry]:
        return [] if cookie else [Entry(self._name, self._attr(FILE_INODE), COOKIE_MIN)]

    async def readlink(self, inode: int) -> bytes:
        raise OSError(errno.EINVAL, "not a symbolic link")

    async def read(self, inode: int, offset: int, length: int) -> Buffer:
        length = min(length, self._device.size_bytes - offset)
        if length <= 0:
            return b""
        buffers = self._device.read_nowait(offset, length)
        if buffers is None:
            buffers = await self._device.read(offset, length)
        return buffers[0] if len(buffers) == 1 else b"".join(buffers)

    async def path_of(self, inode: int) -> str:
        return "/" if inode == ROOT_INODE else "/" + os.fsdecode(self._name)

    async def statfs(self) -> Statfs:
        return Statfs(BLOCK, -(-self._device.size_bytes // BLOCK), 0, 0, 1, 0)

    async def open(self, inode: int) -> None:
        """There is nothing to keep: the file can neither be removed nor replaced."""

    async def release(self, inode: int) -> None:
        """See `open`."""

    async def forget(self, inodes: list[int]) -> None:
        """See `open`."""

    async def getxattr(self, inode: int, name: bytes) -> bytes:
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))

    async def listxattr(self, inode: int) -> Sequence[bytes]:
        return []

    # -- writing ------------------------------------------------------------------------------------------------------

    async def write(self, inode: int, offset: int, data: bytes | memoryview) -> int:
        if self._device.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        piece = memoryview(data)[: max(0, self._device.size_bytes - offset)]
        if len(data) and not len(piece):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # RF3
        if len(piece) and not self._device.write_nowait(offset, piece):
            await self._device.write(offset, piece)
        self._changed_ns = time.time_ns()
        return len(piece)

    async def fsync(self) -> None:
        await self._device.flush()

    async def setattr(self, inode: int, changes: Changes) -> Attr:
        """RF2. Times can be set; anything else may only be set to what it is."""
        attr = self._attr(inode)
        if self._device.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        same = (
            changes.size_bytes in (None, attr.size_bytes)
            and changes.uid in (None, attr.uid)
            and changes.gid in (None, attr.gid)
            and (changes.mode is None or stat.S_IMODE(changes.mode) == stat.S_IMODE(attr.mode))
        )
        if not same:
            raise _never()
        if inode == FILE_INODE and changes.mtime_ns is not None:
            self._changed_ns = changes.mtime_ns
        if inode == FILE_INODE and changes.atime_ns is not None:
            self._read_ns = changes.atime_ns
        return self._attr(inode)

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, owner: Owner) -> NoReturn:
        raise _never()

    async def create(self, parent: int, name: bytes, mode: int, owner: Owner) -> NoReturn:
        raise _never()

    async def mkdir(self, parent: int, name: bytes, mode: int, owner: Owner) -> NoReturn:
        raise _never()

    async def symlink(self, parent: int, name: bytes, target: bytes, owner: Owner) -> NoReturn:
        raise _never()

    async def link(self, inode: int, parent: int, name: bytes) -> NoReturn:
        raise _never()

    async def unlink(self, parent: int, name: bytes) -> None:
        raise _never()

    async def rmdir(self, parent: int, name: bytes) -> None:
        raise _never()

    async def rename(self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        raise _never()

    async def setxattr(self, inode: int, name: bytes, value: bytes) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    async def removexattr(self, inode: int, name: bytes) -> None:
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))

    def _attr(self, inode: int) -> Attr:
        if inode not in (ROOT_INODE, FILE_INODE):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        is_file = inode == FILE_INODE
        write = 0 if self._device.read_only else 0o200
        size_bytes = self._device.size_bytes if is_file else 0
        return Attr(
            inode=inode,
            flags=0,
            mode=stat.S_IFREG | 0o400 | write if is_file else stat.S_IFDIR | 0o555,
            nlink=1 if is_file else 2,
            uid=self._owner.uid,
            gid=self._owner.gid,
            rdev=0,
            size_bytes=size_bytes,
            blocks=-(-size_bytes // BLOCK),
            parent=ROOT_INODE,
            atime_ns=self._read_ns if is_file else self._made_ns,
            mtime_ns=self._changed_ns if is_file else self._made_ns,
            ctime_ns=self._changed_ns if is_file else self._made_ns,
            btime_ns=self._made_ns,
        )


def _never() -> OSError:
    return PermissionError(errno.EPERM, "the directory of a volume has one file, as large as the volume")
