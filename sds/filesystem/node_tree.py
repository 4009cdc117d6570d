"""A mounted filesystem as one tree of nodes: the head, and its snapshots in `.snapshots/NAME`.

    node id    slot (16) | inode (48)      slot 0: the head; SNAPSHOTS_SLOT: the directory .snapshots; else a snapshot

  NT1  `.snapshots` is in the root directory, but not listed there: whoever copies or compares the tree does not fall
       into it. Its name is taken: nothing else can have it.
  NT2  Snapshots are read only (EROFS). Inode numbers that a user sees are node ids, so they differ between snapshots.
  NT3  In `.snapshots` names come and go behind the kernel's back: its entries may not be cached. A listing of it opens
       no snapshot, so the attributes in it are made up and may not be cached either.
"""

import errno
import stat
from collections.abc import Iterable
from typing import Final

from sds.core.errors import BadInput
from sds.core.frame import Buffer
from sds.filesystem.attributes import INODE_MAX, ROOT_INODE, Attr, Changes, Entry, Owner, Statfs
from sds.filesystem.entries import COOKIE_MIN
from sds.filesystem.filesystem import Filesystem
from sds.filesystem.inodes import error
from sds.filesystem.snapshots import SnapshotViews
from sds.filesystem.view import FilesystemView

SLOT_SHIFT: Final = 48
SNAPSHOTS_SLOT: Final = 0xFFFF
SNAPSHOTS_NODE: Final = SNAPSHOTS_SLOT << SLOT_SHIFT | ROOT_INODE
SNAPSHOTS_NAME: Final = b".snapshots"


