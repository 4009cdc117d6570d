"""A filesystem that is open for writing: every operation of POSIX as one operation in the dataset's log.

    section: an Edit, the checks, the changes ──▶ commit ──▶ in the log and in memory (P2: data and metadata in order)

  FS1  Each operation is one section (sds.dataset.section) with one transaction: atomic, in the order in which they
       return. A write of more than a piece (a quarter of a segment) is several in a row.
  FS2  fsync makes everything durable that returned before it, of whatever file: a group commit.
  FS3  An inode without names lives as long as it is open or the kernel knows it (`forget`); then it is deleted. After
       a crash all of them are deleted when the filesystem is opened.
  FS4  Contents or owner of a file change: suid, sgid and capabilities go. The caller's privileges are not looked at.
  FS5  Permissions are checked by whoever calls (the kernel, with default_permissions).
"""

import errno
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import trio

from sds.core.errors import SdsError
from sds.dataset.blockwriter import BlockWriter
from sds.dataset.changes import Unmapping
from sds.dataset.dataset import Dataset
from sds.dataset.section import Wait, run
from sds.dataset.transaction import Transaction
from sds.filesystem import namespace, xattrs
from sds.filesystem.attributes import (
    CAPABILITY,
    FILE_SIZE_MAX,
    INLINE,
    SYMLINK_MAX,
    Attr,
    Changes,
    Owner,
    Statfs,
    clamped,
)
from sds.filesystem.edit import Edit
from sds.filesystem.files import Files, Known
from sds.filesystem.inodes import error, load_counters, store_chunks, store_counters, symlink_prefix
from sds.filesystem.orphans import Orphans
from sds.filesystem.space import Space, free_bytes_of
from sds.filesystem.view import FilesystemView

_CLOCK_REALTIME_COARSE: Final = 5
"""Of clock_gettime(2) on Linux; the time module does not name it."""
DAY_NS: Final = 86_400 * 10**9
Clock = Callable[[], int]
_PERMISSIONS: Final = 0o7777
_PRIVILEGES: Final = stat.S_ISUID | stat.S_ISGID


def coarse_now_ns() -> int:
    """As the kernel stamps files: by ticks, so that several writes in one tick change no attributes but once."""
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


