"""The requests of the kernel, mapped to a `Tree`: every handler only translates.

  OP1  A file handle is the node id: what the kernel says of a handle is true for the node. Opens are counted there.
  OP2  Whatever the kernel is told holds until we say otherwise (TIMEOUT_S): there is one writer, and all
       changes pass through this kernel or are followed by an invalidation (fuse/mount.py). That there is no such name
       is told likewise: an entry with st_ino 0. Of a directory that is volatile nothing holds.
  OP3  libfuse asks the kernel to leave three things to us: O_TRUNC comes with open, suid and sgid bits are cleared by
       the tree, "." and ".." may be looked up (by an NFS server that has only the node id).
  OP4  readdir: the kernel's cookie is 0 at the start, 1 behind ".", 2 behind "..", and that of the entry behind
       an entry. An entry that was refused was not seen; the next request begins with it again.
       Attributes are always fresh, for the kernel believes them: none are kept for the next request.
  OP5  `flush`, `access`, `poll` stay as pyfuse3 has them (ENOSYS), which tells the kernel to do without.
       Without `xattrs` so do those handlers; then the kernel asks for no security.capability before every write.
"""

import errno
import os
from collections.abc import Sequence
from typing import Final

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext, SetattrFields, StatvfsData

from fuse.handler import Handlers
from fuse.tree import Buffer, Tree
from sds.filesystem.attributes import DAMAGED, INLINE, INODE_MAX, Attr, Changes, Owner

TIMEOUT_S: Final = 3600.0
BATCH_MIN: Final = 24
"""Entries that fit into the 4 KiB which older kernels always ask for: 160 bytes each with a short name."""
BLOCK: Final = 4096
SECTOR: Final = 512
SECTORS_PER_BLOCK: Final = 8
_DOTS: Final = 2
_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_TRUNC

NAMES: Final = (
    "lookup", "getattr", "setattr", "readlink", "mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link",
    "open", "create", "read", "write", "release", "fsync", "opendir", "readdir", "releasedir", "fsyncdir",
    "statfs",
)  # fmt: skip
XATTR_NAMES: Final = ("setxattr", "getxattr", "listxattr", "removexattr")