class NodeTree:
    """The methods of Filesystem, by node id."""

    read_only = False

    def __init__(self, head: Filesystem, snapshots: SnapshotViews) -> None:
        self.head = head
        self.snapshots = snapshots

    # -- looking ------------------------------------------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes) -> Attr:
        slot = parent >> SLOT_SHIFT
        if parent == ROOT_INODE and name == SNAPSHOTS_NAME:
            return await self._directory()
        if not slot:
            return await self.head.lookup(parent, name)
        if slot == SNAPSHOTS_SLOT:
            return await self._snapshot_root(await self._find(name))
        return _in_slot(await self.snapshots.view(slot).lookup(parent & INODE_MAX, name), slot)

    async def getattr(self, node: int) -> Attr:
        slot = node >> SLOT_SHIFT
        if not slot:
            return await self.head.getattr(node)
        if slot == SNAPSHOTS_SLOT:
            return await self._directory()
        return _in_slot(await self.snapshots.view(slot).getattr(node & INODE_MAX), slot)

    async def readdir(self, node: int, cookie: int, limit: int) -> list[Entry]:
        slot = node >> SLOT_SHIFT
        if not slot:
            return await self.head.readdir(node, cookie, limit)
        if slot == SNAPSHOTS_SLOT:
            return await self._list(cookie, limit)
        entries = await self.snapshots.view(slot).readdir(node & INODE_MAX, cookie, limit)
        return [entry._replace(attr=_in_slot(entry.attr, slot)) for entry in entries]

    async def readlink(self, node: int) -> bytes:
        view, inode = self._view(node)
        return await view.readlink(inode)

    async def read(self, node: int, offset: int, length: int) -> Buffer:
        view, inode = self._view(node)
        return await view.read(inode, offset, length)

    async def getxattr(self, node: int, name: bytes) -> bytes:
        if node == SNAPSHOTS_NODE:
            raise error(errno.ENODATA)
        view, inode = self._view(node)
        return await view.getxattr(inode, name)

    async def listxattr(self, node: int) -> list[bytes]:
        if node == SNAPSHOTS_NODE:
            return []
        view, inode = self._view(node)
        return await view.listxattr(inode)

    async def path_of(self, node: int) -> str:
        """For messages."""
        if node == SNAPSHOTS_NODE:
            return f"/{SNAPSHOTS_NAME.decode()}"
        view, inode = self._view(node)
        path = await view.path_of(inode)
        slot = node >> SLOT_SHIFT
        return f"/{SNAPSHOTS_NAME.decode()}/{self.snapshots.name(slot)}{path}" if slot else path

    async def statfs(self) -> Statfs:
        return await self.head.statfs()

    def is_volatile(self, parent: int) -> bool:
        """NT3: entries of this directory may not be cached."""
        return parent == SNAPSHOTS_NODE

    def _view(self, node: int) -> tuple[FilesystemView, int]:
        slot = node >> SLOT_SHIFT
        if not slot:
            return self.head, node
        if slot == SNAPSHOTS_SLOT:
            raise error(errno.EISDIR)
        return self.snapshots.view(slot), node & INODE_MAX

    async def _directory(self) -> Attr:
        """Of `.snapshots`: as the root's, but read only."""
        root = await self.head.getattr(ROOT_INODE)
        rows = await self.snapshots.rows()
        changed_ns = max((row.created_at for row in rows), default=0) * 10**9
        mode = stat.S_IFDIR | root.mode & 0o555
        return root._replace(
            inode=SNAPSHOTS_NODE, flags=0, mode=mode, nlink=2 + len(rows), parent=ROOT_INODE,
            mtime_ns=changed_ns, ctime_ns=changed_ns,
        )  # fmt: skip

    async def _find(self, name: bytes) -> int:
        try:
            return await self.snapshots.find(name.decode())
        except (UnicodeDecodeError, BadInput):
            raise error(errno.ENOENT) from None

    async def _snapshot_root(self, slot: int) -> Attr:
        return _in_slot(await self.snapshots.view(slot).getattr(ROOT_INODE), slot)

    async def _list(self, cookie: int, limit: int) -> list[Entry]:
        """NT3. The cookie is the snapshot's id."""
        like = (await self._directory())._replace(parent=SNAPSHOTS_NODE, nlink=2)
        entries: list[Entry] = []
        for row in sorted(await self.snapshots.rows(), key=lambda row: row.id):
            if row.id + COOKIE_MIN > cookie and len(entries) < limit:
                node = self.snapshots.slot_of(row) << SLOT_SHIFT | ROOT_INODE
                entries.append(Entry(row.name.encode(), like._replace(inode=node), row.id + COOKIE_MIN))
        return entries

    # -- changing -----------------------------------------------------------------------------------------------------

    async def setattr(self, node: int, changes: Changes) -> Attr:
        return await self.head.setattr(_head(node), changes)

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, owner: Owner) -> Attr:
        return await self.head.mknod(_new(parent, name), name, mode, rdev, owner)

    async def create(self, parent: int, name: bytes, mode: int, owner: Owner) -> Attr:
        return await self.head.create(_new(parent, name), name, mode, owner)

    async def mkdir(self, parent: int, name: bytes, mode: int, owner: Owner) -> Attr:
        return await self.head.mkdir(_new(parent, name), name, mode, owner)

    async def symlink(self, parent: int, name: bytes, target: bytes, owner: Owner) -> Attr:
        return await self.head.symlink(_new(parent, name), name, target, owner)

    async def link(self, node: int, parent: int, name: bytes) -> Attr:
        if node >> SLOT_SHIFT and not parent >> SLOT_SHIFT:
            raise error(errno.EXDEV)
        return await self.head.link(_head(node), _new(parent, name), name)

    async def unlink(self, parent: int, name: bytes) -> None:
        await self.head.unlink(_old(parent, name), name)

    async def rmdir(self, parent: int, name: bytes) -> None:
        await self.head.rmdir(_old(parent, name), name)

    async def rename(self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, flags: int = 0) -> None:
        source, target = _old(old_parent, old_name), _old(new_parent, new_name)
        await self.head.rename(source, old_name, target, new_name, flags)

    async def write(self, node: int, offset: int, data: bytes | memoryview) -> int:
        return await self.head.write(_head(node), offset, data)

    async def fsync(self) -> None:
        await self.head.fsync()

    async def setxattr(self, node: int, name: bytes, value: bytes) -> None:
        await self.head.setxattr(_head(node), name, value)

    async def removexattr(self, node: int, name: bytes) -> None:
        await self.head.removexattr(_head(node), name)

    # -- lifetimes ----------------------------------------------------------------------------------------------------

    async def open(self, node: int) -> None:
        slot = node >> SLOT_SHIFT
        if not slot:
            await self.head.open(node)
        elif slot != SNAPSHOTS_SLOT:
            await self.snapshots.view(slot).open(node & INODE_MAX)
            self.snapshots.note_open(slot, +1)

    async def release(self, node: int) -> None:
        slot = node >> SLOT_SHIFT
        if not slot:
            await self.head.release(node)
        elif slot != SNAPSHOTS_SLOT:
            self.snapshots.note_open(slot, -1)
            await self.snapshots.view(slot).release(node & INODE_MAX)

    async def forget(self, nodes: Iterable[int]) -> None:
        await self.head.forget([node for node in nodes if not node >> SLOT_SHIFT])


def _in_slot(attr: Attr, slot: int) -> Attr:
    high = slot << SLOT_SHIFT
    parent = SNAPSHOTS_NODE if attr.inode == ROOT_INODE else high | attr.parent
    return attr._replace(inode=high | attr.inode, parent=parent)


def _head(node: int) -> int:
    """NT2."""
    if node >> SLOT_SHIFT:
        raise error(errno.EROFS)
    return node


def _new(parent: int, name: bytes) -> int:
    """A directory that gets this name. NT1."""
    if parent == ROOT_INODE and name == SNAPSHOTS_NAME:
        raise error(errno.EEXIST)
    return _head(parent)


def _old(parent: int, name: bytes) -> int:
    """A directory that this name is taken from, or replaced in. NT1."""
    if parent == ROOT_INODE and name == SNAPSHOTS_NAME:
        raise error(errno.EPERM)
    return _head(parent)
