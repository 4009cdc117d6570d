"""What each operation of a filesystem does to a tree: POSIX, written down a second time, in the simplest way.

  MO1  A function takes a tree and the time and gives the tree afterwards, or raises the OSError that must be raised.
  MO2  Ours are: nlink, the times of parents, setgid directories, privileges that go, the numbers of inodes.
"""

import errno
import os
import stat
from collections.abc import Callable, Collection
from functools import partial
from typing import Final

from sds.filesystem.attributes import Changes, Owner
from sds.filesystem.inodes import Counters
from tests.sim.fs_state import BLOCK, ZERO, Node, Tree

ROOT: Final = 1
NOREPLACE: Final = 1
EXCHANGE: Final = 2
CAPABILITY: Final = b"security.capability"
Change = Callable[[Tree, int], Tree]
"""An operation on (tree, time)."""


def failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def format_root(owner: Owner) -> Change:
    def change(tree: Tree, now: int) -> Tree:
        root = Node(stat.S_IFDIR | 0o755, 2, owner.uid, owner.gid, 0, 0, ROOT, now, now, now, now)
        return Tree({ROOT: root}, frozenset(), Counters(ROOT + 1, 1))

    return change


def node_of(tree: Tree, inode: int) -> Node:
    node = tree.nodes.get(inode)
    if node is None:
        raise failure(errno.ESTALE)
    return node


def directory_of(tree: Tree, inode: int) -> Node:
    """One that names can be put into."""
    node = node_of(tree, inode)
    if not node.is_directory:
        raise failure(errno.ENOTDIR)
    if not node.nlink:
        raise failure(errno.ENOENT)
    return node


def lookup(tree: Tree, parent: int, name: bytes) -> int:
    found = node_of(tree, parent).entries.get(name)
    if found is None:
        raise failure(errno.ENOENT)
    return found


def exists(inode: int) -> Change:
    def change(tree: Tree, _: int) -> Tree:
        node_of(tree, inode)
        return tree

    return change


def is_directory(inode: int) -> Change:
    def change(tree: Tree, _: int) -> Tree:
        if not node_of(tree, inode).is_directory:
            raise failure(errno.ENOTDIR)
        return tree

    return change


def lookup_in(parent: int, name: bytes) -> Change:
    def change(tree: Tree, _: int) -> Tree:
        node = node_of(tree, parent)
        if not node.is_directory:
            raise failure(errno.ENOTDIR)
        lookup(tree, parent, name)
        return tree

    return change


def make(parent: int, name: bytes, mode: int, rdev: int, owner: Owner, target: bytes = b"") -> Change:
    def change(tree: Tree, now: int) -> Tree:
        above = directory_of(tree, parent)
        if name in above.entries:
            raise failure(errno.EEXIST)
        inode, count = tree.counters
        is_directory = stat.S_ISDIR(mode)
        gid, bits = owner.gid, 0
        if above.mode & stat.S_ISGID:
            gid, bits = above.gid, stat.S_ISGID if is_directory else 0
        new = Node(
            mode | bits, 2 if is_directory else 1, owner.uid, gid, rdev, len(target), parent if is_directory else 0,
            now, now, now, now, target=target,
        )  # fmt: skip
        above = above._replace(
            nlink=above.nlink + is_directory, mtime_ns=now, ctime_ns=now, entries={**above.entries, name: inode}
        )
        return tree.with_nodes({parent: above, inode: new})._replace(counters=Counters(inode + 1, count + 1))

    return change


def link(inode: int, parent: int, name: bytes) -> Change:
    def change(tree: Tree, now: int) -> Tree:
        above, node = directory_of(tree, parent), node_of(tree, inode)
        if node.is_directory:
            raise failure(errno.EPERM)
        if not node.nlink:
            raise failure(errno.ENOENT)
        if name in above.entries:
            raise failure(errno.EEXIST)
        above = above._replace(mtime_ns=now, ctime_ns=now, entries={**above.entries, name: inode})
        return tree.with_nodes({inode: node._replace(nlink=node.nlink + 1, ctime_ns=now), parent: above})

    return change


