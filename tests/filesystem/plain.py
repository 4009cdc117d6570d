"""A directory of the system as a subject of the differential machine: every operation through os.

  PL1  Operations run with the directory as working directory, so that paths are relative and as long as they look;
       afterwards the old one is back, for a working directory keeps a mount busy.
  PL2  What fails is the name of its errno, as every subject tells it.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.filesystem import syscalls
from tests.filesystem.facts import HEAD_BYTES, TAIL_BYTES, Seen, Status, Tree, digest, seen, shown_time


class Plain:
    """Made for an empty directory. `close_all` closes what is open."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._descriptors: dict[int, int] = {}

    def run(self, operation: str, *arguments: object) -> object:
        """PL1, PL2."""
        with self._here():
            try:
                return getattr(self, operation)(*arguments)
            except OSError as error:
                return errno.errorcode[error.errno or 0]

    def tree(self) -> Tree:
        with self._here():
            found: Tree = {b"": _seen(b".")}
            self._walk(b"", found)
            for handle, descriptor in self._descriptors.items():
                found[b"/%d" % handle] = _seen(descriptor)
            return found

    @contextmanager
    def _here(self) -> Iterator[None]:
        before = os.open(".", os.O_PATH | os.O_DIRECTORY)
        os.chdir(self.root)
        try:
            yield
        finally:
            os.fchdir(before)
            os.close(before)

    def _walk(self, directory: bytes, found: Tree) -> None:
        for name in os.listdir(directory or b"."):
            path = directory + b"/" + name if directory else name
            one = found[path] = _seen(path)
            if stat.S_ISDIR(one.facts.mode):
                self._walk(path, found)

    # -- open files ----------------------------------------------------------------------------------------------------

    def open(self, handle: int, path: bytes, flags: int, mode: int) -> str:
        kind = _kind(path)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            return "special"
        descriptor = os.open(path, flags, mode)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return "directory"
        self.close(handle)
        self._descriptors[handle] = descriptor
        return "open"

    def close(self, handle: int) -> None:
        if handle in self._descriptors:
            os.close(self._descriptors.pop(handle))

    def close_all(self) -> None:
        for handle in list(self._descriptors):
            self.close(handle)

    def read(self, handle: int, offset: int, length: int) -> bytes:
        return os.pread(self._descriptors[handle], length, offset)

    def write(self, handle: int, offset: int, data: bytes) -> int:
        return os.pwrite(self._descriptors[handle], data, offset)

    def resize(self, handle: int, size: int) -> None:
        os.ftruncate(self._descriptors[handle], size)

    def sync(self, handle: int) -> None:
        os.fsync(self._descriptors[handle])

    # -- names ---------------------------------------------------------------------------------------------------------

    def mkdir(self, path: bytes, mode: int) -> None:
        os.mkdir(path, mode)

    def mknod(self, path: bytes, mode: int, device: int) -> None:
        os.mknod(path, mode, device)

    def symlink(self, target: bytes, path: bytes) -> None:
        os.symlink(target, path)

    def link(self, old: bytes, new: bytes) -> None:
        os.link(old, new, follow_symlinks=False)

    def unlink(self, path: bytes) -> None:
        os.unlink(path)

    def rmdir(self, path: bytes) -> None:
        os.rmdir(path)

    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        syscalls.renameat2(old, new, flags)

    def readlink(self, path: bytes) -> bytes:
        return os.readlink(path)

    def list(self, path: bytes) -> "list[bytes]":
        return sorted(os.listdir(path))

    # -- attributes ----------------------------------------------------------------------------------------------------

    def chmod(self, path: bytes, mode: int) -> None:
        os.chmod(path, mode)

    def chown(self, path: bytes, uid: int, gid: int, follow: bool) -> None:
        os.chown(path, uid, gid, follow_symlinks=follow)

    def truncate(self, path: bytes, size: int) -> None:
        os.truncate(path, size)

    def utimens(self, path: bytes, atime_ns: int, mtime_ns: int, follow: bool) -> tuple[int, int]:
        syscalls.utimensat(path, atime_ns, mtime_ns, follow)
        status = os.stat(path, follow_symlinks=follow)
        return shown_time(status.st_atime_ns), shown_time(status.st_mtime_ns)

    def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int) -> None:
        os.setxattr(path, name, value, flags)

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        return os.getxattr(path, name)

    def removexattr(self, path: bytes, name: bytes) -> None:
        os.removexattr(path, name)


def _kind(path: bytes) -> int:
    """The type of what a path leads to; 0: nothing."""
    try:
        return stat.S_IFMT(os.stat(path).st_mode)
    except OSError:
        return 0


def _seen(where: bytes | int) -> Seen:
    """By path, without following a symlink, or by descriptor."""
    status = os.fstat(where) if isinstance(where, int) else os.lstat(where)
    content = b""
    xattrs: list[tuple[bytes, bytes]] = []
    if stat.S_ISREG(status.st_mode):
        content = _content(where, status.st_size)
    elif stat.S_ISLNK(status.st_mode) and not isinstance(where, int):
        content = os.readlink(where)
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        names = [os.fsencode(name) for name in os.listxattr(where)]
        xattrs = [(name, os.getxattr(where, name)) for name in names if name.startswith(b"user.")]
    return seen(
        Status(
            status.st_ino, status.st_mode, status.st_nlink, status.st_uid, status.st_gid, status.st_rdev,
            status.st_size, status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns,
        ),
        content, xattrs,
    )  # fmt: skip


def _content(where: bytes | int, size: int) -> bytes:
    """Through the descriptor's file, for it may be open for writing only."""
    descriptor = os.open(b"/proc/self/fd/%d" % where if isinstance(where, int) else where, os.O_RDONLY)
    try:
        return digest(os.pread(descriptor, HEAD_BYTES, 0), os.pread(descriptor, TAIL_BYTES, max(0, size - TAIL_BYTES)))
    finally:
        os.close(descriptor)
