"""POSIX access control lists: the values of system.posix_acl_access and system.posix_acl_default. Pure functions.

    off size field    meaning
      0    4 version  2
      4    8 entry    tag (2), perm (2), id (4); as many as there are, in the order below. Little endian

    tag          id     entry for                    how many
    USER_OBJ  1  -      the owner                    one
    USER      2  uid    another user                 any number
    GROUP_OBJ 4  -      the owning group             one
    GROUP     8  gid    another group                any number
    MASK     16  -      what all but owner and       one; may be left out if there is neither USER nor GROUP
                        others may have at most
    OTHER    32  -      everybody else               one

The permission bits of the mode are part of an access ACL: owner = USER_OBJ, group = MASK or else GROUP_OBJ, other =
OTHER.

  AC1  The mode and the access ACL of an inode agree at all times. An ACL that says no more than a mode is not kept.
  AC2  decode_acl takes what the kernel's posix_acl_valid takes (named entries may repeat and come in any order) and
       nothing else. It checks the length before it makes anything, and takes ENTRIES_MAX entries at most.
  AC3  encode_acl(decode_acl(value)) == value but for the id fields of entries that have none: those become ID_NONE.

Who does what when FUSE_POSIX_ACL was agreed on (it brings default_permissions with it). Linux 6.18, libfuse 3.14:

  The kernel  checks permissions. It asks for the access ACL of an inode by getxattr (ENODATA: none) when somebody
              who is not the owner wants it and its group bits are not 0, and keeps the answer while it keeps the
              attributes; but that of the mount's root is never kept: each of their paths costs one getxattr of it.
  The kernel  lets only the owner and CAP_FOWNER set ACLs, refuses bad ones (EINVAL, other versions EOPNOTSUPP),
              default ACLs of what is not a directory (EACCES), more than 511 entries (E2BIG), ACLs of symlinks
              (EOPNOTSUPP). An empty value or an ACL without entries arrives as removexattr; ENODATA is no error then.
  We          set the mode when an access ACL is set (mode_of) and drop an ACL that is equivalent to a mode; the kernel
              asks for the attributes again after each setxattr. Removing an access ACL leaves the mode as it is.
  We          take away S_ISGID when an access ACL is set by somebody who is neither in the file's group nor root. The
              kernel would tell us who (FUSE_SETXATTR_ACL_KILL_SGID), but libfuse 3.14 does not speak that extension.
  We          change the access ACL on chmod (with_mode). An S_ISGID that is not permitted is gone before it gets here.
  We          give new inodes the ACLs of a default ACL (inherit), and new directories the S_ISGID of their parent. The
              kernel takes S_ISGID from other new inodes where the caller must not have it.
  The kernel  applies the umask to the mode of a new inode in every case, for pyfuse3 cannot ask for FUSE_DONT_MASK.
              POSIX wants it ignored where there is a default ACL. It cannot be undone (which of the masked bits were
              asked for, nobody knows), so there a new inode has the rights of the default ACL less the umask: too few,
              never too many. `umask 0` helps.
"""

import errno
import os
import struct
from typing import Final, NamedTuple

ACL_ACCESS: Final = b"system.posix_acl_access"
ACL_DEFAULT: Final = b"system.posix_acl_default"

USER_OBJ: Final = 1
USER: Final = 2
GROUP_OBJ: Final = 4
GROUP: Final = 8
MASK: Final = 16
OTHER: Final = 32
ID_NONE: Final = 0xFFFFFFFF

VERSION: Final = 2
ENTRIES_MAX: Final = 511
"""What fits in 4096 bytes; the kernel passes no more to FUSE."""

_VERSION: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_NAMED: Final = frozenset((USER, GROUP))
_FOLLOWERS: Final = {
    USER_OBJ: frozenset((USER, GROUP_OBJ)),
    USER: frozenset((USER, GROUP_OBJ)),
    GROUP_OBJ: frozenset((GROUP, MASK, OTHER)),
    GROUP: frozenset((GROUP, MASK)),
    MASK: frozenset((OTHER,)),
    OTHER: frozenset[int](),
}
"""Which tags may come after which. (A USER without a MASK is all that this cannot say.)"""


class AclEntry(NamedTuple):
    tag: int
    perm: int
    """rwx: 0..7"""
    id: int = ID_NONE


Acl = tuple[AclEntry, ...]
"""Valid: made by decode_acl, or from one that was."""


def decode_acl(value: bytes) -> Acl:
    """OSError: EINVAL, EOPNOTSUPP (another version), E2BIG."""
    if len(value) < _VERSION.size:
        raise _error(errno.EINVAL)
    if _VERSION.unpack_from(value)[0] != VERSION:
        raise _error(errno.EOPNOTSUPP)
    count, rest = divmod(len(value) - _VERSION.size, _ENTRY.size)
    if rest:
        raise _error(errno.EINVAL)
    if count > ENTRIES_MAX:
        raise _error(errno.E2BIG)
    entries = _ENTRY.iter_unpack(value[_VERSION.size :])
    acl = tuple(AclEntry(tag, perm, number if tag in _NAMED else ID_NONE) for tag, perm, number in entries)
    _validate(acl)
    return acl


def encode_acl(acl: Acl) -> bytes:
    return _VERSION.pack(VERSION) + b"".join(_ENTRY.pack(*entry) for entry in acl)


def mode_of(acl: Acl) -> tuple[int, bool]:
    """(permission bits 0..0o777 that an access ACL implies, whether they say all that it says)."""
    perms = {tag: perm for tag, perm, _ in acl}
    return perms[USER_OBJ] << 6 | perms.get(MASK, perms[GROUP_OBJ]) << 3 | perms[OTHER], len(acl) == 3


def with_mode(acl: Acl, mode: int) -> Acl:
    """The access ACL after a chmod. The mask takes the group bits; GROUP_OBJ does only if there is no mask."""
    has_mask = any(entry.tag == MASK for entry in acl)
    new = {USER_OBJ: mode >> 6 & 7, MASK if has_mask else GROUP_OBJ: mode >> 3 & 7, OTHER: mode & 7}
    return tuple(AclEntry(tag, new.get(tag, perm), number) for tag, perm, number in acl)


def inherit(default: Acl, mode: int) -> tuple[Acl | None, int]:
    """The access ACL (None: the mode says it all) and the mode of a new inode in a directory with this default ACL.

    `mode` is what was asked for; its type and its suid, sgid and sticky bits stay. A new directory gets the default ACL
    as its own default ACL besides; a symlink inherits nothing.
    """
    bits, is_mode = mode_of(default)
    allowed = bits & mode
    acl = None if is_mode else with_mode(default, allowed)
    return acl, mode & ~0o777 | allowed


def _validate(acl: Acl) -> None:
    allowed: frozenset[int] = frozenset((USER_OBJ,))
    is_named = has_mask = False
    for tag, perm, number in acl:
        if tag not in allowed or perm > 7 or (tag in _NAMED and number == ID_NONE):
            raise _error(errno.EINVAL)
        is_named |= tag in _NAMED
        has_mask |= tag == MASK
        allowed = _FOLLOWERS[tag]
    if not acl or acl[-1].tag != OTHER or (is_named and not has_mask):
        raise _error(errno.EINVAL)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
