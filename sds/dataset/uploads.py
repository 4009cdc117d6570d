"""Checkpoints that need nothing of this machine: in pools with object stores, where a sealed segment passes through a
journal here on its way.

  UL1  `uploaded` in the catalog names a published checkpoint only when every file of this dataset that was sealed up to
       its CHECKPOINT frame is where it stays. So a machine that has only the backends can go on from there.
  UL2  A checkpoint is followed by a cut of the log: what is in the open segment would stay here.
  UL3  A replay from there may meet a rollback: the snapshot is spared until a later checkpoint is uploaded.
  UL4  It never holds up the dataset: if a store does not answer, `uploaded` stays behind and is tried again. Sweeps
       spare what it refers to (SW1, SW2 of sds.maintenance.sweep).
  UL5  With flush=backend nothing is acknowledged before a checkpoint of this epoch is uploaded, and everything from
       before the property was set, and a durable backup of the catalog knows it (V1 of recovery.py forgets others).
"""

import logging
from collections.abc import Callable
from typing import Final

import trio

from sds.core.errors import Fenced, SdsError
from sds.dataset.checkpointer import Checkpointer
from sds.log.env import Env
from sds.log.log import Log
from sds.pool.places import is_remote
from sds.pool.pool import Pool
from sds.pool.rows import CheckpointRef, DatasetRow

RETRY_S: Final = 5.0
OPEN_LIMIT_S: Final = 10.0
"""How long an opening waits for the first upload; a power cut of the store must not keep a dataset closed."""
CLOSE_LIMIT_S: Final = 120.0
_log = logging.getLogger(__name__)


class Uploads:
    def __init__(self, pool: Pool, row: DatasetRow, epoch: int, env: Env, log: Log, checkpointer: Checkpointer) -> None:
        self._pool = pool
        self._row = row
        self._epoch = epoch
        self._env = env
        self._log = log
        self._checkpointer = checkpointer
        self._turn = trio.Lock()
        self.done: CheckpointRef | None = row.uploaded
        self.rollbacks = 1
        """Begun by this worker; one more for those of earlier ones."""
        self._rollbacks_uploaded = 0
        self.is_rolling_back = False
        """Its checkpoint is not published yet."""
        self.is_anchored = False
        self.on_uploaded: Callable[[], None] = lambda: None
        """A backup of the catalog is worth making: the backends alone lead further now."""

    @property
    def is_needed(self) -> bool:
        return any(is_remote(row.url) for row in self._pool.catalog.backends())

    async def bring(self, cut: bool = True) -> None:
        """UL1 for the newest checkpoint. BackendError: not now."""
        async with self._turn:
            ref = self._checkpointer.published
            if ref is None or ref == self.done:
                return
            rollbacks = self.rollbacks if not self.is_rolling_back else 0
            await self._log.settle(cut)  # UL2
            await self._env.run_blocking(self._pool.catalog.set_uploaded, self._row.id, self._epoch, ref)
            self.done = ref
            self._rollbacks_uploaded = rollbacks
        self.on_uploaded()

    async def anchor(self) -> None:
        """UL5. BackendError: not now; no flush may be acknowledged."""
        if self.is_needed:
            await self._checkpointer.wait_newer(0)  # the one that recovery ends with
            await self.bring()
            await self._log.settle()
            await self._pool.backup()
        self.is_anchored = True

    @property
    def may_lag_behind_rollback(self) -> bool:
        """UL3. A snapshot that a replay may need must not be destroyed."""
        return self._rollbacks_uploaded < self.rollbacks

    async def need(self, sequence: int) -> None:
        """What was in the tree up to this operation can be shared: it needs no journal. BackendError: not now."""
        if self.is_needed and (self.done is None or self.done.sequence < sequence):
            await self.bring()

    async def bring_within(self, limit_s: float) -> None:
        """UL4: as far as it goes."""
        try:
            with trio.move_on_after(limit_s) as scope:
                await self.bring(cut=not self._log.is_closed)
            if not scope.cancelled_caught:
                return
            problem = f"not done after {limit_s:g} s"
        except Fenced:
            raise
        except SdsError as error:
            problem = str(error)
        _log.warning("%s: what was written is in the journal of this machine only: %s", self._row.name, problem)

    async def run(self) -> None:
        """Until cancelled, or fenced. A pool may get its first object store while this runs."""
        while True:
            seen = self._checkpointer.count
            try:
                if await self._env.run_blocking(lambda: self.is_needed):
                    await self.bring()
            except Fenced as error:
                self._log.fail(error)
                return
            except SdsError as error:
                if self._log.is_closed or self._log.failed is not None:
                    return  # the one who closes it goes on
                _log.warning("%s: not uploaded yet: %s", self._row.name, error)
                await trio.sleep(RETRY_S)
                continue
            await self._checkpointer.wait_newer(seen)
