"""The directory that a dataset is to be mounted on: is it fit for that, and what a dead worker left there goes.

  MP1  Nothing of anybody else is unmounted: only a mount of type fuse.sds, and only a dead one.
  MP2  A mount is dead if nobody holds the lease of what it shows and the kernel says so (ENOTCONN): nobody can get at
       anything through it, so it may go.
"""

import importlib.util
from collections.abc import Callable

from fuse.mountpoint import check_mountpoint, check_system, unmount
from sds.core.errors import BackendError, BadInput, Busy
from sds.daemon.mountinfo import Mount, is_dead, mount_at


def prepare(directory: str, has_worker: Callable[[Mount], bool]) -> None:
    """Leaves a directory with nothing mounted on it; it need not be empty. `directory` is resolved."""
    if importlib.util.find_spec("pyfuse3") is None:
        raise BadInput("the Python package pyfuse3 is missing: install sds with its extra `fuse`, or run `make setup`")
    check_system()
    clear_dead(directory, has_worker)
    mount = mount_at(directory)
    if mount is not None:
        advice = f"sds unmount {directory}" if mount.is_ours else f"umount {directory}"
        raise Busy(f"{directory} is in use: {mount} is mounted there; `{advice}` first, or choose another directory")
    check_mountpoint(directory)


def clear_dead(directory: str, has_worker: Callable[[Mount], bool]) -> int:
    """MP1, MP2. How many mounts without a worker were taken off the directory."""
    count = 0
    while (mount := mount_at(directory)) is not None and mount.is_ours and not has_worker(mount) and is_dead(mount):
        take_off(mount)
        count += 1
    return count


def take_off(mount: Mount) -> None:
    """A dead one (MP2)."""
    refusal = unmount(mount.point, lazily=True)
    if refusal is not None:
        raise BackendError(f"{mount.point}: its dead mount cannot be taken off ({refusal}): do it as root")


def check_ours(mount: Mount) -> None:
    """MP1."""
    if not mount.is_ours:
        raise BadInput(f"{mount.point} is not a mount of sds, but of {mount}: use umount {mount.point}")
