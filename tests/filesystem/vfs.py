"""The part of Linux that stands before a filesystem, as far as the tests need it: paths, open files, umask, forget.

  VF1  What the kernel checks before it asks a filesystem is checked here only where a name must be resolved to ask at
       all. The rest (types in rename, ENOTEMPTY, EISDIR ...) is the filesystem's to refuse.
  VF2  An inode without a name is forgotten when it is no longer open, as the kernel does: sometimes the forget comes
       before the release.
  VF3  All are root: permissions are the kernel's.
"""

import errno
import os
import stat
import time
from dataclasses import dataclass
from typing import NoReturn

from sds.filesystem.attributes import ROOT_INODE, Attr, Changes, Owner
from sds.filesystem.filesystem import Filesystem
from tests.filesystem.facts import HEAD_BYTES, TAIL_BYTES, Seen, Status, Tree, digest, seen, shown_time
from tests.filesystem.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, UTIME_NOW, UTIME_OMIT

UMASK = 0o022
SYMLINKS_MAX = 40
PATH_MAX = 4096
XATTR_NAME_MAX = 255
XATTR_SIZE_MAX = 1 << 16
ROOT = Owner(0, 0)
Entries = list[tuple[bytes, Attr]]
READDIR_STEP = 7
"""Small, so that reading goes on behind a cookie in nearly every directory."""


def fail(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))


@dataclass(frozen=True, slots=True)
class Handle:
    inode: int
    append: bool


