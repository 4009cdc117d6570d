"""Copies that a reader found bad are healed behind it: reads went on with another copy (R3 of sds.log.reader).

  RP1  note_bad never waits and never fails: it may be called anywhere. The same copy is in the queue once; beyond
       QUEUE_MAX, notes are dropped: a scrub finds them, or the next reader.
  RP2  What was noted is not believed: the copy is read and verified wholly before anything is done about it, and so
       is the one that it is healed from (sds.maintenance.moving).
  RP3  What cannot be healed now stays as it is and is told in an event; the next reader may note it again.
  RP4  Segments that are not sealed yet are left to their writer.
"""

import logging
from collections.abc import Iterable
from typing import Final

import trio

from sds.core.errors import Busy, Missing, SdsError
from sds.log.env import Env
from sds.maintenance.limiter import Limiter
from sds.maintenance.moving import Turn, heal, problem_of
from sds.pool.files import StoredFile, files_of
from sds.pool.pool import Pool
from sds.pool.rows import SegmentRow

QUEUE_MAX: Final = 256
RETRY_S: Final = 5.0
TRIES: Final = 5
_log = logging.getLogger(__name__)


class Repairs:
    def __init__(
        self, pool: Pool, env: Env, turn: Turn, limiter: Limiter | None = None, retry_s: float = RETRY_S
    ) -> None:
        self._pool = pool
        self._env = env
        self._turn = turn
        self._limiter = limiter or Limiter()
        self._retry_s = retry_s
        self._queue: dict[tuple[int, int], str] = {}
        self._wake = trio.Event()
        self.healed = 0
        self.failed = 0

    def note_bad(self, segment_id: int, copy: int, problem: str) -> None:
        """RP1."""
        key = (segment_id, copy)
        if key not in self._queue and len(self._queue) < QUEUE_MAX:
            self._queue[key] = problem
            self._wake.set()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def run(self) -> None:
        """Until cancelled."""
        tries = 0
        while True:
            if not self._queue:
                self._wake = trio.Event()
                await self._wake.wait()
            (segment_id, copy), problem = next(iter(self._queue.items()))
            try:
                await self._mend(segment_id, copy, problem)
            except Busy as error:  # somebody else moves files: our turn comes
                tries += 1
                if tries < TRIES:
                    await trio.sleep(self._retry_s)
                    continue
                _log.warning("segment %#x: a bad copy stays for now: %s", segment_id, error)
            except SdsError as error:
                self.failed += 1
                _log.error("segment %#x: a bad copy stays: %s", segment_id, error)
            tries = 0
            del self._queue[segment_id, copy]

    async def _mend(self, segment_id: int, copy: int, noted: str) -> None:
        while True:
            file = await self._file(segment_id)
            if file is None or copy not in file.copies or copy not in self._pool.backends:
                return
            problem = await problem_of(self._pool, self._env, file, copy, self._limiter)
            if not problem:
                return
            async with self._turn():
                healed = await heal(self._pool, self._env, file, (copy,), self._limiter)
            if not healed.was_changed:
                break
        where = f"{file.name} on {self._pool.backends[copy].url}"
        if healed.problem:
            self.failed += 1
            text = f"{where} is bad ({problem}; noted: {noted}) and could not be healed: {healed.problem}"
            await self._env.run_blocking(self._pool.catalog.add_event, "repair-failed", text)
            _log.error("%s", text)
            return
        self.healed += 1
        await self._env.run_blocking(self._pool.catalog.add_event, "repaired", f"{where} was bad ({problem}): healed")

    async def _file(self, segment_id: int) -> StoredFile | None:
        """RP4. With all segments in it."""
        try:
            row = await self._env.run_blocking(self._pool.catalog.segment, segment_id)
        except Missing:
            return None
        rows: Iterable[SegmentRow] = [row]
        if row.pack:
            family = await self._env.run_blocking(self._pool.catalog.segments_of_family, row.family)
            rows = [other for other in family if other.pack == row.pack]
        found = files_of(rows)
        return found[0] if found else None
