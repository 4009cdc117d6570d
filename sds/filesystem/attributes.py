"""What an inode is: its attributes, and how they are stored (the value of an ATTR item).

    off size field    meaning
      0    1 version  1
      1    1 flags    INLINE 1: the contents are an INLINE item; CAPABILITY 2: there is a security.capability;
                      XATTRS 4: there may be extended attributes
      2    4 mode     type and permission bits as in stat(2)
      6    4 nlink    names that lead here; a directory: 2 + its subdirectories; 0: unlinked, but still open
     10    4 uid
     14    4 gid
     18    8 rdev     device number of a device
     26    8 size     bytes
     34    8 blocks   blocks of 4096 bytes that are stored
     42    8 parent   a directory: the directory it is in; else the one that its newest name is in, a hint only
     50    8 atime    nanoseconds since 1970, signed; so are the following
     58    8 mtime
     66    8 ctime
     74    8 btime    when it was made
All integers are little endian.

  A1  decode_attr(inode, encode_attr(attr)) == attr; anything that encode_attr could not have written is Corrupt.
  A2  Inode numbers rise and are never used again; ROOT_INODE is the root directory. They have 48 bits, so that a
      node id can say which snapshot it means (sds/filesystem/node_tree.py).
"""

import stat
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from sds.core.errors import Corrupt

ROOT_INODE: Final = 1
INODE_MAX: Final = (1 << 48) - 1
NAME_MAX: Final = 255
SYMLINK_MAX: Final = 4095
FILE_SIZE_MAX: Final = 1 << 62
NLINK_MAX: Final = 1 << 31
INODE_BYTES: Final = 512
"""What an inode counts for, in df and against a quota, besides its blocks."""

INLINE: Final = 1
CAPABILITY: Final = 2
XATTRS: Final = 4
DAMAGED: Final = 128
"""Never stored: in a listing, the attributes of this inode cannot be read, and these are made up."""

_VERSION: Final = 1
_VALUE: Final = struct.Struct("<BBIIIIQQQQqqqq")
_TYPES: Final = frozenset(
    (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)
)


class Attr(NamedTuple):
    """Attributes of an inode. Times in nanoseconds since 1970. (A tuple: one is made for nearly every request.)"""

    inode: int
    flags: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size_bytes: int
    blocks: int
    parent: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int

    @property
    def is_directory(self) -> bool:
        return self.mode & 0o170000 == 0o040000

    @property
    def is_file(self) -> bool:
        return self.mode & 0o170000 == 0o100000

    @property
    def is_symlink(self) -> bool:
        return self.mode & 0o170000 == 0o120000


@dataclass(frozen=True, slots=True)
class Owner:
    """On whose behalf something is made."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What setattr shall change; None: leave it. Of `mode` only the permission bits count."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size_bytes: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None


class Entry(NamedTuple):
    """A name in a directory."""

    name: bytes
    attr: Attr
    cookie: int
    """Greater than 0; reading goes on behind it. Stays true whatever is added or removed."""


@dataclass(frozen=True, slots=True)
class Statfs:
    """As statvfs(3)."""

    block_size: int
    blocks: int
    blocks_free: int
    blocks_available: int
    inodes: int
    inodes_free: int
    name_max: int = NAME_MAX


def clamped(time_ns: int) -> int:
    """The nearest time that can be stored: between the years 1677 and 2262."""
    return max(-(1 << 63), min(time_ns, (1 << 63) - 1))


def encode_attr(attr: Attr) -> bytes:
    return _VALUE.pack(_VERSION, *attr[1:])


def decode_attr(inode: int, value: bytes) -> Attr:
    if len(value) != _VALUE.size or value[0] != _VERSION:
        raise _corrupt(inode, f"{len(value)} bytes, version {value[:1].hex() or 'none'}")
    attr = Attr(inode, *_VALUE.unpack(value)[1:])
    if attr.mode & 0o170000 not in _TYPES or attr.mode > 0o177777 or attr.size_bytes > FILE_SIZE_MAX:
        raise _corrupt(inode, f"mode {attr.mode:o}, {attr.size_bytes} bytes")
    return attr


def _corrupt(inode: int, why: str) -> Corrupt:
    return Corrupt(f"the attributes of inode {inode} are damaged ({why}); restore it from a snapshot or a backup")
