"""Mount options: as people write them after -o, and as libfuse wants them.

  OT1  Permissions are always checked by the kernel (default_permissions).
  OT2  What mount(8) and fstab lines carry along and what does not concern a mount is accepted and dropped.
  OT3  root gets what a filesystem of the kernel gives: suid and dev, unless told otherwise. Others never can.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from sds.core.errors import BadInput

SUBTYPE: Final = "sds"
READ_AHEAD_KIB: Final = 1024
BACKGROUND: Final = 64

# Known to the kernel by these names, for any filesystem.
KERNEL_FLAGS: Final = frozenset((
    "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync", "noatime", "nodiratime",
    "norelatime", "nostrictatime",
))  # fmt: skip
_OPPOSITE: Final = {"suid": "nosuid", "dev": "nodev", "exec": "noexec", "sync": "async"}
_OPPOSITES: Final = _OPPOSITE | {value: key for key, value in _OPPOSITE.items()}
_OURS: Final[dict[str, dict[str, Any]]] = {
    "ro": {"read_only": True},
    "rw": {"read_only": False},
    "allow_other": {"allow_other": True},
    "writeback": {"writeback_cache": True},
    "nowriteback": {"writeback_cache": False},
    "acl": {"acl": True},
    "noacl": {"acl": False},
    "user_xattr": {"xattrs": True},
    "nouser_xattr": {"xattrs": False},
}
_DROPPED: Final = frozenset((
    "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev", "relatime",
    "strictatime", "atime", "diratime", "lazytime", "nolazytime", "default_permissions",
))  # fmt: skip
_LINUX_NAME: Final = re.compile(r"[\x20-\x7e]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Options:
    """`fsname` is what `df` and `mount` show as the source: pool/dataset."""

    fsname: str
    read_only: bool = False
    allow_other: bool = False
    writeback_cache: bool = False
    acl: bool = False
    xattrs: bool = True
    flags: frozenset[str] = frozenset()
    read_ahead_kib: int = READ_AHEAD_KIB
    background: int = BACKGROUND

    def for_libfuse(self, *, as_root: bool) -> set[str]:
        if _LINUX_NAME.fullmatch(self.fsname) is None:
            raise BadInput(f"{self.fsname!r} cannot be the name of a mount: use printable ASCII characters")
        name = self.fsname.replace("\\", "\\\\").replace(",", "\\,")
        words = {f"fsname={name}", f"subtype={SUBTYPE}", "default_permissions", "ro" if self.read_only else "rw"}
        words |= self.flags
        if self.allow_other:
            words.add("allow_other")
        if as_root:  # OT3
            words |= {word for word in ("suid", "dev") if _OPPOSITE[word] not in self.flags}
        return words


def parsed(base: Options, words: Iterable[str]) -> Options:
    """`base`, changed by what stands after -o, in order; each may be several with commas between. BadInput."""
    for word in (word for several in words for word in several.split(",")):
        if word in _OURS:
            base = replace(base, **_OURS[word])
        elif word in KERNEL_FLAGS:
            base = replace(base, flags=base.flags - {_OPPOSITES.get(word, "")} | {word})
        elif word and word not in _DROPPED and not word.startswith(("x-", "X-", "comment=")):
            known = sorted((_OURS.keys() | KERNEL_FLAGS) - {"rw"})
            raise BadInput(f"mount option {word!r} is unknown: choose from {', '.join(known)}")
    return base
