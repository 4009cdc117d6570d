"""A mountpoint as the system sees it: whether it can be used, what is mounted there, how it is unmounted and tuned.

  MP1  Nothing here waits for a reply of the filesystem itself, but for the processes that `unmount` and `sync` start:
       these are called in a thread while the requests they cause are served.
  MP2  A mount is recognised by its device number in /proc/self/mountinfo: another one at the same place is not ours.
"""

import ctypes
import errno
import logging
import os
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fuse.options import SUBTYPE
from sds.core.errors import BackendError, BadInput, Busy

DEVICE: Final = "/dev/fuse"
KIND: Final = f"fuse.{SUBTYPE}"
MOUNTINFO: Final = Path("/proc/self/mountinfo")
MNT_FORCE: Final = 1
UMOUNT_NOFOLLOW: Final = 8
_FIELD_DEVICE: Final = 2
_FIELD_POINT: Final = 4
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
_log = logging.getLogger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of mountinfo: `device` is MAJOR:MINOR, `kind` the type of the filesystem."""

    device: str
    kind: str

    @property
    def connection(self) -> str:
        """Its directory below /sys/fs/fuse/connections."""
        return self.device.partition(":")[2]


def mounted_at(path: str) -> Mounted | None:
    """What is mounted at this absolute path without symbolic links; the uppermost, if several are."""
    found = None
    for line in os.fsdecode(MOUNTINFO.read_bytes()).rstrip("\n").split("\n"):
        fields = line.split(" ")
        if _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[_FIELD_POINT]) == path:
            found = Mounted(fields[_FIELD_DEVICE], fields[fields.index("-") + 1])
    return found


def check_mountpoint(path: str) -> None:
    """BadInput, Busy: with what to do about it."""
    try:
        mode = os.stat(path).st_mode
        mounted = mounted_at(path)
        if mounted is not None and mounted.kind == KIND:
            os.statvfs(path)  # the kernel may well have the attributes of a dead mount in its cache, but never this
            raise Busy(f"something is mounted on {path} already: unmount it first (sds unmount {path})")
    except FileNotFoundError:
        raise BadInput(f"{path} is missing: make the directory first (mkdir -p {path})") from None
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            raise BadInput(f"{path} is a mount whose server has died: unmount it first (umount -l {path})") from None
        raise BadInput(f"{path} cannot be used as a mountpoint: {error.strerror}") from None
    if not stat.S_ISDIR(mode):
        raise BadInput(f"{path} is not a directory: choose a directory to mount on")


def check_system() -> None:
    """BackendError: this machine, or this container, cannot mount at all."""
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise BackendError(
            f"{DEVICE} is missing: load the module (modprobe fuse), or give the device to the container"
        ) from None
    except OSError as error:
        raise BackendError(f"{DEVICE} cannot be opened ({error.strerror}): allow this user to use it") from None
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        raise BackendError("the program fusermount3 is missing: install the package fuse3, or mount as root")


def unmount(path: str, *, lazily: bool = False) -> str | None:
    """None when it is done, else why not. Waits until the kernel has written everything back, unless `lazily`. By a
    process of its own (MO5 of mount.py)."""
    as_root = os.geteuid() == 0 and shutil.which("umount") is not None
    program = ["umount", "-i"] if as_root else ["fusermount3", "-u"]
    if lazily:
        program.append("-l" if as_root else "-z")
    try:
        done = subprocess.run([*program, "--", path], capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError:
        return f"the program {program[0]} is missing"
    if done.returncode == 0:
        return None
    return done.stderr.strip().rpartition(": ")[2].rstrip(".") or f"{program[0]} exits with {done.returncode}"


def abort(path: str) -> None:
    """Every request that waits for a reply fails, and so does all that the kernel waits for because of it."""
    if _libc.umount2(os.fsencode(path), UMOUNT_NOFOLLOW | MNT_FORCE) != 0:
        _log.debug("%s: %s", path, os.strerror(ctypes.get_errno()))


def sync(path: str) -> None:
    """Have the kernel write back what it holds for the filesystem that is mounted here. MO5 of mount.py: a process of
    its own waits, not a thread of the one that has to answer."""
    done = subprocess.run(["sync", "-f", "--", path], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(errno.EIO, done.stderr.strip() or "sync failed")


def tune(mounted: Mounted, read_ahead_kib: int, background: int) -> None:
    """Larger read-ahead and more requests under way; a mount that may not say so works as well."""
    connection = f"/sys/fs/fuse/connections/{mounted.connection}"
    _set(f"/sys/class/bdi/{mounted.device}/read_ahead_kb", read_ahead_kib)
    _set(f"{connection}/max_background", background)
    _set(f"{connection}/congestion_threshold", background * 3 // 4)


def _set(path: str, value: int) -> None:
    try:
        Path(path).write_text(str(value))
    except OSError as error:
        _log.debug("%s stays as it is: %s", path, error.strerror)
