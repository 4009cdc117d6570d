"""A worker: one process that has one dataset open, or one snapshot, and serves it until it is told to end.

    lease ─▶ recovery ─▶ backup ─▶ control socket + front ─▶ SIGTERM ─▶ requests under way end ─▶ checkpoint ─▶ closed

  WK1  The lease is held from before the dataset is read until after it is closed. A killed worker loses it at once.
  WK2  The control socket is there only while the dataset is open; operations under way end before it is closed.
  WK3  A failed dataset is told about on stderr; reads go on.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import trio

from sds.core.errors import SdsError
from sds.daemon.control import serve_control
from sds.daemon.front import Announce, Front, Stop
from sds.daemon.opened import Opened, opened, take_lease
from sds.daemon.operate import operate
from sds.dataset.dataset import Settings
from sds.log.env import Env
from sds.pool.lease import Holder
from sds.pool.pool import Pool
from sds.pool.rows import DatasetRow, SnapshotRow

WATCH_S: Final = 0.5
_log = logging.getLogger(__name__)


async def serve_dataset(
    pool: Pool, row: DatasetRow, front_of: Callable[[Opened], Front], settings: Settings, env: Env, what: str,
    command: str, announce: Announce,
) -> None:  # fmt: skip
    """WK1. Returns when it was told to end and the dataset is closed. `command` tells others who holds it."""
    socket = pool.home.socket_path(pool.uuid, row.id)
    holder = Holder.me(command, str(socket))
    stop = Stop()
    with await take_lease(pool, row, holder):
        async with trio.open_nursery() as nursery:
            await nursery.start(stop.watch_signals)
            with stop.starting:
                async with opened(pool, row.id, holder, env, settings) as here:
                    await _serve_opened(here, socket, front_of(here), what, stop, announce)
            await _last_backup(pool)
            nursery.cancel_scope.cancel()


async def _serve_opened(
    here: Opened, socket: Path, front: Front, what: str, stop: Stop, announce: Announce
) -> None:
    here.operations.stop = stop.request
    here.operations.front = front
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, socket, here.operations.handlers() | front.handlers())
        nursery.start_soon(here.backups.run)
        nursery.start_soon(here.sweeper.run)
        nursery.start_soon(here.healer.run)
        nursery.start_soon(here.attendant.run)
        nursery.start_soon(_watch, here, what)
        await front.serve(stop, announce)
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
    pool: Pool, row: DatasetRow, name: str, front_of: Callable[[SnapshotRow], AbstractContextManager[Front]], env: Env,
    command: str, socket: str, announce: Announce,
) -> None:  # fmt: skip
    """Read only, by any number of workers. `socket`: where its front can be asked, or empty."""
    holder = Holder.me(command, socket)
    stop = Stop()
    async with trio.open_nursery() as nursery:
        await nursery.start(stop.watch_signals)
        with stop.starting:
            snapshot = await finished_snapshot(pool, row, name, env, holder)
            with pool.hold_snapshot(row, snapshot, holder, shared=True):
                pool.catalog.snapshot(row.id, name)  # not destroyed before we had hold of it
                with front_of(snapshot) as front:
                    await front.serve(stop, announce)
        nursery.cancel_scope.cancel()


async def finished_snapshot(pool: Pool, row: DatasetRow, name: str, env: Env, holder: Holder) -> SnapshotRow:
    """A snapshot with its root: if its tree is not written yet, that happens now."""
    snapshot = pool.catalog.snapshot(row.id, name)
    while snapshot.root is None:
        await operate(pool, row, env, holder, "checkpoint")
        snapshot = pool.catalog.snapshot(row.id, name)
    return snapshot
