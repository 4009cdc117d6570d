"""Changing extended attributes. Each function is what one edit does; the caller commits.

  XA1  Namespaces: user, trusted, security, and the two POSIX ACLs of system. The kernel checks who may use which.
  XA2  The access ACL and the mode agree at all times (AC1 of acl.py); an ACL that a mode says is not kept.
  XA3  A value has at most VALUE_MAX bytes, a name 255; an inode's names are at most LIST_MAX bytes together.
"""

import errno
from typing import Final

from sds.filesystem.acl import ACL_ACCESS, ACL_DEFAULT, decode_acl, encode_acl, mode_of, with_mode
from sds.filesystem.attributes import CAPABILITY, NAME_MAX, XATTRS, Attr
from sds.filesystem.edit import Edit
from sds.filesystem.inodes import delete_chunks, error, load_chunks, store_chunks, xattr_prefix

VALUE_MAX: Final = 1 << 16
LIST_MAX: Final = 1 << 16
CAPABILITY_NAME: Final = b"security.capability"
_NAMESPACES: Final = (b"user.", b"trusted.", b"security.")


def set_xattr(edit: Edit, inode: int, name: bytes, value: bytes, names_bytes: int) -> None:
    """`names_bytes`: length of the names that the inode has already. EOPNOTSUPP, ERANGE, E2BIG, ENOSPC; EINVAL and
    EACCES for ACLs."""
    attr = edit.attr(inode)
    _check_name(name)
    if len(value) > VALUE_MAX:
        raise error(errno.E2BIG)
    if names_bytes + len(name) + 1 > LIST_MAX:
        raise error(errno.ENOSPC)
    attr = attr._replace(ctime_ns=edit.now_ns, flags=attr.flags | XATTRS)
    if name == CAPABILITY_NAME:
        attr = attr._replace(flags=attr.flags | CAPABILITY)
    keep: bytes | None = value
    if name in (ACL_ACCESS, ACL_DEFAULT):
        attr, keep = _checked_acl(attr, name, value)
    if keep is not None:
        store_chunks(edit, xattr_prefix(inode, name), keep)
    else:
        delete_chunks(edit, xattr_prefix(inode, name))
    edit.store(attr)


def _checked_acl(attr: Attr, name: bytes, value: bytes) -> tuple[Attr, bytes | None]:
    """The attributes with the ACL (XA2), and what to keep as its value."""
    if attr.is_symlink:
        raise error(errno.EOPNOTSUPP)
    acl = decode_acl(value)
    if name == ACL_DEFAULT:
        if not attr.is_directory:
            raise error(errno.EACCES)
        return attr, encode_acl(acl)
    bits, is_mode = mode_of(acl)
    return attr._replace(mode=attr.mode & ~0o777 | bits), None if is_mode else encode_acl(acl)


def remove_xattr(edit: Edit, inode: int, name: bytes) -> None:
    """ENODATA, EOPNOTSUPP."""
    attr = edit.attr(inode)
    _check_name(name)
    prefix = xattr_prefix(inode, name)
    if load_chunks(edit, prefix) is None:
        raise error(errno.ENODATA)
    delete_chunks(edit, prefix)
    flags = attr.flags & ~CAPABILITY if name == CAPABILITY_NAME else attr.flags
    edit.store(attr._replace(ctime_ns=edit.now_ns, flags=flags))


def chmod_acl(edit: Edit, attr: Attr) -> None:
    """XA2, after `attr` got another mode."""
    if attr.flags & XATTRS:
        prefix = xattr_prefix(attr.inode, ACL_ACCESS)
        value = load_chunks(edit, prefix)
        if value is not None:
            store_chunks(edit, prefix, encode_acl(with_mode(decode_acl(value), attr.mode & 0o777)))


def drop_capability(edit: Edit, attr: Attr) -> Attr:
    """What gave a program its capabilities does not outlive a change of its contents or owner."""
    if not attr.flags & CAPABILITY:
        return attr
    delete_chunks(edit, xattr_prefix(attr.inode, CAPABILITY_NAME))
    return attr._replace(flags=attr.flags & ~CAPABILITY)


def _check_name(name: bytes) -> None:
    if not name or len(name) > NAME_MAX or b"\0" in name:
        raise error(errno.ERANGE)
    if name not in (ACL_ACCESS, ACL_DEFAULT) and not name.startswith(_NAMESPACES):
        raise error(errno.EOPNOTSUPP)
