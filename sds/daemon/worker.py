"""A worker: one process that has one dataset open, or one snapshot, and serves it until it is told to end.

    lease ─▶ recovery ─▶ backup ─▶ control socket + NBD ─▶ SIGTERM ─▶ requests under way end ─▶ checkpoint ─▶ closed

  WK1  The lease is held from before the dataset is read until after it is closed. A killed worker loses it at once.
  WK2  The control socket is there only while the dataset is open; operations under way end before it is closed.
  WK3  A failed dataset is told about on stderr; reads go on.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

import trio

from sds.core.errors import SdsError
from sds.daemon.control import serve_control
from sds.daemon.front import Endpoint, Stop, serve_front
from sds.daemon.opened import Opened, opened, take_lease
from sds.daemon.operate import operate
from sds.dataset.dataset import Settings
from sds.log.env import Env
from sds.pool.lease import Holder
from sds.pool.pool import Pool
from sds.pool.rows import DatasetRow, SnapshotRow
from sds.volume.snapshot import SnapshotVolume

WATCH_S: Final = 0.5
Announce = Callable[[str], None]
_log = logging.getLogger(__name__)


async def serve_volume(
    pool: Pool, row: DatasetRow, endpoint: Endpoint, settings: Settings, env: Env, what: str, announce: Announce
) -> None:
    """WK1. Returns when it was told to end and the volume is closed."""
    socket = pool.home.socket_path(pool.uuid, row.id)
    holder = Holder.me(f"sds serve {what}", str(socket))
    stop = Stop()
    with await take_lease(pool, row, holder):
        async with trio.open_nursery() as nursery:
            await nursery.start(stop.watch_signals)
            with stop.starting:
                async with opened(pool, row.id, holder, env, settings) as here:
                    await _serve_opened(here, socket, endpoint, what, stop, announce)
            await _last_backup(pool)
            nursery.cancel_scope.cancel()


async def _serve_opened(
    here: Opened, socket: Path, endpoint: Endpoint, what: str, stop: Stop, announce: Announce
) -> None:
    here.operations.stop = stop.request
    here.operations.more_stats = lambda: {"nbd": asdict(stop.server.metrics)} if stop.server is not None else {}
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, socket, here.operations.handlers())
        nursery.start_soon(here.backups.run)
        nursery.start_soon(here.sweeper.run)
        nursery.start_soon(_watch, here, what)
        await serve_front(here.volume, endpoint, what, stop, announce)
        await here.operations.finish()  # WK2
        nursery.cancel_scope.cancel()


async def _watch(here: Opened, what: str) -> None:
    """WK3."""
    while here.dataset.failed is None:  # noqa: ASYNC110 (a failure comes once in a lifetime: looking for it is simple)
        await trio.sleep(WATCH_S)
    _log.error("%s failed: %s; it can still be read", what, here.dataset.failed)


async def _last_backup(pool: Pool) -> None:
    """So that an import has little to replay. Without it there is only more."""
    try:
        await pool.backup()
    except SdsError as error:
        _log.warning("%s", error)


async def serve_snapshot(
    pool: Pool, row: DatasetRow, name: str, endpoint: Endpoint, env: Env, what: str, announce: Announce
) -> None:
    holder = Holder.me(f"sds serve {what}")
    snapshot = await finished_snapshot(pool, row, name, env, holder)
    stop = Stop()
    with pool.hold_snapshot(row, snapshot, holder, shared=True):
        pool.catalog.snapshot(row.id, name)  # not destroyed before we had hold of it
        volume = SnapshotVolume(pool, row, snapshot, env)
        async with trio.open_nursery() as nursery:
            await nursery.start(stop.watch_signals)
            try:
                await serve_front(volume, endpoint, what, stop, announce)
            finally:
                volume.close()
            nursery.cancel_scope.cancel()


async def finished_snapshot(pool: Pool, row: DatasetRow, name: str, env: Env, holder: Holder) -> SnapshotRow:
    """A snapshot with its root: if its tree is not written yet, that happens now."""
    snapshot = pool.catalog.snapshot(row.id, name)
    while snapshot.root is None:
        await operate(pool, row, env, holder, "checkpoint")
        snapshot = pool.catalog.snapshot(row.id, name)
    return snapshot
