"""What two trees are compared by.

  FA1  Facts hold for every file system: type and mode, owner, link count, device, size, content, target, xattrs, and
       times that were set on purpose. Sizes of directories, inode numbers and the present time are not among them.
  FA2  Which names lead to one inode is compared, too, and of every operation which inodes' mtime and ctime it moved.
  FA3  Files that are open belong to the tree, under the name of their handle, whether they have other names or not.
"""

import stat
from collections import defaultdict
from hashlib import blake2b
from typing import Final, NamedTuple

SET_ON_PURPOSE_BELOW_NS: Final = 1_600_000_000 * 10**9
"""Times before 2020 were set by a test, later ones by a clock."""
HEAD_BYTES: Final = 160 << 10
TAIL_BYTES: Final = 1 << 13


class Facts(NamedTuple):
    """FA1."""

    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    mtime_set: int
    content: bytes
    """Of a file a hash, of a symlink its target."""
    xattrs: tuple[tuple[bytes, bytes], ...]


class Seen(NamedTuple):
    facts: Facts
    inode: int
    mtime_ns: int
    ctime_ns: int


Tree = dict[bytes, Seen]
"""By path; the root is b"", a handle is b"/" and its number."""


class Status(NamedTuple):
    """What every kind of subject can tell about an inode."""

    inode: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


def shown_time(time_ns: int) -> int:
    """FA1: the present is -1."""
    return time_ns if time_ns < SET_ON_PURPOSE_BELOW_NS else -1


def seen(status: Status, content: bytes, xattrs: list[tuple[bytes, bytes]]) -> Seen:
    kind = stat.S_IFMT(status.mode)
    device = status.rdev if kind in (stat.S_IFBLK, stat.S_IFCHR) else 0
    facts = Facts(
        status.mode, status.nlink, status.uid, status.gid, device,
        status.size if kind in (stat.S_IFREG, stat.S_IFLNK) else 0, shown_time(status.mtime_ns), content,
        tuple(sorted(xattrs)),
    )  # fmt: skip
    return Seen(facts, status.inode, status.mtime_ns, status.ctime_ns)


def digest(head: bytes, tail: bytes) -> bytes:
    return blake2b(head + tail, digest_size=8).digest()


def names_of_inodes(tree: Tree) -> list[list[bytes]]:
    """FA2: groups of names that mean the same inode."""
    groups: dict[int, list[bytes]] = defaultdict(list)
    for path, one in sorted(tree.items()):
        groups[one.inode].append(path)
    return sorted(groups.values())


def moved(before: Tree, after: Tree) -> dict[bytes, tuple[bool, bool]]:
    """FA2: of every inode in both, by its first name now: did its mtime move, did its ctime?"""
    old = {one.inode: one for one in before.values()}
    found: dict[bytes, tuple[bool, bool]] = {}
    known: set[int] = set()
    for path, one in sorted(after.items()):
        if one.inode in old and one.inode not in known:
            known.add(one.inode)
            was = old[one.inode]
            found[path] = one.mtime_ns != was.mtime_ns, one.ctime_ns != was.ctime_ns
    return found


def difference(expected: Tree, got: Tree) -> str:
    """One line for each name that differs; nothing if none does."""
    lines = []
    for path in sorted(expected.keys() | got.keys()):
        here, there = expected.get(path), got.get(path)
        if here is None or there is None:
            lines.append(f"{path!r}: {'missing' if there is None else 'should not be'}")
        elif here.facts != there.facts:
            lines += [
                f"{path!r}: {name} is {b!r}, expected {a!r}"
                for name, a, b in zip(Facts._fields, here.facts, there.facts, strict=True)
                if a != b
            ]
    if not lines and names_of_inodes(expected) != names_of_inodes(got):
        lines.append(f"hard links: {names_of_inodes(got)}, expected {names_of_inodes(expected)}")
    return "\n".join(lines)
