"""What is mounted where, from the kernel's own list (/proc/self/mountinfo, see proc(5)).

  MI1  Only a look at a list: no file system is touched, so a hung or dead one cannot hold us up. The exception is
       `is_dead`, which waits PATIENCE_S at most.
  MI2  Where several are stacked on one directory, the topmost is meant: the last one of the list.
  MI3  Paths come out as the os functions take them: the kernel writes space, tab, newline and backslash in octal.
"""

import errno
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OURS: Final = "fuse.sds"
PATIENCE_S: Final = 2.0
MOUNTINFO: Final = Path("/proc/self/mountinfo")
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")
_FIELDS_MIN: Final = 6


@dataclass(frozen=True, slots=True)
class Mount:
    point: str
    kind: str
    """The type as in fstab: ext4, fuse.sds."""
    source: str
    options: frozenset[str]
    device: str
    """major:minor, as in /sys/class/bdi."""

    @property
    def is_ours(self) -> bool:
        return self.kind == OURS

    def __str__(self) -> str:
        return f"{self.source} ({self.kind})"


def parse(text: bytes) -> list[Mount]:
    """Lines that are not of the known form are left out."""
    found = []
    for line in text.splitlines():
        before, dash, after = line.partition(b" - ")
        fields, rest = before.split(b" "), after.split(b" ")
        if not dash or len(fields) < _FIELDS_MIN or len(rest) < 2:
            continue
        options = frozenset(os.fsdecode(fields[5]).split(","))
        device, point = os.fsdecode(fields[2]), _decoded(fields[4])
        found.append(Mount(point, _decoded(rest[0]), _decoded(rest[1]), options, device))
    return found


def mounts() -> list[Mount]:
    return parse(MOUNTINFO.read_bytes())


def mount_at(directory: str) -> Mount | None:
    """MI2. `directory` is absolute and without symlinks (`resolved`)."""
    found = [mount for mount in mounts() if mount.point == directory]
    return found[-1] if found else None


def resolved(directory: str) -> str:
    """As the kernel writes it, without touching what is mounted there (MI1)."""
    parent, name = os.path.split(os.path.abspath(directory))
    path = os.path.join(os.path.realpath(parent), name)
    return path if mount_at(path) is not None else os.path.realpath(path)


def is_dead(mount: Mount) -> bool:
    """Whether nobody answers its requests any more: the kernel knows since the worker's end. A worker that hangs is
    alive. (Attributes the kernel may still have at hand; this it has to ask for.)"""
    found: list[int | None] = []
    asking = threading.Thread(target=lambda: found.append(_error_of(mount)), daemon=True)
    asking.start()
    asking.join(PATIENCE_S)
    return bool(found) and found[0] in (errno.ENOTCONN, errno.ECONNABORTED)


def _error_of(mount: Mount) -> int | None:
    try:
        os.statvfs(mount.point)
    except OSError as error:
        return error.errno
    return None


def _decoded(field: bytes) -> str:
    """MI3."""
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field))
