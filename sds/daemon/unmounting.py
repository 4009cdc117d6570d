"""Taking a mount of ours off its directory, and waiting until its dataset is closed.

    UM1  Its worker does it: what is written behind is written first, then the worker closes the dataset and ends, and
         only then we are done. A mount that is in use is Busy, and nothing has changed.
    UM2  A mount without a worker is taken off by us: nothing can be lost any more. Mounts of others are never touched.
    UM3  A worker that ended without closing in order is told about: what was acknowledged is safe, but the next opening
         has to recover it.

A worker is found by the directory (socket_of_mount), so it does not matter whether the dataset has another name by now;
or by the name of the dataset, among those who hold it.
"""

import hashlib
import os
import select
from dataclasses import dataclass
from pathlib import Path

from sds.core.errors import BackendError, BadInput, Busy, Missing
from sds.core.names import Target
from sds.daemon.control_client import HungUp, NoWorker, call, is_served
from sds.daemon.mountinfo import Mount, is_dead, mount_at, mounts
from sds.daemon.mountpoint import check_ours, take_off
from sds.pool.catalog import Catalog
from sds.pool.home import Home
from sds.pool.lease import Holder, holders

TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Where:
    """What a mount's worker answers to `where`."""

    pid: int
    directory: str
    pool: str
    dataset_id: int
    snapshot_id: int
    """0: not a snapshot."""


def socket_of_mount(home: Home, directory: str) -> Path:
    """Of the worker that has something mounted there."""
    return home.run_dir / f"mount-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]}.sock"


def has_worker(home: Home, mount: Mount) -> bool:
    return is_served(socket_of_mount(home, mount.point))


def unmount_directory(home: Home, directory: str) -> None:
    """`directory` is resolved."""
    mount = mount_at(directory)
    if mount is None:
        raise Missing(f"nothing is mounted on {directory}: `sds list` shows what is in use")
    check_ours(mount)
    if _unmount(home, socket_of_mount(home, directory)):
        return
    if not is_dead(mount):
        raise BadInput(f"{directory} is {mount}, but not of {home.path}: say with --home whose it is")
    take_off(mount)  # UM2


def unmount_dataset(home: Home, target: Target) -> None:
    """Wherever it is mounted; a snapshot may be in several places."""
    dataset_id, snapshot_id, held = _held(home, target)
    found = 0
    for holder in held:
        where = _where(Path(holder.socket)) if holder.socket else None
        if where is not None and (where.dataset_id, where.snapshot_id) == (dataset_id, snapshot_id):
            found += _unmount(home, Path(holder.socket))
    for mount in mounts():
        # A killed worker leaves its socket; a mount without one is of another home.
        left = mount.is_ours and mount.source == str(target) and socket_of_mount(home, mount.point).exists()
        if left and not has_worker(home, mount) and is_dead(mount):
            take_off(mount)  # UM2
            found += 1
    if not found and held:
        raise Busy(f"{target} is not mounted, but in use by {held[0]}")
    if not found:
        raise Missing(f"{target} is not mounted: `sds list` shows what is in use")


def _held(home: Home, target: Target) -> tuple[int, int, list[Holder]]:
    """(dataset id, snapshot id, who holds it)"""
    catalog = Catalog.open(home.catalog_path(target.pool))
    try:
        pool, row = catalog.pool(), catalog.dataset(target.dataset)
        if target.snapshot is None:
            return row.id, 0, holders(home.lock_path(pool.uuid, row.id))
        snapshot = catalog.snapshot(row.id, target.snapshot)
        return row.id, snapshot.id, holders(home.snapshot_lock_path(pool.uuid, snapshot.id))
    finally:
        catalog.close()


def _where(socket: Path) -> Where | None:
    """None: nobody is there, or somebody without a mount."""
    try:
        answer = call(socket, "where", timeout_s=TIMEOUT_S)
    except (NoWorker, HungUp, BadInput):
        return None
    return Where(**answer) if isinstance(answer, dict) else None


def _unmount(home: Home, socket: Path) -> bool:
    """UM1. False: there is no worker. Waits for its end as long as it takes: it may have a lot to write."""
    where = _where(socket)
    if where is None:
        return False
    try:
        process = os.pidfd_open(where.pid)
    except ProcessLookupError:
        return False
    try:
        call(socket, "unmount")
        _await_end(process)
    except (NoWorker, HungUp):
        _await_end(process)  # it is ending already
    finally:
        os.close(process)
    if not where.snapshot_id:
        _check_closed(home, where)
    return True


def _await_end(process: int) -> None:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    poll.poll()


def _check_closed(home: Home, where: Where) -> None:
    """UM3. If somebody else has it open by now, it was closed, or recovered."""
    catalog = Catalog.open(home.catalog_path(where.pool))
    try:
        lock = home.lock_path(catalog.pool().uuid, where.dataset_id)
        closed = all(segment.sealed for segment in catalog.segments(where.dataset_id))
    finally:
        catalog.close()
    if not closed and not holders(lock):
        raise BackendError(
            f"{where.directory} is unmounted, but its dataset was not closed in order (see the log of its worker): "
            "the next mount recovers it"
        )