def _without_name(tree: Tree, inode: int, now: int) -> Tree:
    """One name of an inode has gone."""
    node = tree.nodes[inode]
    nlink = 0 if node.is_directory else node.nlink - 1
    tree = tree.with_nodes({inode: node._replace(nlink=nlink, ctime_ns=now)})
    return tree if nlink else tree._replace(orphans=tree.orphans | {inode})


def _entries_changed(
    tree: Tree, parent: int, now: int, gone: Collection[bytes], come: dict[bytes, int], directories: int
) -> Tree:
    """`directories`: how many subdirectories more."""
    node = tree.nodes[parent]
    entries = {name: inode for name, inode in node.entries.items() if name not in gone} | come
    node = node._replace(nlink=node.nlink + directories, entries=entries, mtime_ns=now, ctime_ns=now)
    return tree.with_nodes({parent: node})


def remove(parent: int, name: bytes, directory: bool) -> Change:
    """unlink or rmdir."""

    def change(tree: Tree, now: int) -> Tree:
        directory_of(tree, parent)
        inode = lookup(tree, parent, name)
        node = tree.nodes[inode]
        if node.is_directory != directory:
            raise failure(errno.ENOTDIR if directory else errno.EISDIR)
        if node.entries:
            raise failure(errno.ENOTEMPTY)
        return _without_name(_entries_changed(tree, parent, now, (name,), {}, -directory), inode, now)

    return change


def _is_below(tree: Tree, inode: int, top: int) -> bool:
    while inode not in (top, ROOT):
        inode = tree.nodes[inode].parent
    return inode == top


def rename(old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int) -> Change:
    def change(tree: Tree, now: int) -> Tree:
        directory_of(tree, old_parent)
        directory_of(tree, new_parent)
        moved, there = lookup(tree, old_parent, old), tree.nodes[new_parent].entries.get(new)
        if flags == NOREPLACE and there is not None:
            raise failure(errno.EEXIST)
        if flags == EXCHANGE and there is None:
            raise failure(errno.ENOENT)
        if moved == there:
            return tree
        if tree.nodes[moved].is_directory and _is_below(tree, new_parent, moved):
            raise failure(errno.EINVAL)
        if flags == EXCHANGE and there is not None:
            return _exchange(tree, now, (old_parent, old, moved), (new_parent, new, there))
        return _move(tree, now, (old_parent, old, moved), new_parent, new)

    return change


def _exchange(tree: Tree, now: int, one: tuple[int, bytes, int], other: tuple[int, bytes, int]) -> Tree:
    if tree.nodes[other[2]].is_directory and _is_below(tree, one[0], other[2]):
        raise failure(errno.EINVAL)
    for (parent, name, gone), (_, _, come) in ((one, other), (other, one)):
        more = tree.nodes[come].is_directory - tree.nodes[gone].is_directory
        tree = _entries_changed(tree, parent, now, (), {name: come}, more)
    return _placed(_placed(tree, one[2], other[0], now), other[2], one[0], now)


def _move(tree: Tree, now: int, old: tuple[int, bytes, int], parent: int, name: bytes) -> Tree:
    old_parent, old_name, moved = old
    there, is_directory = tree.nodes[parent].entries.get(name), tree.nodes[moved].is_directory
    tree_before = tree
    tree = _entries_changed(tree, old_parent, now, (old_name,), {}, -is_directory)
    tree = _entries_changed(tree, parent, now, (), {name: moved}, is_directory)
    if there is not None:
        lost = tree_before.nodes[there]
        if lost.is_directory != is_directory:
            raise failure(errno.ENOTDIR if is_directory else errno.EISDIR)
        if lost.entries:
            raise failure(errno.ENOTEMPTY)
        tree = _without_name(_entries_changed(tree, parent, now, (), {}, -lost.is_directory), there, now)
    return _placed(tree, moved, parent, now)


def _placed(tree: Tree, inode: int, parent: int, now: int) -> Tree:
    node = tree.nodes[inode]
    return tree.with_nodes({inode: node._replace(ctime_ns=now, parent=parent if node.is_directory else 0)})