class Filesystem(FilesystemView):
    """Made by `open_filesystem` (sds/filesystem/opening.py)."""

    read_only = False

    def __init__(self, dataset: Dataset, clock: Clock = coarse_now_ns, relatime: bool = True) -> None:
        super().__init__(dataset.items, dataset.map, dataset.reader)
        self.dataset = dataset
        self.relatime = relatime
        self._clock = clock
        properties = dataset.row.properties
        writer = BlockWriter(dataset.map, dataset.log, dataset.pool.segment_size, properties.get("compress", "lz4"))
        self._files = Files(dataset.map, dataset.reader, writer, self._spill)
        self.space = Space(dataset.map, partial(free_bytes_of, dataset.pool), int(properties.get("quota", 0)))
        self.orphans = Orphans(dataset)
        self._value_max = min(xattrs.VALUE_MAX, dataset.pool.segment_size // 8)
        """Of an extended attribute: it has to fit into one frame."""
        self._opened: Counter[int] = Counter()
        self._gate: trio.Event | None = None

    def compress_with(self, name: str) -> None:
        self._files.writer.compress_with(name)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Operations that change something wait until the block is left."""
        gate = self._gate = trio.Event()
        try:
            yield
        finally:
            self._gate = None
            gate.set()

    def _edit(self) -> Edit:
        if self._gate is not None:
            raise Wait(self._gate.wait)
        return Edit(self.dataset, self.seed(), self._clock())

    # -- names --------------------------------------------------------------------------------------------------------

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, owner: Owner) -> Attr:
        """Anything but a directory and a symlink. EEXIST, EDQUOT, NoSpace, ..."""
        return await run(partial(self._make, parent, name, mode, rdev, owner, b""))

    async def create(self, parent: int, name: bytes, mode: int, owner: Owner) -> Attr:
        """A regular file, opened."""
        attr = await self.mknod(parent, name, stat.S_IFREG | mode & _PERMISSIONS, 0, owner)
        self._opened[attr.inode] += 1
        return attr

    async def mkdir(self, parent: int, name: bytes, mode: int, owner: Owner) -> Attr:
        return await run(partial(self._make, parent, name, stat.S_IFDIR | mode & _PERMISSIONS, 0, owner, b""))

    async def symlink(self, parent: int, name: bytes, target: bytes, owner: Owner) -> Attr:
        """ENAMETOOLONG: the target; ENOENT: it is empty."""
        if not target:
            raise error(errno.ENOENT)
        if len(target) > SYMLINK_MAX:
            raise error(errno.ENAMETOOLONG)
        return await run(partial(self._make, parent, name, stat.S_IFLNK | 0o777, 0, owner, target))

    def _make(self, parent: int, name: bytes, mode: int, rdev: int, owner: Owner, target: bytes) -> Attr:
        edit = self._edit()
        attr = namespace.make(edit, parent, name, mode, rdev, owner)
        self.space.check(self.items, None, attr)
        if target:
            attr = attr._replace(size_bytes=len(target))
            store_chunks(edit, symlink_prefix(attr.inode), target)
            edit.store(attr)
        edit.commit()
        return attr

    async def link(self, inode: int, parent: int, name: bytes) -> Attr:
        return await run(partial(self._link, inode, parent, name))

    def _link(self, inode: int, parent: int, name: bytes) -> Attr:
        edit = self._edit()
        attr = namespace.link(edit, inode, parent, name)
        edit.commit()
        return attr

    async def unlink(self, parent: int, name: bytes) -> None:
        await run(partial(self._unlink, parent, name))

    def _unlink(self, parent: int, name: bytes) -> None:
        edit = self._edit()
        namespace.unlink(edit, parent, name)
        edit.commit(frees=True)
        self.orphans.note(edit.orphaned)

    async def rmdir(self, parent: int, name: bytes) -> None:
        await run(partial(self._rmdir, parent, name))

    def _rmdir(self, parent: int, name: bytes) -> None:
        edit = self._edit()
        namespace.rmdir(edit, parent, name, self._is_empty(edit, parent, name))
        edit.commit(frees=True)
        self.orphans.note(edit.orphaned)

    async def rename(self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, flags: int = 0) -> None:
        """`flags`: NOREPLACE 1, EXCHANGE 2 (sds/filesystem/namespace.py)."""
        await run(partial(self._rename, old_parent, old_name, new_parent, new_name, flags))

    def _rename(self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        edit = self._edit()
        is_empty = self._is_empty(edit, new_parent, new_name)
        namespace.rename(edit, old_parent, old_name, new_parent, new_name, flags, is_empty)
        edit.commit()
        self.orphans.note(edit.orphaned)

    def _is_empty(self, edit: Edit, parent: int, name: bytes) -> bool:
        """Is this a directory without entries? (What is no directory has none.)"""
        link = edit.find(parent, name)
        return link is not None and self.items.is_empty(*namespace.entries_range(link.inode))

    # -- attributes -----------------------------------------------------------------------------------------------

    async def setattr(self, inode: int, changes: Changes) -> Attr:
        """EFBIG, EISDIR, EINVAL: nothing that has a size."""
        if changes.size_bytes is None:
            return await run(partial(self._setattr, inode, changes))
        known: Known = {}
        while True:
            attr = await self.getattr(inode)
            _check_resizable(attr, changes.size_bytes)
            prepared = await self._files.prepare_resize(attr, changes.size_bytes)
            try:
                return self._resize(attr, changes, changes.size_bytes, prepared, known)
            except Wait as wait:
                until = wait.until
            await until()

    def _setattr(self, inode: int, changes: Changes) -> Attr:
        edit = self._edit()
        attr = self._changed(edit, edit.attr(inode), changes)
        edit.store(attr)
        edit.commit()
        return attr

    def _resize(self, before: Attr, changes: Changes, size: int, prepared: Unmapping | None, known: Known) -> Attr:
        edit = self._edit()
        if edit.attr(before.inode) != before:
            raise Wait(trio.lowlevel.checkpoint)  # it was changed meanwhile, so what was prepared is of no use
        attr = self._files.resize(edit, before, size, prepared, known)
        attr = self._changed(edit, _without_privileges(edit, edit.changed(attr)), changes)
        edit.store(attr)
        edit.commit(frees=size <= before.size_bytes)
        return attr

    def _changed(self, edit: Edit, attr: Attr, changes: Changes) -> Attr:
        """The attributes with all changes but that of the size."""
        if changes.uid is not None or changes.gid is not None:
            uid, gid = changes.uid, changes.gid
            attr = attr._replace(uid=attr.uid if uid is None else uid, gid=attr.gid if gid is None else gid)
            if not attr.is_directory:
                attr = _without_privileges(edit, attr)
        if changes.mode is not None:
            attr = attr._replace(mode=attr.mode & ~_PERMISSIONS | changes.mode & _PERMISSIONS)
            xattrs.chmod_acl(edit, attr)
        return attr._replace(
            atime_ns=attr.atime_ns if changes.atime_ns is None else clamped(changes.atime_ns),
            mtime_ns=attr.mtime_ns if changes.mtime_ns is None else clamped(changes.mtime_ns),
            ctime_ns=edit.now_ns if changes.ctime_ns is None else clamped(changes.ctime_ns),
        )

    async def setxattr(self, inode: int, name: bytes, value: bytes) -> None:
        """See sds/filesystem/xattrs.py."""
        await run(partial(self._setxattr, inode, name, value))

    def _setxattr(self, inode: int, name: bytes, value: bytes) -> None:
        if len(value) > self._value_max:
            raise error(errno.E2BIG)
        edit = self._edit()
        others = sum(len(other) + 1 for other in self._listxattr(inode) if other != name)
        xattrs.set_xattr(edit, inode, name, value, others)
        edit.commit()

    async def removexattr(self, inode: int, name: bytes) -> None:
        """ENODATA."""
        await run(partial(self._removexattr, inode, name))

    def _removexattr(self, inode: int, name: bytes) -> None:
        edit = self._edit()
        xattrs.remove_xattr(edit, inode, name)
        edit.commit()

    async def statfs(self) -> Statfs:
        await self.orphans.settle()
        return self.space.statfs(await run(partial(load_counters, self.items)))

    # -- contents -------------------------------------------------------------------------------------------------

    async def write(self, inode: int, offset: int, data: bytes | memoryview) -> int:
        """EFBIG, EISDIR, EDQUOT, NoSpace."""
        if offset + len(data) > FILE_SIZE_MAX:
            raise error(errno.EFBIG)
        view, known, piece = memoryview(data), Known(), self._files.piece_bytes
        for at in range(0, len(view), piece):
            await run(partial(self._write, inode, offset + at, view[at : at + piece], known))
        return len(view)

    def _write(self, inode: int, offset: int, data: memoryview, known: Known) -> None:
        edit = self._edit()
        before = edit.attr(inode)
        if not before.is_file:
            raise error(errno.EISDIR if before.is_directory else errno.EINVAL)
        after = edit.changed(self._files.write(edit, before, offset, data, known))
        if before.mode & _PRIVILEGES or before.flags & CAPABILITY:
            after = _without_privileges(edit, after)
        self.space.check(self.items, before, after)
        if after != before:
            edit.store(after)
        edit.commit()

    async def _spill(self, inode: int) -> None:
        await run(partial(self._spill_now, inode))

    def _spill_now(self, inode: int) -> None:
        edit = self._edit()
        attr = edit.attr(inode)
        if attr.flags & INLINE:
            spilled = self._files.spill(edit, attr)
            self.space.check(self.items, attr, spilled)
            edit.store(spilled)
            edit.commit()

    def _accessed(self, attr: Attr) -> None:
        """The time of access, if it says something that is not known (relatime) and can be had at once."""
        if not self.relatime:
            return
        now = self._clock()
        if attr.atime_ns > max(attr.mtime_ns, attr.ctime_ns, now - DAY_NS) or attr.atime_ns == now:
            return
        try:
            edit = self._edit()
            edit.store(attr._replace(atime_ns=now))
            edit.commit()
        except (Wait, SdsError):
            return

    async def fsync(self) -> None:
        """FS2. Failed, BackendError."""
        await self.dataset.flush()

    # -- lifetimes ----------------------------------------------------------------------------------------------------

    async def open(self, inode: int) -> None:
        await super().open(inode)
        self._opened[inode] += 1

    async def release(self, inode: int) -> None:
        """FS3."""
        await super().release(inode)
        self._opened[inode] -= 1
        if self._opened[inode] <= 0:
            del self._opened[inode]
            await self.orphans.released(inode)

    async def forget(self, inodes: Iterable[int]) -> None:
        """FS3: the kernel has let go of these."""
        await self.orphans.forgotten(inodes, self._opened)

    async def next_inode(self) -> int:
        return (await run(partial(load_counters, self.items))).next_inode

    def open_inodes(self) -> list[int]:
        """Inodes that are open."""
        return list(self._opened)

    async def rolled_back(self, next_inode: int) -> None:
        """Everything may be different. `next_inode`: as it was before; numbers that were given out since the snapshot
        are known to the kernel, and to whoever has such a file open, so none is given out again."""
        self._seed = None
        self._streams.clear()
        await run(partial(self._skip_inodes, next_inode))
        await self.orphans.find(self._opened)

    def _skip_inodes(self, next_inode: int) -> None:
        counters = load_counters(self.items)
        if counters.next_inode < next_inode:
            tx = Transaction(self.dataset)
            store_counters(tx, counters._replace(next_inode=next_inode))
            tx.commit(frees=True)


def _without_privileges(edit: Edit, attr: Attr) -> Attr:
    """FS4: sgid means something else where the group may not execute."""
    mode = attr.mode & ~stat.S_ISUID
    if mode & stat.S_IXGRP:
        mode &= ~stat.S_ISGID
    return xattrs.drop_capability(edit, attr._replace(mode=mode))


def _check_resizable(attr: Attr, size_bytes: int) -> None:
    if attr.is_directory:
        raise error(errno.EISDIR)
    if not attr.is_file or size_bytes < 0:
        raise error(errno.EINVAL)
    if size_bytes > FILE_SIZE_MAX:
        raise error(errno.EFBIG)
