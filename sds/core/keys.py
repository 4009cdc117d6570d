"""Keys of a dataset's tree: byte strings that sort as the tree wants to be read.

    off size field   meaning
      0    8 inode   big endian, so that everything of one inode lies together, inodes in order
      8    1 kind    one of the constants below
      9    - suffix  depends on the kind

    kind      suffix                     value
    ATTR      -                          inode attributes
    DIRENT    hash of the name (7)       entries with that hash (sds/filesystem/entries.py)
    XATTR     name | 00 | chunk (1)      value, in chunks (sds/filesystem/inodes.py)
    SYMLINK   chunk (1)                  target, in chunks
    INLINE    -                          contents of a small file
    MAP       page index, 8 big endian   map page (see sds/core/page.py)
    ORPHAN    inode, 8 big endian        an unlinked inode that is still open
    PROPERTY  name                       setting of the dataset

  K1  A key is at most KEY_SIZE_MAX bytes, so an inner node always has room for several children.
  K2  Inode 0 holds what belongs to the dataset (properties, orphans); a volume's blocks are inode
      VOLUME_INODE.
"""

import struct

from sds.core.errors import Corrupt

KEY_SIZE_MAX = 512
INODE_MAX = (1 << 64) - 1

DATASET_INODE = 0
VOLUME_INODE = 1

ATTR = 1
DIRENT = 2
XATTR = 3
SYMLINK = 4
INLINE = 5
MAP = 6
ORPHAN = 7
PROPERTY = 8

_HEAD = struct.Struct(">QB")
_MAP = struct.Struct(">QBQ")
HEAD_SIZE = _HEAD.size


def key(inode: int, kind: int, suffix: bytes = b"") -> bytes:
    assert len(suffix) <= KEY_SIZE_MAX - HEAD_SIZE
    return _HEAD.pack(inode, kind) + suffix


def split_key(data: bytes) -> tuple[int, int, bytes]:
    """(inode, kind, suffix) of a key."""
    if not HEAD_SIZE <= len(data) <= KEY_SIZE_MAX:
        raise Corrupt(f"tree key of {len(data)} bytes; restore the dataset from another copy")
    inode, kind = _HEAD.unpack_from(data)
    return inode, kind, data[HEAD_SIZE:]


def map_key(inode: int, page_index: int) -> bytes:
    return _MAP.pack(inode, MAP, page_index)


def map_range(inode: int, first_page: int, last_page_exclusive: int) -> tuple[bytes, bytes]:
    """The half-open range of keys of these map pages."""
    return _MAP.pack(inode, MAP, first_page), _MAP.pack(inode, MAP, last_page_exclusive)


def map_page_index(data: bytes) -> int:
    """The page index of a map key (the inverse of `map_key`)."""
    if len(data) != _MAP.size or data[8] != MAP:
        raise Corrupt("a tree key is not the key of a map page; restore the dataset from another copy")
    return int.from_bytes(data[9:], "big")


def inode_range(inode: int) -> tuple[bytes, bytes]:
    """Everything of one inode."""
    hi = inode + 1
    if hi > INODE_MAX:
        return inode.to_bytes(8, "big"), b"\xff" * (HEAD_SIZE + 1)
    return inode.to_bytes(8, "big"), hi.to_bytes(8, "big")


def kind_range(inode: int, kind: int) -> tuple[bytes, bytes]:
    """Everything of one kind of one inode."""
    return _HEAD.pack(inode, kind), _HEAD.pack(inode, kind + 1)