def _without_privileges(node: Node) -> Node:
    gone = stat.S_ISUID | (stat.S_ISGID if node.mode & stat.S_IXGRP else 0)
    xattrs = {name: value for name, value in node.xattrs.items() if name != CAPABILITY}
    return node._replace(mode=node.mode & ~gone, xattrs=xattrs)


def write(inode: int, offset: int, data: bytes) -> Change:
    """One piece."""

    def change(tree: Tree, now: int) -> Tree:
        node = node_of(tree, inode)
        if not node.is_file:
            raise failure(errno.EISDIR if node.is_directory else errno.EINVAL)
        content = dict(node.content)
        for block in range(offset // BLOCK, (offset + len(data) - 1) // BLOCK + 1):
            at = max(offset - block * BLOCK, 0)
            part = data[max(block * BLOCK - offset, 0) : (block + 1) * BLOCK - offset]
            old = content.pop(block, ZERO)
            new = old[:at] + part + old[at + len(part) :]
            if new != ZERO:
                content[block] = new
        size = max(node.size, offset + len(data))
        node = _without_privileges(node)._replace(content=content, size=size, mtime_ns=now, ctime_ns=now)
        return tree.with_nodes({inode: node})

    return change


def setattr_(inode: int, changes: Changes) -> Change:
    return partial(_setattr, inode, changes)


def _setattr(inode: int, changes: Changes, tree: Tree, now: int) -> Tree:
    node = node_of(tree, inode)
    if changes.size_bytes is not None:
        if not node.is_file:
            raise failure(errno.EISDIR if node.is_directory else errno.EINVAL)
        node = node._replace(mtime_ns=now)
        node = _without_privileges(_cut(node, changes.size_bytes))
    if changes.uid is not None or changes.gid is not None:
        uid = node.uid if changes.uid is None else changes.uid
        node = node._replace(uid=uid, gid=node.gid if changes.gid is None else changes.gid)
        node = node if node.is_directory else _without_privileges(node)
    if changes.mode is not None:
        node = node._replace(mode=node.mode & ~0o7777 | changes.mode & 0o7777)
    node = node._replace(
        atime_ns=node.atime_ns if changes.atime_ns is None else changes.atime_ns,
        mtime_ns=node.mtime_ns if changes.mtime_ns is None else changes.mtime_ns,
        ctime_ns=now if changes.ctime_ns is None else changes.ctime_ns,
    )
    return tree.with_nodes({inode: node})


def _cut(node: Node, size: int) -> Node:
    content = {block: data for block, data in node.content.items() if block * BLOCK < size}
    last, keep = divmod(size, BLOCK)
    if keep and last in content:
        content[last] = content[last][:keep].ljust(BLOCK, b"\0")
        if content[last] == ZERO:
            del content[last]
    return node._replace(content=content, size=size)


def setxattr(inode: int, name: bytes, value: bytes) -> Change:
    def change(tree: Tree, now: int) -> Tree:
        node = node_of(tree, inode)
        return tree.with_nodes({inode: node._replace(ctime_ns=now, xattrs={**node.xattrs, name: value})})

    return change


def removexattr(inode: int, name: bytes) -> Change:
    def change(tree: Tree, now: int) -> Tree:
        node = node_of(tree, inode)
        if name not in node.xattrs:
            raise failure(errno.ENODATA)
        left = {other: value for other, value in node.xattrs.items() if other != name}
        return tree.with_nodes({inode: node._replace(ctime_ns=now, xattrs=left)})

    return change


def touch(inode: int) -> Change:
    """Reading may set the time of access."""

    def change(tree: Tree, now: int) -> Tree:
        return tree.with_nodes({inode: tree.nodes[inode]._replace(atime_ns=now)})

    return change


def reap(tree: Tree, inodes: Collection[int]) -> Tree:
    """These, which have no names and are not open, are deleted."""
    assert tree.orphans.issuperset(inodes), f"{set(inodes) - tree.orphans} are deleted, which have names"
    nodes = {inode: node for inode, node in tree.nodes.items() if inode not in inodes}
    counters = tree.counters._replace(inodes=tree.counters.inodes - len(inodes))
    return Tree(nodes, tree.orphans.difference(inodes), counters)
