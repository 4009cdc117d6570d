"""Names: making, linking, moving and removing them. Each function is what one edit does; the caller commits.

  NS1  A directory's nlink is 2 + its subdirectories, any other inode's the number of its names.
  NS2  An inode without names stays as an orphan (its ORPHAN item is made in the same edit) while it is open or the
       kernel may know it; it is found again after a crash.
  NS3  A directory is never moved into its own subtree, so directories are always a tree with the root on top.
  NS4  Every change of a directory sets its mtime and ctime, every change of an inode's names its ctime.
"""

import errno
import stat
from typing import Final

from sds.core.keys import DIRENT, kind_range
from sds.filesystem.acl import ACL_ACCESS, ACL_DEFAULT, decode_acl, encode_acl, inherit
from sds.filesystem.attributes import INODE_MAX, NLINK_MAX, ROOT_INODE, XATTRS, Attr, Owner
from sds.filesystem.edit import Edit
from sds.filesystem.entries import Link
from sds.filesystem.inodes import error, load_chunks, store_chunks, xattr_prefix

NOREPLACE: Final = 1
EXCHANGE: Final = 2
_DIRECTORY: Final = stat.S_IFDIR >> 12


def make(edit: Edit, parent: int, name: bytes, mode: int, rdev: int, owner: Owner) -> Attr:
    """A new inode of any type with its first name. EEXIST, ENOENT (the parent was removed), ENOTDIR."""
    before = above = edit.directory(parent)
    if edit.find(parent, name) is not None:
        raise error(errno.EEXIST)
    counters = edit.counters()
    if counters.next_inode > INODE_MAX:
        raise error(errno.ENOSPC)
    edit.store_counters(counters._replace(next_inode=counters.next_inode + 1, inodes=counters.inodes + 1))
    gid = owner.gid
    if above.mode & stat.S_ISGID:
        gid = above.gid
        mode |= stat.S_ISGID if stat.S_ISDIR(mode) else 0
    now = edit.now_ns
    attr = Attr(
        counters.next_inode, 0, mode, 1, owner.uid, gid, rdev, 0, 0, parent, now, now, now, now
    )
    if attr.is_directory:
        if above.nlink >= NLINK_MAX:
            raise error(errno.EMLINK)
        attr = attr._replace(nlink=2)
        above = above._replace(nlink=above.nlink + 1)
    attr = _inherit_acl(edit, above, attr)
    edit.insert(parent, name, attr)
    edit.update(before, edit.changed(above))
    edit.store(attr)
    return attr


def _inherit_acl(edit: Edit, above: Attr, attr: Attr) -> Attr:
    """The default ACL of the directory becomes the new inode's access ACL, and a new directory's default ACL."""
    if not above.flags & XATTRS or attr.is_symlink:
        return attr
    default = load_chunks(edit, xattr_prefix(above.inode, ACL_DEFAULT))
    if default is None:
        return attr
    acl, mode = inherit(decode_acl(default), attr.mode)
    if acl is not None:
        store_chunks(edit, xattr_prefix(attr.inode, ACL_ACCESS), encode_acl(acl))
    if attr.is_directory:
        store_chunks(edit, xattr_prefix(attr.inode, ACL_DEFAULT), default)
    return attr._replace(mode=mode, flags=attr.flags | XATTRS)


def link(edit: Edit, inode: int, parent: int, name: bytes) -> Attr:
    """One more name. EPERM: a directory; EEXIST, EMLINK; ENOENT: it has no name any more."""
    above, attr = edit.directory(parent), edit.attr(inode)
    if attr.is_directory:
        raise error(errno.EPERM)
    if not attr.nlink:
        raise error(errno.ENOENT)
    if attr.nlink >= NLINK_MAX:
        raise error(errno.EMLINK)
    if edit.find(parent, name) is not None:
        raise error(errno.EEXIST)
    attr = attr._replace(nlink=attr.nlink + 1, ctime_ns=edit.now_ns, parent=parent)
    edit.insert(parent, name, attr)
    edit.store(attr)
    edit.update(above, edit.changed(above))
    return attr


def unlink(edit: Edit, parent: int, name: bytes) -> None:
    """A name goes that is not a directory's."""
    above = edit.directory(parent)
    attr = edit.attr(edit.expect(parent, name).inode)
    if attr.is_directory:
        raise error(errno.EISDIR)
    edit.remove(parent, name)
    edit.update(above, edit.changed(above))
    _lose_name(edit, attr)


