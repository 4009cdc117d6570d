"""A filesystem in memory: the contract of fuse/tree.py at its simplest, and the speed limit of the adapter.

It checks nothing that the kernel checks (permissions, types of the ends of a rename). Names that begin with `boom-`
make whatever touches them fail: `boom-os` with EXDEV, `boom-corrupt`, `boom-full`, `boom-failed` with errors of sds,
`boom-bug` with an error nobody expected. To look up `hang` takes for ever.
"""

import errno
import os
import stat
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from fuse.tree import Buffer
from sds.core.errors import Corrupt, Failed, NoSpace
from sds.filesystem.attributes import NAME_MAX, ROOT_INODE, Attr, Changes, Entry, Owner, Statfs
from sds.filesystem.entries import COOKIE_MIN

NOREPLACE: Final = 1
EXCHANGE: Final = 2
BLOCK: Final = 4096
_LAST_NAME: Final = b"\xff" * 256


@dataclass
class Node:
    attr: Attr
    data: bytearray = field(default_factory=bytearray)
    target: bytes = b""
    names: dict[bytes, int] = field(default_factory=dict)
    order: list[tuple[int, bytes]] = field(default_factory=list)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    opens: int = 0


class MemoryTree:
    def __init__(self, owner: Owner | None = None) -> None:
        owner = owner or Owner(os.getuid(), os.getgid())
        self.nodes: dict[int, Node] = {}
        self.volatile: set[int] = set()
        self.forgotten: list[int] = []
        self.syncs = 0
        self.written = 0
        self.hangs = trio.Event()
        self.limits: list[int] = []
        self._next = ROOT_INODE
        self._cookies = COOKIE_MIN
        self._make(stat.S_IFDIR | 0o755, 0, owner, ROOT_INODE, 2)

    def is_volatile(self, parent: int) -> bool:
        return parent in self.volatile

    # -- names --------------------------------------------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes) -> Attr:
        _boom(name)
        if name == b"hang":
            self.hangs.set()
            await trio.sleep_forever()
        inode = self._node(parent).names.get(name)
        if inode is None:
            raise _error(errno.ENOENT)
        return self.nodes[inode].attr

    async def readdir(self, inode: int, cookie: int, limit: int) -> Sequence[Entry]:
        self.limits.append(limit)
        node = self._node(inode)
        at = bisect_right(node.order, (cookie, _LAST_NAME))
        return [
            Entry(name, self.nodes[node.names[name]].attr, following) for following, name in node.order[at : at + limit]
        ]

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, owner: Owner) -> Attr:
        return self._named(parent, name, mode, rdev, owner).attr

    async def create(self, parent: int, name: bytes, mode: int, owner: Owner) -> Attr:
        node = self._named(parent, name, mode, 0, owner)
        node.opens = 1
        return node.attr

    async def mkdir(self, parent: int, name: bytes, mode: int, owner: Owner) -> Attr:
        return self._named(parent, name, mode, 0, owner).attr

    async def symlink(self, parent: int, name: bytes, target: bytes, owner: Owner) -> Attr:
        node = self._named(parent, name, stat.S_IFLNK | 0o777, 0, owner)
        node.target = target
        return self._change(node, size_bytes=len(target))

    async def link(self, inode: int, parent: int, name: bytes) -> Attr:
        node = self._node(inode)
        self._enter(parent, name, inode)
        return self._change(node, nlink=node.attr.nlink + 1)

    async def unlink(self, parent: int, name: bytes) -> None:
        _boom(name)
        node = self.nodes[self._leave(parent, name)]
        self._change(node, nlink=node.attr.nlink - 1)
        self._reap(node)

    async def rmdir(self, parent: int, name: bytes) -> None:
        node = self.nodes[self._node(parent).names[name]]
        if node.names:
            raise _error(errno.ENOTEMPTY)
        self._leave(parent, name)
        self._change(self._node(parent), nlink=self._node(parent).attr.nlink - 1)
        self._change(node, nlink=0)
        self._reap(node)

    async def rename(self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, flags: int = 0) -> None:
        there = self._node(new_parent).names.get(new_name)
        if flags & NOREPLACE and there is not None:
            raise _error(errno.EEXIST)
        inode = self._leave(old_parent, old_name)
        if there is not None:
            self._leave(new_parent, new_name)
            if flags & EXCHANGE:
                self._enter(old_parent, old_name, there)
            else:
                node = self.nodes[there]
                self._change(node, nlink=0 if node.attr.is_directory else node.attr.nlink - 1)
                self._reap(node)
        self._enter(new_parent, new_name, inode)

    # -- nodes --------------------------------------------------------------------------------------------------------

    async def getattr(self, inode: int) -> Attr:
        return self._node(inode).attr

    async def setattr(self, inode: int, changes: Changes) -> Attr:
        node, old = self._node(inode), self._node(inode).attr
        if changes.size_bytes is not None:
            self._resize(node, changes.size_bytes)
        return self._change(
            node,
            mode=old.mode if changes.mode is None else stat.S_IFMT(old.mode) | stat.S_IMODE(changes.mode),
            uid=old.uid if changes.uid is None else changes.uid,
            gid=old.gid if changes.gid is None else changes.gid,
            atime_ns=old.atime_ns if changes.atime_ns is None else changes.atime_ns,
            mtime_ns=old.mtime_ns if changes.mtime_ns is None else changes.mtime_ns,
            ctime_ns=time.time_ns() if changes.ctime_ns is None else changes.ctime_ns,
        )

    async def readlink(self, inode: int) -> bytes:
        return self._node(inode).target

    async def path_of(self, inode: int) -> str:
        return f"/somewhere/{inode}"

    async def statfs(self) -> Statfs:
        return Statfs(BLOCK, 1 << 20, 1 << 19, 1 << 18, 1 << 30, 1 << 29)

    async def open(self, inode: int) -> None:
        self._node(inode).opens += 1

    async def release(self, inode: int) -> None:
        node = self._node(inode)
        node.opens -= 1
        self._reap(node)

    async def forget(self, inodes: list[int]) -> None:
        self.forgotten += inodes

    async def read(self, inode: int, offset: int, length: int) -> Buffer:
        return memoryview(bytes(self._node(inode).data[offset : offset + length]))

    async def write(self, inode: int, offset: int, data: bytes | memoryview) -> int:
        node = self._node(inode)
        if offset > len(node.data):
            self._resize(node, offset)
        node.data[offset : offset + len(data)] = data
        self.written += len(data)
        now = time.time_ns()
        self._change(node, size_bytes=len(node.data), mtime_ns=now, ctime_ns=now)
        return len(data)

    async def fsync(self) -> None:
        self.syncs += 1

    async def getxattr(self, inode: int, name: bytes) -> bytes:
        value = self._node(inode).xattrs.get(name)
        if value is None:
            raise _error(errno.ENODATA)
        return value

    async def setxattr(self, inode: int, name: bytes, value: bytes) -> None:
        self._node(inode).xattrs[name] = value

    async def listxattr(self, inode: int) -> Sequence[bytes]:
        return list(self._node(inode).xattrs)

    async def removexattr(self, inode: int, name: bytes) -> None:
        if self._node(inode).xattrs.pop(name, None) is None:
            raise _error(errno.ENODATA)

    # -- within -------------------------------------------------------------------------------------------------------

    def fill(self, parent: int, names: Sequence[bytes]) -> None:
        for name in names:
            self._named(parent, name, stat.S_IFREG | 0o644, 0, Owner(os.getuid(), os.getgid()))

    def _node(self, inode: int) -> Node:
        node = self.nodes.get(inode)
        if node is None:
            raise _error(errno.ESTALE)
        return node

    def _make(self, mode: int, rdev: int, owner: Owner, parent: int, nlink: int) -> Node:
        inode, now = self._next, time.time_ns()
        self._next += 1
        attr = Attr(inode, 0, mode, nlink, owner.uid, owner.gid, rdev, 0, 0, parent, now, now, now, now)
        self.nodes[inode] = Node(attr)
        return self.nodes[inode]

    def _named(self, parent: int, name: bytes, mode: int, rdev: int, owner: Owner) -> Node:
        _boom(name)
        if name in self._node(parent).names:
            raise _error(errno.EEXIST)
        is_directory = stat.S_ISDIR(mode)
        node = self._make(mode, rdev, owner, parent, 2 if is_directory else 1)
        self._enter(parent, name, node.attr.inode)
        if is_directory:
            self._change(self._node(parent), nlink=self._node(parent).attr.nlink + 1)
        return node

    def _enter(self, parent: int, name: bytes, inode: int) -> None:
        node = self._node(parent)
        self._cookies += 1
        node.names[name] = inode
        node.order.append((self._cookies, name))
        if self.nodes[inode].attr.is_directory:
            self._change(self.nodes[inode], parent=parent)

    def _leave(self, parent: int, name: bytes) -> int:
        node = self._node(parent)
        inode = node.names.pop(name)
        node.order = [entry for entry in node.order if entry[1] != name]
        return inode

    def _resize(self, node: Node, size_bytes: int) -> None:
        if size_bytes < len(node.data):
            del node.data[size_bytes:]
        else:
            node.data.extend(bytes(size_bytes - len(node.data)))
        self._change(node, size_bytes=size_bytes, mtime_ns=time.time_ns())

    def _change(self, node: Node, **changes: int) -> Attr:
        node.attr = node.attr._replace(**changes)
        return node.attr

    def _reap(self, node: Node) -> None:
        if not node.attr.nlink and not node.opens:
            self.nodes.pop(node.attr.inode, None)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _boom(name: bytes) -> None:
    if len(name) > NAME_MAX:
        raise _error(errno.ENAMETOOLONG)  # the kernel lets longer ones pass
    errors: dict[bytes, Exception] = {
        b"boom-os": _error(errno.EXDEV),
        b"boom-full": NoSpace("the pool is full"),
        b"boom-corrupt": Corrupt("block 7 is damaged"),
        b"boom-failed": Failed("read-only"),
        b"boom-bug": ZeroDivisionError("nobody expected this"),
    }
    if name in errors:
        raise errors[name]
