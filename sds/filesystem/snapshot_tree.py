"""A snapshot of a filesystem on its own: as a view, and as what a mount shows.

  ST1  Whoever has it open holds the snapshot (Pool.hold_snapshot, shared), so it is neither destroyed nor swept.
  ST2  Every attempt to change it is EROFS. The mount is read only, so the kernel seldom lets one through.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, NoReturn

from sds.core.frame import Buffer
from sds.dataset.blockmap import BlockMap
from sds.dataset.items import Items
from sds.dataset.layer import Layers
from sds.dataset.nodes import Nodes
from sds.dataset.section import run
from sds.filesystem.attributes import Attr, Changes, Entry, Owner, Statfs
from sds.filesystem.inodes import load_counters
from sds.filesystem.space import Space
from sds.filesystem.view import FilesystemView
from sds.log.env import Env
from sds.log.reader import FrameReader
from sds.pool.pool import Pool

PAGES_MAX: Final = 1 << 14


@contextmanager
def view_of(pool: Pool, env: Env, root: int, mapped_blocks: int) -> Iterator[FilesystemView]:
    """Of a published tree."""
    reader = FrameReader(pool, env, {})
    nodes, layers = Nodes(reader, None), Layers(root)
    try:
        yield FilesystemView(Items(nodes, layers), BlockMap(nodes, layers, mapped_blocks, PAGES_MAX), reader)
    finally:
        reader.close()


class SnapshotTree:
    """A `Tree` of fuse/tree.py."""

    def __init__(self, view: FilesystemView) -> None:
        self._view = view
        self._space = Space(view.map, lambda: 0)

    async def lookup(self, parent: int, name: bytes) -> Attr:
        return await self._view.lookup(parent, name)

    async def getattr(self, inode: int) -> Attr:
        return await self._view.getattr(inode)

    async def readlink(self, inode: int) -> bytes:
        return await self._view.readlink(inode)

    async def read(self, inode: int, offset: int, length: int) -> Buffer:
        return await self._view.read(inode, offset, length)

    async def readdir(self, inode: int, cookie: int, limit: int) -> Sequence[Entry]:
        return await self._view.readdir(inode, cookie, limit)

    async def getxattr(self, inode: int, name: bytes) -> bytes:
        return await self._view.getxattr(inode, name)

    async def listxattr(self, inode: int) -> Sequence[bytes]:
        return await self._view.listxattr(inode)

    async def path_of(self, inode: int) -> str:
        return await self._view.path_of(inode)

    async def statfs(self) -> Statfs:
        return self._space.statfs(await run(partial(load_counters, self._view.items)))

    def is_volatile(self, parent: int) -> bool:
        """Whether entries of this directory may change behind the kernel's back."""
        return False

    async def open(self, inode: int) -> None:
        await self._view.open(inode)

    async def release(self, inode: int) -> None:
        await self._view.release(inode)

    async def forget(self, inodes: list[int]) -> None:
        """Nothing is kept for the kernel's sake."""

    async def fsync(self) -> None:
        """There is nothing that is not durable."""

    # -- ST2 ----------------------------------------------------------------------------------------------------------

    async def setattr(self, inode: int, changes: Changes) -> NoReturn:
        raise _never()

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

    async def unlink(self, parent: int, name: bytes) -> NoReturn:
        raise _never()

    async def rmdir(self, parent: int, name: bytes) -> NoReturn:
        raise _never()

    async def rename(self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, flags: int) -> NoReturn:
        raise _never()

    async def write(self, inode: int, offset: int, data: bytes | memoryview) -> NoReturn:
        raise _never()

    async def setxattr(self, inode: int, name: bytes, value: bytes) -> NoReturn:
        raise _never()

    async def removexattr(self, inode: int, name: bytes) -> NoReturn:
        raise _never()


def _never() -> OSError:
    return OSError(errno.EROFS, os.strerror(errno.EROFS))