def rmdir(edit: Edit, parent: int, name: bytes, is_empty: bool) -> None:
    """The name of a directory goes. `is_empty`: see `is_empty_directory`. ENOTDIR, ENOTEMPTY."""
    above = edit.directory(parent)
    attr = edit.attr(edit.expect(parent, name).inode)
    if not attr.is_directory:
        raise error(errno.ENOTDIR)
    if not is_empty:
        raise error(errno.ENOTEMPTY)
    edit.remove(parent, name)
    edit.store(edit.changed(above._replace(nlink=above.nlink - 1)))
    _lose_name(edit, attr)


def rename(
    edit: Edit, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, flags: int, is_empty: bool
) -> None:
    """`is_empty`: of what is there now, if it is a directory."""
    if flags & ~(NOREPLACE | EXCHANGE) or flags == NOREPLACE | EXCHANGE:
        raise error(errno.EINVAL)
    edit.directory(old_parent)
    edit.directory(new_parent)
    source, target = edit.expect(old_parent, old_name), edit.find(new_parent, new_name)
    if flags & NOREPLACE and target is not None:
        raise error(errno.EEXIST)
    if flags & EXCHANGE and target is None:
        raise error(errno.ENOENT)
    if target is not None and source.inode == target.inode:
        return
    _check_no_loop(edit, source, new_parent)
    if target is not None and flags & EXCHANGE:
        _check_no_loop(edit, target, old_parent)
        _exchange(edit, (old_parent, old_name, source), (new_parent, new_name, target))
        return
    if target is not None:
        _check_replaceable(source, target, is_empty)
    _move(edit, (old_parent, old_name, source), (new_parent, new_name, target))


Place = tuple[int, bytes, Link]


def _check_no_loop(edit: Edit, moved: Link, parent: int) -> None:
    """NS3: EINVAL if `parent` lies in the subtree that is moved."""
    if moved.type != _DIRECTORY:
        return
    while parent != ROOT_INODE:
        if parent == moved.inode:
            raise error(errno.EINVAL)
        parent = edit.attr(parent).parent
    if moved.inode == ROOT_INODE:
        raise error(errno.EBUSY)


def _check_replaceable(source: Link, target: Link, is_empty: bool) -> None:
    if source.type == _DIRECTORY and target.type != _DIRECTORY:
        raise error(errno.ENOTDIR)
    if source.type != _DIRECTORY and target.type == _DIRECTORY:
        raise error(errno.EISDIR)
    if target.type == _DIRECTORY and not is_empty:
        raise error(errno.ENOTEMPTY)


def _move(edit: Edit, old: Place, new: tuple[int, bytes, Link | None]) -> None:
    old_parent, old_name, source = old
    new_parent, new_name, target = new
    attr = edit.attr(source.inode)._replace(parent=new_parent, ctime_ns=edit.now_ns)
    edit.remove(old_parent, old_name)
    if target is None:
        edit.insert(new_parent, new_name, attr)
    else:
        edit.replace(new_parent, new_name, attr)
        _lose_name(edit, edit.attr(target.inode))
        if target.type == _DIRECTORY:
            _count_subdirectory(edit, new_parent, -1)
    edit.store(attr)
    if attr.is_directory:
        _count_subdirectory(edit, old_parent, -1)
        _count_subdirectory(edit, new_parent, +1)
    _stamp(edit, {old_parent, new_parent})


def _exchange(edit: Edit, one: Place, other: Place) -> None:
    for (parent, name, gone), (_, _, come) in ((one, other), (other, one)):
        attr = edit.attr(come.inode)._replace(parent=parent, ctime_ns=edit.now_ns)
        edit.replace(parent, name, attr)
        edit.store(attr)
        _count_subdirectory(edit, parent, (come.type == _DIRECTORY) - (gone.type == _DIRECTORY))
    _stamp(edit, {one[0], other[0]})


def _stamp(edit: Edit, directories: set[int]) -> None:
    """NS4."""
    for directory in sorted(directories):
        attr = edit.attr(directory)
        edit.update(attr, edit.changed(attr))


def _count_subdirectory(edit: Edit, directory: int, difference: int) -> None:
    attr = edit.attr(directory)
    edit.store(attr._replace(nlink=attr.nlink + difference))


def _lose_name(edit: Edit, attr: Attr) -> None:
    """NS1, NS2."""
    nlink = 0 if attr.is_directory else attr.nlink - 1
    attr = attr._replace(nlink=nlink, ctime_ns=edit.now_ns)
    if nlink:
        edit.store(attr)
    else:
        edit.lose_last_name(attr)


def entries_range(directory: int) -> tuple[bytes, bytes]:
    """The keys of all entries of a directory."""
    return kind_range(directory, DIRENT)
