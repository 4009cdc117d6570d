"""Looking after the backends of an open pool while a worker runs: they come, go, fail and return.

  AT1  A backend that was added to the pool is connected, one that was removed is let go of, one that was missing is
       tried again; with the label checked each time (PO1 of pool.py).
  AT2  One that is faulted is probed; if it answers as the one it was, the fault is over (G2 of backends.guarded).
  AT3  It changes what is connected, nothing on the backends. `on_return` is told: copies may be missing there.
"""

import logging
from collections.abc import Callable

import trio

from backends.base import Backend
from backends.guarded import PROBE_EVERY_S, Guarded
from sds.core.errors import SdsError
from sds.pool.label import LABEL
from sds.pool.pool import Pool, attach
from sds.pool.rows import BackendRow

_log = logging.getLogger(__name__)


class Attendant:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.on_return: Callable[[], None] = lambda: None
        self.on_attach: Callable[[Backend], None] = lambda backend: None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(PROBE_EVERY_S)
            try:
                await self.look()
            except SdsError as error:
                _log.warning("pool %s: %s", self._pool.name, error)

    async def look(self) -> None:
        """Once."""
        pool = self._pool
        rows = {row.id: row for row in await trio.to_thread.run_sync(pool.catalog.backends)}
        pool.let_go_of_removed()
        for gone in [key for key in pool.missing if key not in rows]:
            del pool.missing[gone]
        async with trio.open_nursery() as nursery:
            for row in rows.values():
                nursery.start_soon(self._look_at, row)

    async def _look_at(self, row: BackendRow) -> None:
        """AT1, AT2."""
        pool = self._pool
        backend = pool.backends.get(row.id)
        if backend is None:
            if pool.connect is None:
                return
            try:
                await attach(pool, row, pool.connect, allow_missing=True)
            except SdsError as error:
                pool.missing[row.id] = str(error)
            if row.id in pool.backends:
                pool.missing.pop(row.id, None)
                _log.warning("pool %s: backend %s is here", pool.name, row.url)
                self.on_attach(pool.backends[row.id])
                self.on_return()
        elif isinstance(backend, Guarded) and backend.health.state != "online" and await backend.probe(LABEL):
            self.on_return()
