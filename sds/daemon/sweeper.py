"""When a worker sweeps its family (sds.maintenance.sweep).

  W1  After so much log that a sweep is worth its reading: the larger of LOG_BYTES_MIN and a quarter of what the
      family stores; after a big trim; after a snapshot was destroyed or the volume rolled back.
  W2  When the pool is full: first a checkpoint, so that what was trimmed or overwritten counts, then a sweep. A sweep
      that found nothing is not repeated at once: pauses grow from PAUSE_MIN_S to PAUSE_MAX_S.
  W3  One sweep at a time; it yields to requests all the time.
"""

import logging
from typing import Final

import trio

from sds.core.errors import Missing, SdsError
from sds.dataset.dataset import Dataset
from sds.dataset.nodes import Nodes
from sds.maintenance.plan import stored_bytes
from sds.maintenance.sweep import Swept, sweep_family

LOG_BYTES_MIN: Final = 256 << 20
TRIMMED_BLOCKS: Final = (64 << 20) // 4096
TICK_S: Final = 1.0
PAUSE_MIN_S: Final = 1.0
PAUSE_MAX_S: Final = 60.0
_log = logging.getLogger(__name__)


class Sweeper:
    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._turn = trio.Lock()
        self._wake = trio.Event()
        self._full = False
        self._changed = False
        self._swept_at_bytes = 0
        self._threshold_bytes = LOG_BYTES_MIN
        self._most_blocks = 0
        self.swept_bytes = 0
        dataset.log.on_full = self.note_full

    def note_full(self) -> None:
        """A write was refused for want of space."""
        self._full = True
        self._wake.set()

    def note_change(self) -> None:
        """Something was destroyed: likely there is something to sweep."""
        self._changed = True
        self._wake.set()

    async def run(self) -> None:
        """Sweeps when it is due, until cancelled."""
        pause_s = PAUSE_MIN_S
        self._threshold_bytes = await self._due_after()
        while True:
            with trio.move_on_after(TICK_S):
                await self._wake.wait()
            self._wake = trio.Event()
            if not self._is_due():
                continue
            try:
                swept = await self._sweep_when_full() if self._full else await self.sweep()
            except SdsError as error:
                swept = None
                _log.warning("%s: sweep: %s", self._dataset.row.name, error)
            if swept is None or (self._full and not swept.segments):
                await trio.sleep(pause_s)  # W2
                pause_s = min(2 * pause_s, PAUSE_MAX_S)
            else:
                pause_s = PAUSE_MIN_S
            self._full = False
            self._changed |= swept is None

    def _is_due(self) -> bool:
        mapped = self._dataset.map.mapped_blocks
        self._most_blocks = max(self._most_blocks, mapped)
        written = self._dataset.log.appended_bytes - self._swept_at_bytes
        trimmed = self._most_blocks - mapped >= TRIMMED_BLOCKS
        return self._full or self._changed or trimmed or written >= self._threshold_bytes

    async def _sweep_when_full(self) -> Swept:
        """W2. A checkpoint takes from the reserve, so only if there is something to publish."""
        await self._dataset.newest_root()
        return await self.sweep()

    async def sweep(self) -> Swept:
        dataset = self._dataset
        async with self._turn:
            if self._most_blocks - dataset.map.mapped_blocks >= TRIMMED_BLOCKS or self._changed:
                await dataset.newest_root()
            self._swept_at_bytes = dataset.log.appended_bytes
            self._most_blocks = dataset.map.mapped_blocks
            self._changed = False
            try:
                swept = await sweep_family(
                    dataset.pool, dataset.row.family, Nodes(dataset.reader, None), dataset.env
                )
            except Missing:
                swept = Swept()  # another one swept beside us: a tree we walked is gone with its dataset
            if swept.segments:
                dataset.reader.forget(set(swept.ids))
                dataset.log.retry_space()
                self.swept_bytes += swept.size_bytes
            self._threshold_bytes = await self._due_after()
            return swept

    async def _due_after(self) -> int:
        """W1."""
        rows = await self._dataset.env.run_blocking(
            self._dataset.pool.catalog.segments_of_family, self._dataset.row.family
        )
        stored = sum(stored_bytes(row, self._dataset.pool.segment_size) for row in rows)
        return max(LOG_BYTES_MIN, stored // 4 // max(1, self._dataset.pool.copies))
