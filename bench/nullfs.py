"""An empty filesystem in memory, mounted with pyfuse3: the ceiling of what a filesystem on pyfuse3 can do.

`python -m bench.nullfs DIR` runs in the foreground until SIGTERM, SIGINT or an unmount from outside.

  U1  What it does: names, attributes, data, xattrs, symlinks, hard links, rename, unlinked files that are open,
      all in dicts and in pieces of 1 MiB. Data are stored and given back, so that programs run on it.
  U2  What it does not do: permissions, times of parents and of writes, rename flags, ACL, locks, limits,
      durability (fsync returns at once), errors for directories that are not empty, metrics, logs.
  U3  What costs requests or system calls is as in `sds mount`: timeouts of an hour, kept page cache, negative
      entries, readdirplus, permissions checked by the kernel, extended attributes answered with "no such
      attribute", large buffers kept by malloc, read-ahead, requests under way, waiting tasks, no requests for
      flush and access. Each is an option, to learn its price.
  U4  With --count the number of requests by kind, as JSON, is the target of the symlink `.requests` in the root.
"""

import argparse
import ctypes
import errno
import functools
import json
import os
import signal
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, SetattrFields

from bench.nullnode import PIECE_BYTES, TIMEOUT_S, Node

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
MMAP_THRESHOLD_BYTES = 32 << 20  # the largest that glibc takes
TRIM_THRESHOLD_BYTES = (2 << 30) - 1  # an int of C
TOP_PAD_BYTES = 16 << 20
TASKS_MAX = 128
COUNTS_INODE = 2
COUNTS_NAME = b".requests"


