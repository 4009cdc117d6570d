"""Destroying datasets and snapshots, open or closed.

  DE1  A snapshot goes through whoever has its dataset open. A dataset that was not closed in order is recovered first:
       its log may hold a rollback to that snapshot that is not published yet (SW6 of sds.maintenance.sweep).
  DE2  A dataset goes under its lease: nobody has it open, its stage in memory goes with it.
"""

from pathlib import Path

import trio

from sds.core.errors import BackendError, Busy
from sds.daemon.cleaning import remove_stage
from sds.daemon.control_client import NoWorker, call
from sds.daemon.opened import PATIENCE_S, POLL_S, take_lease
from sds.daemon.operate import operate, worker_socket
from sds.log.env import Env
from sds.pool.lease import Holder
from sds.pool.places import is_remote
from sds.pool.pool import Pool
from sds.pool.rows import DatasetRow


async def destroy_snapshot(pool: Pool, row: DatasetRow, name: str, env: Env, holder: Holder) -> None:
    """DE1."""
    catalog = pool.catalog
    snapshot = catalog.snapshot(row.id, name)
    if worker_socket(pool, row) or not await is_closed_in_order(pool, row, env):
        await operate(pool, row, env, holder, "destroy_snapshot", name=name)
        return
    with await take_lease(pool, row, holder):
        if await is_closed_in_order(pool, row, env):
            hold = pool.hold_snapshot(row, snapshot, holder, shared=False)
            try:
                catalog.destroy_snapshot(snapshot.id)
            finally:
                hold.release(remove=True)
            await pool.backup()
            return
    await operate(pool, row, env, holder, "destroy_snapshot", name=name)


async def recover(pool: Pool, row: DatasetRow, env: Env, holder: Holder) -> None:
    """What a killed worker left in memory only gets to the backends; nothing if a worker has it open."""
    if not worker_socket(pool, row) and not await is_closed_in_order(pool, row, env):
        await operate(pool, row, env, holder, "checkpoint")


async def is_closed_in_order(pool: Pool, row: DatasetRow, env: Env) -> bool:
    """Its log ends with a checkpoint: an open dataset always has a segment that is not sealed. And that checkpoint is
    where a machine that has only object stores would go on."""
    if row.uploaded != row.checkpoint and any(is_remote(one.url) for one in pool.catalog.backends()):
        return False
    return all(segment.sealed for segment in await env.run_blocking(pool.catalog.segments, row.id))


async def destroy_dataset(
    pool: Pool, row: DatasetRow, env: Env, holder: Holder, recursive: bool, force: bool
) -> None:
    """DE2. Busy if it has snapshots (but for `recursive`) or is open (but for `force`: its worker is ended)."""
    if force:
        await _end_worker(pool, row)
    snapshots = pool.catalog.snapshots(row.id)
    if snapshots and not recursive:
        names = ", ".join(f"@{snapshot.name}" for snapshot in snapshots[:3]) + (", ..." if snapshots[3:] else "")
        raise Busy(f"{row.name} has snapshots ({names}): destroy them first, or use -r")
    lease = await take_lease(pool, row, holder)
    try:
        for snapshot in pool.catalog.snapshots(row.id):
            hold = pool.hold_snapshot(row, snapshot, holder, shared=False)
            try:
                # No recovery is needed (DE1), for the head goes, too.
                pool.catalog.destroy_snapshot(snapshot.id)
            finally:
                hold.release(remove=True)
        pool.catalog.destroy_dataset(row.id)
        remove_stage(env, pool, row.id)
    except BaseException:
        lease.release()
        raise
    lease.release(remove=True)
    await pool.backup()


async def _end_worker(pool: Pool, row: DatasetRow) -> None:
    """Ask the worker to end, and wait for it."""
    deadline = trio.current_time() + PATIENCE_S
    while trio.current_time() < deadline:
        socket = worker_socket(pool, row)
        if not socket:
            return
        try:
            await trio.to_thread.run_sync(_stop, socket)
        except NoWorker:
            await trio.lowlevel.checkpoint()
        await trio.sleep(POLL_S)


def _stop(socket: str) -> None:
    try:
        call(Path(socket), "stop")
    except BackendError:
        return  # it ended before it answered
