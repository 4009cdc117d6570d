"""What belongs to an inode, as items: attributes, and values too large for one item, in chunks.

    key                                             value
    inode | ATTR                                    attributes (sds/filesystem/attributes.py)
    inode | SYMLINK | chunk (1)                     target of a symbolic link
    inode | XATTR | name | 00 | chunk (1)           extended attribute
    inode | INLINE                                  contents of a small file
    0 | ORPHAN | inode (8, big endian)              unlinked but perhaps open: to be deleted
    0 | PROPERTY | "counters"                       next inode (8) | number of inodes (8), little endian
    0 | PROPERTY | "seed"                           seed of the hash of names (8, little endian)

  IN1  A value in chunks is chunk 0, 1, ...: all of them full but the last. An empty value is one empty chunk.
"""

import errno
import os
import struct
from typing import Final, NamedTuple

from sds.core.errors import Corrupt
from sds.core.keys import ATTR, DATASET_INODE, INLINE, ORPHAN, PROPERTY, SYMLINK, XATTR, key
from sds.filesystem.attributes import Attr, decode_attr, encode_attr
from sds.filesystem.entries import Source, Target

CHUNK_BYTES: Final = 2048
COUNTERS_KEY: Final = key(DATASET_INODE, PROPERTY, b"counters")
SEED_KEY: Final = key(DATASET_INODE, PROPERTY, b"seed")
_COUNTERS: Final = struct.Struct("<QQ")
_HEAD: Final = struct.Struct(">QB")


class Counters(NamedTuple):
    next_inode: int
    inodes: int


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def attr_key(inode: int) -> bytes:
    return _HEAD.pack(inode, ATTR)


def inline_key(inode: int) -> bytes:
    return _HEAD.pack(inode, INLINE)


def orphan_key(inode: int) -> bytes:
    return key(DATASET_INODE, ORPHAN, inode.to_bytes(8, "big"))


def symlink_prefix(inode: int) -> bytes:
    return key(inode, SYMLINK)


def xattr_prefix(inode: int, name: bytes) -> bytes:
    return key(inode, XATTR, name + b"\0")


def load_attr(source: Source, inode: int) -> Attr:
    """ESTALE: there is no such inode (any more). Wait."""
    value = source.get(_HEAD.pack(inode, ATTR))
    if value is None:
        raise error(errno.ESTALE)
    return decode_attr(inode, value)


def store_attr(target: Target, attr: Attr) -> None:
    target.put(_HEAD.pack(attr.inode, ATTR), encode_attr(attr))


def load_counters(source: Source) -> Counters:
    value = source.get(COUNTERS_KEY)
    if value is None or len(value) != _COUNTERS.size:
        raise Corrupt("the filesystem's counters are damaged; restore it from a snapshot or a backup")
    return Counters(*_COUNTERS.unpack(value))


def store_counters(target: Target, counters: Counters) -> None:
    target.put(COUNTERS_KEY, _COUNTERS.pack(*counters))


def load_chunks(source: Source, prefix: bytes) -> bytes | None:
    """IN1; None: there is no such value. Wait."""
    first = source.get(prefix + b"\0")
    if first is None or len(first) < CHUNK_BYTES:
        return first
    chunks = [first]
    while len(chunks[-1]) == CHUNK_BYTES:
        chunk = source.get(prefix + bytes((len(chunks),)))
        if chunk is None:
            break
        chunks.append(chunk)
    return b"".join(chunks)


def store_chunks(target: Target, prefix: bytes, value: bytes) -> None:
    """IN1; in the place of what was there."""
    count = max(1, -(-len(value) // CHUNK_BYTES))
    for number in range(count):
        target.put(prefix + bytes((number,)), value[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES])
    delete_chunks(target, prefix, count)


def delete_chunks(target: Target, prefix: bytes, first: int = 0) -> None:
    """The chunks from `first` on."""
    while target.get(prefix + bytes((first,))) is not None:
        target.delete(prefix + bytes((first,)))
        first += 1
