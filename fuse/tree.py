"""What the adapter needs of the thing it shows: the methods of `sds.filesystem`, addressed by node id.

  TR1  A node id is a uint64; ROOT_INODE is the root. Ids above INODE_MAX lie in snapshots and never change.
       The `inode` and `parent` of an Attr are node ids, so that they can be told to the kernel as they are.
  TR2  Errors are OSErrors as the functions of `os` raise them, or SdsErrors.
  TR3  A buffer that `read` returns is stable until the next `await` of the caller.
  TR4  The cookie of an Entry is COOKIE_MIN to 2^63 - 1; smaller ones belong to the adapter.
"""

from collections.abc import Sequence
from typing import Protocol

from sds.filesystem.attributes import Attr, Changes, Entry, Owner, Statfs

Buffer = bytes | bytearray | memoryview


class Tree(Protocol):
    async def lookup(self, parent: int, name: bytes, /) -> Attr: ...

    async def getattr(self, inode: int, /) -> Attr: ...

    async def readlink(self, inode: int, /) -> bytes: ...

    async def read(self, inode: int, offset: int, length: int, /) -> Buffer:
        """At most `length` bytes; fewer only at the end of the file."""

    async def readdir(self, inode: int, cookie: int, limit: int, /) -> Sequence[Entry]:
        """Entries behind `cookie` (0: from the first on), without "." and ".."; none at the end."""

    async def getxattr(self, inode: int, name: bytes, /) -> bytes: ...

    async def listxattr(self, inode: int, /) -> Sequence[bytes]: ...

    async def statfs(self) -> Statfs: ...

    async def path_of(self, inode: int, /) -> str:
        """For messages; any text that helps."""

    async def open(self, inode: int, /) -> None: ...

    async def release(self, inode: int, /) -> None: ...

    def is_volatile(self, parent: int, /) -> bool:
        """Names in this directory, and its attributes, may change without the kernel's doing: it may not keep them."""

    async def setattr(self, inode: int, changes: Changes, /) -> Attr: ...

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, owner: Owner, /) -> Attr: ...

    async def create(self, parent: int, name: bytes, mode: int, owner: Owner, /) -> Attr:
        """A new regular file, and opened."""

    async def mkdir(self, parent: int, name: bytes, mode: int, owner: Owner, /) -> Attr: ...

    async def symlink(self, parent: int, name: bytes, target: bytes, owner: Owner, /) -> Attr: ...

    async def link(self, inode: int, parent: int, name: bytes, /) -> Attr: ...

    async def unlink(self, parent: int, name: bytes, /) -> None: ...

    async def rmdir(self, parent: int, name: bytes, /) -> None: ...

    async def rename(
        self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, flags: int, /
    ) -> None: ...

    async def write(self, inode: int, offset: int, data: bytes | memoryview, /) -> int: ...

    async def fsync(self) -> None: ...

    async def setxattr(self, inode: int, name: bytes, value: bytes, /) -> None: ...

    async def removexattr(self, inode: int, name: bytes, /) -> None: ...

    async def forget(self, inodes: list[int], /) -> None:
        """The kernel let go of these; told for every inode it ever knew, one by one or many at once."""
