"""Names in directories, and how they are stored: items `directory | DIRENT | hash of the name (7, big endian)`.

The value of an item is all entries of the directory whose names have that hash, nearly always one. Each is

    off size field   meaning
      0    1 number  tells entries of one hash apart; does not change while the entry is there
      1    1 type    S_IFMT of the inode's mode >> 12
      2    8 inode   little endian
     10    1 length  of the name
     11    - name

  E1  The hash is xxh3-64 of the name with the filesystem's secret seed, its upper 55 bits: nobody can make names that
      meet, and what meets by chance fits into one item.
  E2  The cookie of an entry is hash << 8 | number: it is the same for as long as the entry is there, whatever else
      is added or removed, also over remounts. So reading a directory can go on from any cookie. Cookies are between
      COOKIE_MIN and 2^63.
  E3  A name is 1 to 255 bytes, without "/" and NUL, and neither "." nor "..".
"""

import errno
import os
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

from xxhash import xxh3_64_intdigest

from sds.core.errors import Corrupt
from sds.core.keys import DIRENT, HEAD_SIZE, key
from sds.core.node import ITEM_SIZE_MAX
from sds.filesystem.attributes import NAME_MAX, Attr

HASH_BITS: Final = 55
COOKIE_MIN: Final = 1 << 8
_HEAD_SIZE: Final = 11
_VALUE_MAX: Final = ITEM_SIZE_MAX - HEAD_SIZE - 7


class Link(NamedTuple):
    """A directory entry. `type` is S_IFMT of the inode's mode >> 12."""

    inode: int
    type: int
    name: bytes
    number: int = 0


class Source(Protocol):
    def get(self, key: bytes) -> bytes | None: ...


class Target(Source, Protocol):
    def put(self, key: bytes, value: bytes) -> None: ...
    def delete(self, key: bytes) -> None: ...


def check_name(name: bytes) -> None:
    """E3."""
    if len(name) > NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def hash_of(name: bytes, seed: int) -> int:
    """E1; never 0."""
    return xxh3_64_intdigest(name, seed) >> 64 - HASH_BITS or 1


def entry_key(directory: int, hashed: int) -> bytes:
    return key(directory, DIRENT, hashed.to_bytes(7, "big"))


def hash_in(entry: bytes) -> int:
    """The hash in a key (the inverse of `entry_key`)."""
    return int.from_bytes(entry[HEAD_SIZE:], "big")


def encode_links(links: Iterable[Link]) -> bytes:
    return b"".join(
        bytes((link.number, link.type)) + link.inode.to_bytes(8, "little") + bytes((len(link.name),)) + link.name
        for link in links
    )


def decode_links(value: bytes, directory: int) -> list[Link]:
    """At least one. Corrupt names the directory."""
    links: list[Link] = []
    at, end = 0, len(value)
    while at < end:
        name_at = at + _HEAD_SIZE
        if name_at > end or not value[at + 10] or name_at + value[at + 10] > end:
            raise _corrupt(directory)
        inode = int.from_bytes(value[at + 2 : at + 10], "little")
        next_at = name_at + value[at + 10]
        links.append(Link(inode, value[at + 1], value[name_at:next_at], value[at]))
        at = next_at
    if not links:
        raise _corrupt(directory)
    return links


def find(source: Source, seed: int, directory: int, name: bytes) -> Link | None:
    """The entry of this name. Wait."""
    value = source.get(entry_key(directory, hash_of(name, seed)))
    if value is None:
        return None
    for link in decode_links(value, directory):
        if link.name == name:
            return link
    return None


def insert(target: Target, seed: int, directory: int, name: bytes, attr: Attr) -> None:
    """A new entry; there is none of this name. ENOSPC if too many names have one hash (E1: never)."""
    entry = entry_key(directory, hash_of(name, seed))
    value = target.get(entry)
    links = decode_links(value, directory) if value is not None else []
    number = next(n for n in range(256) if all(link.number != n for link in links))
    links.append(Link(attr.inode, attr.mode >> 12, name, number))
    encoded = encode_links(sorted(links, key=lambda link: link.number))
    if len(encoded) > _VALUE_MAX:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    target.put(entry, encoded)


def remove(target: Target, seed: int, directory: int, name: bytes) -> None:
    """The entry of this name, which is there, goes."""
    entry = entry_key(directory, hash_of(name, seed))
    value = target.get(entry)
    assert value is not None, "the caller has found it"
    links = [link for link in decode_links(value, directory) if link.name != name]
    if links:
        target.put(entry, encode_links(links))
    else:
        target.delete(entry)


def replace(target: Target, seed: int, directory: int, name: bytes, attr: Attr) -> None:
    """The entry of this name, which is there, leads to another inode; its cookie stays."""
    entry = entry_key(directory, hash_of(name, seed))
    value = target.get(entry)
    assert value is not None, "the caller has found it"
    links = decode_links(value, directory)
    target.put(
        entry,
        encode_links(
            Link(attr.inode, attr.mode >> 12, name, link.number) if link.name == name else link for link in links
        ),
    )


def _corrupt(directory: int) -> Corrupt:
    return Corrupt(f"an entry of directory {directory} is damaged; restore it from a snapshot or a backup")