class Vfs:
    """Operations by path, as Plain has them, on an open Filesystem."""

    def __init__(self, filesystem: Filesystem) -> None:
        self.fs = filesystem
        self.handles: dict[int, Handle] = {}
        self.forget_first = False

    # -- paths ---------------------------------------------------------------------------------------------------------

    async def at(self, path: bytes, follow: bool = True) -> Attr:
        parent, name = await self._parent(path)
        return await self._step(parent, name, follow, [0])

    async def _parent(self, path: bytes) -> tuple[Attr, bytes]:
        if len(path) >= PATH_MAX:
            fail(errno.ENAMETOOLONG)
        root = await self.fs.getattr(ROOT_INODE)
        return await self._split(root, path, [0])

    async def _split(self, start: Attr, path: bytes, followed: list[int]) -> tuple[Attr, bytes]:
        """The directory of the last part of a path, and that part."""
        *parts, last = [part for part in path.split(b"/") if part] or [b"."]
        for part in parts:
            start = await self._step(start, part, True, followed)
        if not start.is_directory:
            fail(errno.ENOTDIR)
        return start, last

    async def _step(self, parent: Attr, name: bytes, follow: bool, followed: list[int]) -> Attr:
        if not parent.is_directory:
            fail(errno.ENOTDIR)
        if name == b".":
            return parent
        if name == b"..":
            return await self.fs.getattr(parent.parent if parent.inode != ROOT_INODE else ROOT_INODE)
        attr = await self.fs.lookup(parent.inode, name)
        if attr.is_symlink and follow:
            return await self._step(*await self._target(parent, attr, followed), True, followed)
        return attr

    async def _target(self, parent: Attr, link: Attr, followed: list[int]) -> tuple[Attr, bytes]:
        followed[0] += 1
        if followed[0] > SYMLINKS_MAX:
            fail(errno.ELOOP)
        target = bytes(await self.fs.readlink(link.inode))
        if target.startswith(b"/"):
            parent = await self.fs.getattr(ROOT_INODE)
        return await self._split(parent, target, followed)

    async def _new(self, path: bytes) -> tuple[Attr, bytes]:
        """Where to make something that must not be there."""
        parent, name = await self._parent(path)
        if await self._find(parent, name) is not None:
            fail(errno.EEXIST)
        return parent, name

    async def _find(self, parent: Attr, name: bytes) -> Attr | None:
        try:
            return await self.fs.lookup(parent.inode, name)
        except FileNotFoundError:
            return None

    # -- open files ----------------------------------------------------------------------------------------------------

    async def open(self, handle: int, path: bytes, flags: int, mode: int) -> str:
        followed = [0]
        parent, name = await self._parent(path)
        attr = await self._find(parent, name)
        while attr is not None and attr.is_symlink and flags & (os.O_CREAT | os.O_EXCL) != os.O_CREAT | os.O_EXCL:
            parent, name = await self._target(parent, attr, followed)
            attr = parent if name in (b".", b"..") else await self._find(parent, name)
        if attr is None:
            if not flags & os.O_CREAT:
                fail(errno.ENOENT)
            attr = await self.fs.create(parent.inode, name, stat.S_IFREG | mode & 0o7777 & ~UMASK, ROOT)
        else:
            if attr.mode & 0o170000 not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                return "special"
            if flags & os.O_CREAT and flags & os.O_EXCL:
                fail(errno.EEXIST)
            if attr.is_directory:
                return fail(errno.EISDIR) if flags & (os.O_CREAT | os.O_ACCMODE | os.O_TRUNC) else "directory"
            await self.fs.open(attr.inode)
            if flags & os.O_TRUNC:
                await self.fs.setattr(attr.inode, Changes(size_bytes=0))
        await self.close(handle)
        self.handles[handle] = Handle(attr.inode, bool(flags & os.O_APPEND))
        return "open"

    async def close(self, handle: int) -> None:
        if handle in self.handles:
            inode = self.handles.pop(handle).inode
            nameless = not any(one.inode == inode for one in self.handles.values())
            nameless = nameless and not (await self.fs.getattr(inode)).nlink
            if nameless and self.forget_first:
                await self.fs.forget([inode])
            await self.fs.release(inode)
            if nameless and not self.forget_first:
                await self.fs.forget([inode])

    async def close_all(self) -> None:
        for handle in list(self.handles):
            await self.close(handle)

    async def read(self, handle: int, offset: int, length: int) -> bytes:
        return bytes(await self.fs.read(self.handles[handle].inode, offset, length))

    async def write(self, handle: int, offset: int, data: bytes) -> int:
        one = self.handles[handle]
        if one.append:
            offset = (await self.fs.getattr(one.inode)).size_bytes
        return await self.fs.write(one.inode, offset, data)

    async def resize(self, handle: int, size: int) -> None:
        await self.fs.setattr(self.handles[handle].inode, Changes(size_bytes=size))

    async def sync(self, handle: int) -> None:
        assert handle in self.handles
        await self.fs.fsync()

    # -- names ---------------------------------------------------------------------------------------------------------

    async def mkdir(self, path: bytes, mode: int) -> None:
        parent, name = await self._new(path)
        await self.fs.mkdir(parent.inode, name, mode & 0o1777 & ~UMASK, ROOT)

    async def mknod(self, path: bytes, mode: int, device: int) -> None:
        parent, name = await self._new(path)
        await self.fs.mknod(parent.inode, name, mode & ~UMASK, device, ROOT)

    async def symlink(self, target: bytes, path: bytes) -> None:
        if len(target) >= PATH_MAX:
            fail(errno.ENAMETOOLONG)
        parent, name = await self._new(path)
        await self.fs.symlink(parent.inode, name, target, ROOT)

    async def link(self, old: bytes, new: bytes) -> None:
        attr = await self.at(old, follow=False)
        parent, name = await self._new(new)
        await self.fs.link(attr.inode, parent.inode, name)

    async def unlink(self, path: bytes) -> None:
        parent, name = await self._parent(path)
        attr = await self.fs.lookup(parent.inode, name)
        await self.fs.unlink(parent.inode, name)
        await self._let_go(attr)

    async def rmdir(self, path: bytes) -> None:
        parent, name = await self._parent(path)
        attr = await self.fs.lookup(parent.inode, name)
        await self.fs.rmdir(parent.inode, name)
        await self._let_go(attr)

    async def rename(self, old: bytes, new: bytes, flags: int) -> None:
        if flags == RENAME_EXCHANGE | RENAME_NOREPLACE:
            fail(errno.EINVAL)
        (old_parent, old_name), (new_parent, new_name) = await self._parent(old), await self._parent(new)
        await self.fs.lookup(old_parent.inode, old_name)
        victim = await self._find(new_parent, new_name)
        if victim is not None and flags != RENAME_NOREPLACE and await self._holds(victim.inode, old_parent):
            fail(errno.EINVAL if flags == RENAME_EXCHANGE else errno.ENOTEMPTY)
        await self.fs.rename(old_parent.inode, old_name, new_parent.inode, new_name, flags)
        if victim is not None:
            await self._let_go(victim)

    async def _holds(self, inode: int, below: Attr) -> bool:
        """Is it this directory, or one above?"""
        while below.inode not in (inode, ROOT_INODE):
            below = await self.fs.getattr(below.parent)
        return below.inode == inode

    async def _let_go(self, attr: Attr) -> None:
        """VF2."""
        if any(one.inode == attr.inode for one in self.handles.values()):
            return
        if not (await self.fs.getattr(attr.inode)).nlink:
            await self.fs.forget([attr.inode])

    async def readlink(self, path: bytes) -> bytes:
        attr = await self.at(path, follow=False)
        if not attr.is_symlink:
            fail(errno.EINVAL)
        return bytes(await self.fs.readlink(attr.inode))

    async def list(self, path: bytes) -> "list[bytes]":
        attr = await self.at(path)
        if not attr.is_directory:
            fail(errno.ENOTDIR)
        return sorted(name for name, _ in await self._entries(attr.inode))

    async def _entries(self, inode: int) -> "Entries":
        found: Entries = []
        cookie = 0
        while step := await self.fs.readdir(inode, cookie, READDIR_STEP):
            found += [(entry.name, entry.attr) for entry in step]
            cookie = step[-1].cookie
        return found

    # -- attributes ----------------------------------------------------------------------------------------------------

    async def chmod(self, path: bytes, mode: int) -> None:
        await self.fs.setattr((await self.at(path)).inode, Changes(mode=mode))

    async def chown(self, path: bytes, uid: int, gid: int, follow: bool) -> None:
        attr = await self.at(path, follow)
        changes = Changes(uid=uid if uid >= 0 else None, gid=gid if gid >= 0 else None)
        await self.fs.setattr(attr.inode, changes)

    async def truncate(self, path: bytes, size: int) -> None:
        attr = await self.at(path)
        if attr.is_directory:
            fail(errno.EISDIR)
        if not attr.is_file:
            fail(errno.EINVAL)
        await self.fs.setattr(attr.inode, Changes(size_bytes=size))

    async def utimens(self, path: bytes, atime_ns: int, mtime_ns: int, follow: bool) -> tuple[int, int]:
        attr = await self.at(path, follow)
        special = {UTIME_NOW: time.time_ns(), UTIME_OMIT: None}
        both = [special.get(time_ns, time_ns) for time_ns in (atime_ns, mtime_ns)]
        if both != [None, None]:
            attr = await self.fs.setattr(attr.inode, Changes(atime_ns=both[0], mtime_ns=both[1]))
        return shown_time(attr.atime_ns), shown_time(attr.mtime_ns)

    async def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int) -> None:
        if len(value) > XATTR_SIZE_MAX:
            fail(errno.E2BIG)
        attr = await self._with_xattrs(path, name, errno.EPERM)
        if flags:
            there = name in await self.fs.listxattr(attr.inode)
            if there and flags & os.XATTR_CREATE:
                fail(errno.EEXIST)
            if not there and flags & os.XATTR_REPLACE:
                fail(errno.ENODATA)
        await self.fs.setxattr(attr.inode, name, value)

    async def getxattr(self, path: bytes, name: bytes) -> bytes:
        attr = await self._with_xattrs(path, name, errno.ENODATA)
        return bytes(await self.fs.getxattr(attr.inode, name))

    async def removexattr(self, path: bytes, name: bytes) -> None:
        attr = await self._with_xattrs(path, name, errno.EPERM)
        await self.fs.removexattr(attr.inode, name)

    async def _with_xattrs(self, path: bytes, name: bytes, refusal: int) -> Attr:
        if len(name) > XATTR_NAME_MAX:
            fail(errno.ERANGE)
        attr = await self.at(path)
        if not (attr.is_file or attr.is_directory):
            fail(refusal)
        return attr

    # -- the tree ------------------------------------------------------------------------------------------------------

    async def tree(self) -> Tree:
        found = {b"": await self._seen(await self.fs.getattr(ROOT_INODE))}
        await self._walk(ROOT_INODE, b"", found)
        for handle, one in self.handles.items():
            found[b"/%d" % handle] = await self._seen(await self.fs.getattr(one.inode))
        return found

    async def _walk(self, inode: int, directory: bytes, found: Tree) -> None:
        for name, attr in await self._entries(inode):
            same = await self.fs.getattr(attr.inode)  # but for atime: what is read below may have another name
            assert attr == same._replace(atime_ns=attr.atime_ns), f"{name!r}: {attr} in readdir, {same} by itself"
            path = directory + b"/" + name if directory else name
            assert path not in found, f"{path!r} is listed twice"
            found[path] = await self._seen(attr)
            if attr.is_directory:
                assert attr.parent == inode, f"{path!r}: parent is {attr.parent}, expected {inode}"
                await self._walk(attr.inode, path, found)

    async def _seen(self, attr: Attr) -> Seen:
        content = b""
        if attr.is_file:
            tail = max(0, attr.size_bytes - TAIL_BYTES)
            head = bytes(await self.fs.read(attr.inode, 0, HEAD_BYTES))
            content = digest(head, bytes(await self.fs.read(attr.inode, tail, TAIL_BYTES)))
        elif attr.is_symlink:
            content = bytes(await self.fs.readlink(attr.inode))
        names = [name for name in await self.fs.listxattr(attr.inode) if name.startswith(b"user.")]
        xattrs = [(name, bytes(await self.fs.getxattr(attr.inode, name))) for name in names]
        status = Status(
            attr.inode, attr.mode, attr.nlink, attr.uid, attr.gid, attr.rdev, attr.size_bytes, attr.atime_ns,
            attr.mtime_ns, attr.ctime_ns,
        )  # fmt: skip
        return seen(status, content, xattrs)
