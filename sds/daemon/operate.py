"""An operation on a dataset, open or closed: asked of its worker, or carried out here with the dataset opened for the
moment. The same code does the work in both cases (sds/daemon/operations.py).
"""

from pathlib import Path
from typing import Any, Final

import trio

from sds.core.errors import Busy
from sds.daemon.control_client import NoWorker, call
from sds.daemon.opened import PATIENCE_S, POLL_S, opened
from sds.dataset.dataset import Settings
from sds.log.env import Env
from sds.pool.lease import Holder, holders
from sds.pool.pool import Pool
from sds.pool.rows import DatasetRow

MOMENT: Final = Settings(stage_slots=2, map_pages_max=1 << 14)


async def operate(pool: Pool, row: DatasetRow, env: Env, holder: Holder, op: str, **arguments: Any) -> object:
    """The result of the operation; raises what it raised, wherever that was."""
    deadline = trio.current_time() + PATIENCE_S
    while True:
        try:
            lease = pool.lease(row, holder)
        except Busy:
            if trio.current_time() > deadline:
                raise
        else:
            with lease:
                return await _here(pool, row, env, holder, op, arguments)
        socket = worker_socket(pool, row)
        if socket:
            try:
                return await trio.to_thread.run_sync(_call, socket, op, arguments)
            except NoWorker:
                await trio.lowlevel.checkpoint()
        await trio.sleep(POLL_S)  # it is starting, or ending, or a command that takes a moment


def worker_socket(pool: Pool, row: DatasetRow) -> str:
    """The control socket of the worker that has the dataset open now; empty: there is none."""
    found = [holder.socket for holder in holders(pool.home.lock_path(pool.uuid, row.id)) if holder.socket]
    return found[0] if found else ""


def _call(socket: str, op: str, arguments: dict[str, Any]) -> object:
    return call(Path(socket), op, **arguments)


async def _here(
    pool: Pool, row: DatasetRow, env: Env, holder: Holder, op: str, arguments: dict[str, Any]
) -> object:
    async with opened(pool, row.id, holder, env, MOMENT) as here:
        result = await here.operations.handlers()[op](**arguments)
    await pool.backup()
    return result