class Operations(pyfuse3.Operations):
    def __init__(
        self,
        tree: Tree,
        handlers: Handlers | None = None,
        *,
        writeback_cache: bool = False,
        acl: bool = False,
        xattrs: bool = True,
    ) -> None:
        self.handlers = handlers if handlers is not None else Handlers()
        self.enable_writeback_cache = writeback_cache
        self.enable_acl = acl
        self._tree = tree
        self.handlers.path_of = tree.path_of
        self.greeted = trio.Event()
        """The kernel has asked who we are, and was answered."""
        self._batch = BATCH_MIN
        self._absent = _absent(TIMEOUT_S)
        self._absent_now = _absent(0.0)
        for name in NAMES + XATTR_NAMES:
            handler = getattr(self, name) if xattrs or name in NAMES else _refuse  # OP5
            setattr(self, name, self.handlers.wrap(name, handler))
        setattr(self, "forget", self.handlers.wrap_forget(self.forget))  # noqa: B010 (a method is replaced)

    def init(self) -> None:
        self.greeted.set()

    # -- names --------------------------------------------------------------------------------------------------------

    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        if name == b".":
            return self._node(await self._tree.getattr(parent_inode))
        if name == b"..":
            return self._node(await self._tree.getattr((await self._tree.getattr(parent_inode)).parent))
        try:
            attr = await self._tree.lookup(parent_inode, name)
        except FileNotFoundError:
            return self._absent_now if self._tree.is_volatile(parent_inode) else self._absent  # OP2
        return self._entry(attr, parent_inode)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        await self._tree.forget([inode for inode, _ in inode_list])

    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        attr = await self._tree.mknod(parent_inode, name, mode, rdev, Owner(ctx.uid, ctx.gid))
        return self._entry(attr, parent_inode)

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        attr = await self._tree.mkdir(parent_inode, name, mode, Owner(ctx.uid, ctx.gid))
        return self._entry(attr, parent_inode)

    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        attr = await self._tree.symlink(parent_inode, name, target, Owner(ctx.uid, ctx.gid))
        return self._entry(attr, parent_inode)

    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        attr = await self._tree.link(inode, new_parent_inode, new_name)
        return self._entry(attr, new_parent_inode)

    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._tree.unlink(parent_inode, name)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._tree.rmdir(parent_inode, name)

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        await self._tree.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    # -- attributes ---------------------------------------------------------------------------------------------------

    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self._node(await self._tree.getattr(inode))

    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        changes = Changes(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size_bytes=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            ctime_ns=attr.st_ctime_ns if fields.update_ctime else None,
        )
        return self._node(await self._tree.setattr(inode, changes))

    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return await self._tree.readlink(inode)

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        facts = await self._tree.statfs()
        data = StatvfsData()
        data.f_bsize = data.f_frsize = facts.block_size
        data.f_blocks, data.f_bfree, data.f_bavail = facts.blocks, facts.blocks_free, facts.blocks_available
        data.f_files, data.f_ffree, data.f_favail = facts.inodes, facts.inodes_free, facts.inodes_free
        data.f_namemax = facts.name_max
        return data

    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        return await self._tree.getxattr(inode, name)

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        """XATTR_CREATE and XATTR_REPLACE: pyfuse3 asks getxattr before."""
        await self._tree.setxattr(inode, name, value)

    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        return await self._tree.listxattr(inode)

    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._tree.removexattr(inode, name)

    # -- files --------------------------------------------------------------------------------------------------------

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        if flags & _WRITES and inode > INODE_MAX:
            raise OSError(errno.EROFS, "a snapshot never changes")  # the kernel may have it mounted for writing
        await self._tree.open(inode)
        if flags & os.O_TRUNC:  # OP3
            try:
                await self._tree.setattr(inode, Changes(size_bytes=0))
            except BaseException:
                await self._tree.release(inode)
                raise
        return FileInfo(fh=inode)

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        attr = await self._tree.create(parent_inode, name, mode, Owner(ctx.uid, ctx.gid))
        return FileInfo(fh=attr.inode), self._entry(attr, parent_inode)

    async def read(self, fh: int, off: int, size: int) -> Buffer:  # type: ignore[override]  # any buffer will do
        return await self._tree.read(fh, off, size)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self._tree.write(fh, off, buf)

    async def release(self, fh: int) -> None:
        await self._tree.release(fh)

    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._tree.fsync()

    # -- directories --------------------------------------------------------------------------------------------------

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return inode

    async def releasedir(self, fh: int) -> None:
        """Nothing is kept for an open directory."""

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._tree.fsync()

    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        """OP4. As many entries are asked for as fitted into the last reply."""
        reply = pyfuse3.readdir_reply
        if start_id < 1 and not reply(token, b".", _name_only(fh), 1):
            return
        if start_id < _DOTS:
            parent = (await self._tree.getattr(fh)).parent
            if not reply(token, b"..", _name_only(parent), _DOTS):
                return
        cookie = start_id if start_id > _DOTS else 0
        accepted, limit = 0, self._batch
        while True:
            entries = await self._tree.readdir(fh, cookie, limit)
            for name, attr, following in entries:
                if not reply(token, name, self._entry(attr, fh), following):
                    self._batch = max(BATCH_MIN, accepted + 1)
                    return
                accepted += 1
                cookie = following
            if len(entries) < limit:
                return  # the kernel asks again, and an empty reply is the end

    # -- replies ------------------------------------------------------------------------------------------------------

    def _entry(self, attr: Attr, parent: int) -> EntryAttributes:
        """OP2. A name in `parent` leads to this node."""
        entry = self._node(attr)
        entry.entry_timeout = TIMEOUT_S
        if self._tree.is_volatile(parent) or attr.flags & DAMAGED:
            entry.entry_timeout = entry.attr_timeout = 0.0
        return entry

    def _node(self, attr: Attr) -> EntryAttributes:
        entry = _attributes(attr)
        entry.attr_timeout = 0.0 if self._tree.is_volatile(attr.inode) else TIMEOUT_S
        return entry


def _attributes(attr: Attr) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = attr.inode
    entry.st_mode = attr.mode
    entry.st_nlink = attr.nlink
    entry.st_uid = attr.uid
    entry.st_gid = attr.gid
    entry.st_rdev = attr.rdev
    entry.st_size = attr.size_bytes
    entry.st_blksize = BLOCK
    # Small contents lie in the tree. A file with some that says it has no blocks would be taken for a hole (tar -S).
    entry.st_blocks = -(-attr.size_bytes // SECTOR) if attr.flags & INLINE else attr.blocks * SECTORS_PER_BLOCK
    entry.st_atime_ns = attr.atime_ns
    entry.st_mtime_ns = attr.mtime_ns
    entry.st_ctime_ns = attr.ctime_ns
    return entry


def _absent(timeout_s: float) -> EntryAttributes:
    entry = EntryAttributes()
    entry.entry_timeout = timeout_s
    return entry


def _name_only(inode: int) -> EntryAttributes:
    """Of "." and ".." the kernel takes the number and the type only."""
    entry = EntryAttributes()
    entry.st_ino = inode
    entry.st_mode = 0o040000
    return entry


async def _refuse(*arguments: object) -> None:
    raise FUSEError(errno.ENOSYS)