class NullOperations(pyfuse3.Operations):
    """The handlers. Inodes are file handles, too."""

    def __init__(self, writeback: bool, xattr: bool, acl: bool, when_ready: Callable[[], None]) -> None:
        super().__init__()
        self.when_ready = when_ready
        self.enable_writeback_cache = writeback
        self.enable_acl = acl
        self.xattr = xattr
        self.counts: Counter[str] | None = None
        root = Node(pyfuse3.ROOT_INODE, stat.S_IFDIR | 0o755, pyfuse3.ROOT_INODE, None)
        self.nodes = {pyfuse3.ROOT_INODE: root}
        self.next_inode = COUNTS_INODE + 1
        self.listings: dict[int, list[tuple[bytes, Node]]] = {}
        self.next_listing = 1
        self.nothing = EntryAttributes()
        self.nothing.st_ino = 0
        self.nothing.entry_timeout = TIMEOUT_S

    def init(self) -> None:
        """Called before the kernel has its answer; what changes the mount must wait for that."""
        trio.lowlevel.current_trio_token().run_sync_soon(self.when_ready)

    def _make(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> Node:
        inode = self.next_inode
        self.next_inode = inode + 1
        node = self.nodes[inode] = Node(inode, mode, parent, ctx)
        self.nodes[parent].children[name] = node
        return node

    def _drop(self, parent: int, name: bytes) -> None:
        node = self.nodes[parent].children.pop(name, None)
        if node is None:
            raise FUSEError(errno.ENOENT)
        node.entry.st_nlink -= 1
        if node.entry.st_nlink == 0 and not node.handles:
            node.pieces.clear()

    async def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        if name == b".":
            return self.nodes[parent].entry
        if name == b"..":
            return self.nodes[self.nodes[parent].parent].entry
        node = self.nodes[parent].children.get(name)
        return self.nothing if node is None else node.entry

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        nodes = self.nodes
        for inode, _ in inode_list:
            node = nodes.get(inode)
            if node is not None and node.entry.st_nlink == 0:
                del nodes[inode]

    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self.nodes[inode].entry

    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        node = self.nodes[inode]
        entry = node.entry
        if fields.update_size:
            node.resize(attr.st_size)
        if fields.update_mode:
            entry.st_mode = stat.S_IFMT(entry.st_mode) | stat.S_IMODE(attr.st_mode)
        if fields.update_uid:
            entry.st_uid = attr.st_uid
        if fields.update_gid:
            entry.st_gid = attr.st_gid
        if fields.update_atime:
            entry.st_atime_ns = attr.st_atime_ns
        if fields.update_mtime:
            entry.st_mtime_ns = attr.st_mtime_ns
        if fields.update_ctime:
            entry.st_ctime_ns = attr.st_ctime_ns
        return entry

    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        if inode == COUNTS_INODE:
            return json.dumps(self.counts).encode()
        return self.nodes[inode].target

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        node = self._make(parent, name, mode, ctx)
        node.entry.st_rdev = rdev
        return node.entry

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return self._make(parent, name, mode, ctx).entry

    async def symlink(self, parent: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        node = self._make(parent, name, stat.S_IFLNK | 0o777, ctx)
        node.target = target
        node.entry.st_size = len(target)
        return node.entry

    async def link(self, inode: int, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        node = self.nodes[parent].children[name] = self.nodes[inode]
        node.entry.st_nlink += 1
        return node.entry

    async def unlink(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        self._drop(parent, name)

    async def rmdir(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        self._drop(parent, name)

    async def rename(
        self, old_parent: int, old_name: bytes, parent: int, name: bytes, flags: int, ctx: RequestContext
    ) -> None:
        if flags:
            raise FUSEError(errno.EINVAL)
        node = self.nodes[old_parent].children.pop(old_name)
        if name in self.nodes[parent].children:
            self._drop(parent, name)
        self.nodes[parent].children[name] = node
        node.parent = parent

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        node = self._make(parent, name, mode, ctx)
        node.handles = 1
        return FileInfo(fh=node.entry.st_ino), node.entry

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        node = self.nodes[inode]
        node.handles += 1
        if flags & os.O_TRUNC:
            node.resize(0)
        return FileInfo(fh=inode)

    async def read(self, fh: int, off: int, size: int) -> bytes | memoryview:  # type: ignore[override]
        return self.nodes[fh].read(off, size)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        self.nodes[fh].write(off, buf)
        return len(buf)

    async def release(self, fh: int) -> None:
        node = self.nodes[fh]
        node.handles -= 1
        if node.entry.st_nlink == 0 and not node.handles:
            node.pieces.clear()

    async def fsync(self, fh: int, datasync: bool) -> None:
        return

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        return

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        number = self.next_listing
        self.next_listing = number + 1
        self.listings[number] = list(self.nodes[inode].children.items())
        return number

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        listing = self.listings[fh]
        for number in range(start_id, len(listing)):
            name, node = listing[number]
            if not pyfuse3.readdir_reply(token, name, node.entry, number + 1):
                break

    async def releasedir(self, fh: int) -> None:
        del self.listings[fh]

    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_blocks = data.f_bfree = data.f_bavail = data.f_files = data.f_ffree = data.f_favail = 1 << 30
        data.f_namemax = 255
        return data

    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        if not self.xattr:
            raise FUSEError(errno.ENOSYS)
        value = self.nodes[inode].xattrs.get(name)
        if value is None:
            raise FUSEError(errno.ENODATA)
        return value

    async def listxattr(self, inode: int, ctx: RequestContext) -> list[bytes]:
        return list(self.nodes[inode].xattrs)

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        self.nodes[inode].xattrs[name] = value

    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        if self.nodes[inode].xattrs.pop(name, None) is None:
            raise FUSEError(errno.ENODATA)


def counted(operations: NullOperations) -> NullOperations:
    """Count the requests from now on. It costs time, so it is not done while rates are measured."""
    counts: Counter[str] = Counter()
    operations.counts = counts
    link = Node(COUNTS_INODE, stat.S_IFLNK | 0o777, pyfuse3.ROOT_INODE, None)
    operations.nodes[COUNTS_INODE] = operations.nodes[pyfuse3.ROOT_INODE].children[COUNTS_NAME] = link
    for kind in vars(NullOperations):
        if kind.startswith("_") or kind in ("init", "forget"):
            continue
        handler = getattr(operations, kind)

        def counting(*arguments: Any, _kind: str, _handler: Any) -> Any:
            label = _kind
            if _kind == "getxattr":
                label = f"getxattr {arguments[1].decode()}"
            counts[label] += 1
            return _handler(*arguments)

        setattr(operations, kind, functools.partial(counting, _kind=kind, _handler=handler))
    return operations


def raise_malloc_thresholds(hold_bytes: int) -> None:
    """Let buffers of 1 MiB come from memory that the process has already, not from fresh pages each time.

    What is held for the data was touched before: the price of fresh memory is not one of pyfuse3.
    """
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
    mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)
    mallopt(M_TOP_PAD, TOP_PAD_BYTES)
    pieces = [bytearray(b"\1") * PIECE_BYTES for _ in range(hold_bytes // PIECE_BYTES)]
    del pieces


def tune(mountpoint: str, read_ahead_kib: int, background: int) -> None:
    """As root, where the kernel has these settings. Before it has its answer to INIT it would undo them.

    The device number comes from the list of mounts: a stat of the mount would wait for ourselves.
    """
    fields = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    device = next(line[2] for line in fields if line[4] == mountpoint)
    connection = Path(f"/sys/fs/fuse/connections/{device.partition(':')[2]}")
    settings = {
        Path(f"/sys/class/bdi/{device}/read_ahead_kb"): read_ahead_kib,
        connection / "max_background": background,
        connection / "congestion_threshold": background * 3 // 4,
    }
    for path, value in settings.items():
        if os.access(path, os.W_OK):
            path.write_text(str(value))


async def serve(tasks: int) -> None:
    async with trio.open_nursery() as nursery:

        async def end_on_signal() -> None:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    pyfuse3.terminate()

        nursery.start_soon(end_on_signal)
        await pyfuse3.main(min_tasks=tasks, max_tasks=TASKS_MAX)
        nursery.cancel_scope.cancel()


def parser() -> argparse.ArgumentParser:
    its = argparse.ArgumentParser(prog="python -m bench.nullfs", description=__doc__.splitlines()[0])
    its.add_argument("directory", type=Path)
    switches = {"writeback": "off", "xattr": "on", "acl": "off", "permissions": "on", "count": "off"}
    for name, default in switches.items():
        its.add_argument(f"--{name}", choices=("on", "off"), default=default)
    its.add_argument("--malloc", choices=("raised", "plain"), default="raised")
    its.add_argument("--hold", type=int, default=0, metavar="MIB", help="memory to have ready for data (0)")
    its.add_argument("--readahead", type=int, default=1024, metavar="KIB")
    its.add_argument("--background", type=int, default=64, metavar="N", help="requests under way (64)")
    its.add_argument("--tasks", type=int, default=8, metavar="N", help="that wait for requests (8)")
    return its


def main() -> None:
    its = parser().parse_args()
    if its.malloc == "raised":
        raise_malloc_thresholds(its.hold << 20)
    mountpoint = str(its.directory.resolve())

    def when_ready() -> None:
        tune(mountpoint, its.readahead, its.background)

    operations = NullOperations(its.writeback == "on", its.xattr == "on", its.acl == "on", when_ready)
    if its.count == "on":
        counted(operations)
    words = {"fsname=null", "subtype=null"}
    words |= {"default_permissions"} if its.permissions == "on" else set()
    words |= {"suid", "dev"} if os.geteuid() == 0 else set()
    pyfuse3.init(operations, mountpoint, words)
    try:
        trio.run(serve, its.tasks)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()
