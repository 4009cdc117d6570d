"""What must be true of the items of one inode, whatever else is in the filesystem: a part of sds/filesystem/check.py.

  IC1  Nothing is stored of an inode without attributes.
  IC2  What the attributes say of the other items is so: type, INLINE, XATTRS and CAPABILITY flags, sizes, and the bits
       of the mode that are in an ACL, too.
"""

import stat
from collections.abc import Iterator
from typing import Final

from sds.core.errors import Corrupt
from sds.core.keys import ATTR, DIRENT, INLINE, MAP, SYMLINK, XATTR
from sds.filesystem import attributes
from sds.filesystem.acl import ACL_ACCESS, ACL_DEFAULT, decode_acl, mode_of
from sds.filesystem.attributes import NAME_MAX, ROOT_INODE, SYMLINK_MAX, Attr, decode_attr
from sds.filesystem.inodes import CHUNK_BYTES
from sds.filesystem.xattrs import CAPABILITY_NAME, VALUE_MAX

_NAMES: Final = {
    ATTR: "attributes", DIRENT: "entries", XATTR: "extended attributes", SYMLINK: "a target", INLINE: "contents",
    MAP: "map pages",
}  # fmt: skip
_KINDS_OF: Final = {
    stat.S_IFDIR: frozenset((ATTR, DIRENT, XATTR)),
    stat.S_IFREG: frozenset((ATTR, XATTR, INLINE, MAP)),
    stat.S_IFLNK: frozenset((ATTR, XATTR, SYMLINK)),
}
_TYPES: Final = {
    stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device", stat.S_IFBLK: "block device",
}  # fmt: skip
_KINDS_OF_OTHERS: Final = frozenset((ATTR, XATTR))


def type_name(mode: int) -> str:
    return _TYPES.get(stat.S_IFMT(mode), f"inode of type {mode >> 12:o}")


class Inode:
    """Collects the items of one inode, in the order of their keys."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.attr: Attr | None = None
        self._kinds: set[int] = set()
        self._inline_bytes = 0
        self._target: list[int] = []
        """Lengths of the chunks."""
        self._xattrs: dict[bytes, list[int]] = {}
        self._acls: dict[bytes, bytes] = {}
        self._found: list[str] = []

    def add(self, kind: int, suffix: bytes, value: bytes) -> None:
        self._kinds.add(kind)
        if kind == ATTR and not suffix:
            try:
                self.attr = decode_attr(self.number, value)
            except Corrupt as error:
                self._found.append(str(error))
        elif kind == SYMLINK and len(suffix) == 1:
            self._chunk(self._target, suffix[0], value)
        elif kind == XATTR and len(suffix) > 2 and suffix[-2] == 0:
            self._xattr(suffix[:-2], suffix[-1], value)
        elif kind == INLINE and not suffix:
            self._inline_bytes = len(value)
        elif kind not in (DIRENT, MAP):
            self._found.append(f"an item of kind {kind} that nobody writes ({suffix.hex()})")

    def _xattr(self, name: bytes, number: int, value: bytes) -> None:
        self._chunk(self._xattrs.setdefault(name, []), number, value)
        if name in (ACL_ACCESS, ACL_DEFAULT):
            self._acls[name] = self._acls.get(name, b"") + value

    def _chunk(self, lengths: list[int], number: int, value: bytes) -> None:
        """IN1 of inodes.py."""
        goes_on = not lengths or (lengths[-1] == CHUNK_BYTES and value)
        if number != len(lengths) or not goes_on or len(value) > CHUNK_BYTES:
            self._found.append(f"chunk {number} of {len(value)} bytes after chunks of {lengths} bytes")
        lengths.append(len(value))

    def problems(self) -> Iterator[str]:
        """One line each, when all items have been added."""
        found = [*self._found]
        attr = self.attr
        if attr is not None:
            found += self._of_type(attr)
            found += self._of_xattrs(attr)
        elif self._kinds - {MAP} and not self._found:  # IC1; cleared map pages may be in a tree that is not merged yet
            found.append(f"{self._listed(self._kinds)}, but no attributes")
        return (f"inode {self.number}: {text}" for text in found)

    def _of_type(self, attr: Attr) -> Iterator[str]:
        foreign = self._kinds - _KINDS_OF.get(stat.S_IFMT(attr.mode), _KINDS_OF_OTHERS)
        if foreign:
            yield f"{self._listed(foreign)}, but it is a {type_name(attr.mode)}"
        if self.number == ROOT_INODE and not attr.is_directory:
            yield f"the root is not a directory, but a {type_name(attr.mode)}"
        is_inline = bool(attr.flags & attributes.INLINE)
        if is_inline != (INLINE in self._kinds):
            yield f"the INLINE flag is {is_inline}, but there are {'' if INLINE in self._kinds else 'no '}contents"
        elif is_inline and (self._inline_bytes != attr.size_bytes or attr.blocks):
            yield f"{self._inline_bytes} bytes inline and {attr.blocks} blocks, but its size is {attr.size_bytes}"
        if attr.is_symlink and not 0 < attr.size_bytes == sum(self._target) <= SYMLINK_MAX:
            yield f"a target of {sum(self._target)} bytes, but its size is {attr.size_bytes}"

    def _of_xattrs(self, attr: Attr) -> Iterator[str]:
        if self._xattrs and not attr.flags & attributes.XATTRS:
            yield "extended attributes that nobody finds, for the XATTRS flag is not set"
        if bool(attr.flags & attributes.CAPABILITY) != (CAPABILITY_NAME in self._xattrs):
            yield f"the CAPABILITY flag is {bool(attr.flags & attributes.CAPABILITY)}, which is wrong"
        for name, lengths in self._xattrs.items():
            if len(name) > NAME_MAX or sum(lengths) > VALUE_MAX:
                yield f"an extended attribute of {len(name)} + {sum(lengths)} bytes"
        for name, value in self._acls.items():
            yield from _of_acl(attr, name, value)

    def _listed(self, kinds: set[int]) -> str:
        return " and ".join(_NAMES.get(kind, f"kind {kind}") for kind in sorted(kinds))


def _of_acl(attr: Attr, name: bytes, value: bytes) -> Iterator[str]:
    """AC1 of acl.py."""
    if attr.is_symlink or (name == ACL_DEFAULT and not attr.is_directory):
        yield f"{name.decode()} of a {type_name(attr.mode)}"
    try:
        acl = decode_acl(value)
    except OSError as error:
        yield f"{name.decode()} is damaged ({error.strerror})"
        return
    bits, is_mode = mode_of(acl)
    if name == ACL_ACCESS and bits != attr.mode & 0o777:
        yield f"{name.decode()} implies the mode {bits:o}, but it is {attr.mode & 0o777:o}"
    elif name == ACL_ACCESS and is_mode:
        yield f"{name.decode()} is kept, but the mode says it all"
