"""When a worker gives space back: it sweeps its family (sds.maintenance.sweep), then cleans (sds.maintenance.cleaner).

  W1  After so much log that a sweep is worth its reading: the larger of LOG_BYTES_MIN and a quarter of what the
      family stores; after a big trim; after a snapshot was destroyed or the volume rolled back; when little is free.
  W2  When the pool is full: first a checkpoint, so that what was trimmed or overwritten counts, then a sweep, then
      cleaning. Writers wait meanwhile (`note_full`), until a round has given nothing back; then they get NoSpace.
      Rounds without a result are not repeated at once: pauses grow from PAUSE_MIN_S to PAUSE_MAX_S.
  W3  One at a time; it yields to requests all the time. With room left, cleaning keeps to CLEAN_BYTES_PER_S.
  W4  Cleaning begins and ends at the thresholds of sds.core.victims, by what the survey of the last round found.
  W5  For want of room only as much is cleaned as is missing: what waits dies by itself meanwhile.
"""

import logging
from collections.abc import Callable
from typing import Final

import trio

from sds.core.errors import Busy, Missing, NoSpace, SdsError
from sds.core.victims import Room, Thresholds, is_due
from sds.dataset.dataset import Dataset
from sds.dataset.nodes import Nodes
from sds.log.copies import reserve_bytes
from sds.maintenance.cleaner import Cleaned, Cleaner, Survey
from sds.maintenance.limiter import Limiter
from sds.maintenance.moving import turn_of
from sds.maintenance.plan import stored_bytes
from sds.maintenance.sweep import Swept, sweep_family
from sds.pool.lease import Holder

LOG_BYTES_MIN: Final = 256 << 20
TRIMMED_BLOCKS: Final = (64 << 20) // 4096
TICK_S: Final = 1.0
PAUSE_MIN_S: Final = 1.0
PAUSE_MAX_S: Final = 60.0
FAILURES_MAX: Final = 4
"""Rounds that could not be carried out, one after the other: a backend that fails is found out meanwhile."""
CLEAN_BYTES_PER_S: Final = 200 << 20
SHORT_PART: Final = 0.03
"""With less of the pool free for users than this, cleaning does not wait for anything."""
SHORT_STEP: Final = 8
"""Then a round is due after so many segments of log."""
_log = logging.getLogger(__name__)


class Sweeper:
    def __init__(self, dataset: Dataset, holder: Holder) -> None:
        self._dataset = dataset
        self._turn = trio.Lock()
        self._wake = trio.Event()
        self._full = False
        self._hopeless = False
        self._running = False
        self._changed = False
        self._cleaning = False
        self._swept_at_bytes = 0
        self._threshold_bytes = 0
        """0: not known yet."""
        self._most_blocks = 0
        self._limiter = Limiter(CLEAN_BYTES_PER_S)
        self._cleaner = Cleaner(
            dataset.pool, dataset.row.family, Nodes(dataset.reader, None), dataset.env,
            turn_of(dataset.pool, holder), self._limiter,
        )  # fmt: skip
        self.swept_bytes = 0
        self.cleaned = Cleaned()
        dataset.log.on_full = self.note_full

    def note_full(self) -> bool:
        """A write finds no space. True: let it wait, for there may be some soon (W2)."""
        self._full = True
        self._wake.set()
        return self._running and not self._hopeless

    def note_change(self) -> None:
        """Something was destroyed: likely there is something to sweep."""
        self._changed = True
        self._wake.set()

    async def run(self) -> None:
        """Gives space back when that is due, until cancelled."""
        self._running = True
        try:
            await self._run()
        finally:
            self._running = False

    async def _run(self) -> None:
        pause_s, failures = PAUSE_MIN_S, 0
        while True:
            with trio.move_on_after(TICK_S):
                await self._wake.wait()
            self._wake = trio.Event()
            full, gained = False, None
            try:
                self._threshold_bytes = self._threshold_bytes or await self._due_after()
                if not self._is_due():
                    continue
                full, self._full = self._full, False
                gained = await self._round(full)
            except SdsError as error:
                _log.warning("%s: giving space back: %s", self._dataset.row.name, error)
            failures = failures + 1 if gained is None else 0
            self._hopeless = full and (gained == 0 or failures > FAILURES_MAX)
            if gained is None or self._hopeless:
                self._dataset.log.retry_space()  # those who wait learn that there is none
                await trio.sleep(pause_s)  # W2
                pause_s = min(2 * pause_s, PAUSE_MAX_S)
            else:
                pause_s = PAUSE_MIN_S
                self._full = False  # who found no space during the round looks again, and says so if that is still so
            self._changed |= gained is None

    def _is_due(self) -> bool:
        mapped = self._dataset.map.mapped_blocks
        self._most_blocks = max(self._most_blocks, mapped)
        written = self._dataset.log.appended_bytes - self._swept_at_bytes
        trimmed = self._most_blocks - mapped >= TRIMMED_BLOCKS
        short = written >= SHORT_STEP * self._dataset.pool.segment_size and self._is_short()
        return self._full or self._changed or trimmed or short or written >= self._threshold_bytes

    def _is_short(self) -> bool:
        candidates = self._dataset.pool.candidates()
        pool, free, total = self._dataset.pool, 0, 0
        for one in candidates:
            size = pool.backends[one.backend].usage().total_bytes
            free, total = free + one.free_bytes - reserve_bytes(size, pool.segment_size), total + size
        return free < SHORT_PART * total

    async def _round(self, full: bool) -> int | None:
        """The bytes that came back; None: it could not be tried."""
        gained = 0
        try:
            if full:
                await self._checkpoint()  # takes from the reserve, so only if there is news
            gained += (await self.sweep()).size_bytes
            gained += max(0, (await self.clean(force=full)).freed_bytes)
        except NoSpace as error:  # not even for what makes room: that is no reason to wait
            _log.info("%s: giving space back: %s", self._dataset.row.name, error)
        except SdsError as error:
            _log.warning("%s: giving space back: %s", self._dataset.row.name, error)
            return None
        return gained

    async def _checkpoint(self) -> None:
        """What was trimmed or overwritten counts from now on; without room for that, what counted before."""
        try:
            await self._dataset.newest_root()
        except NoSpace as error:
            _log.info("%s: no room for a checkpoint: %s", self._dataset.row.name, error)

    async def sweep(self) -> Swept:
        dataset = self._dataset
        async with self._turn:
            if self._most_blocks - dataset.map.mapped_blocks >= TRIMMED_BLOCKS or self._changed:
                await self._checkpoint()
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

    async def clean(self, force: bool = False) -> Cleaned:
        """W4; `force`: whatever the thresholds say, as long as it gives room back."""
        done = Cleaned()
        async with self._turn:
            try:
                while True:
                    survey = await self._cleaner.survey()
                    room = self._cleaner.room(survey)
                    self._cleaning = is_due(room, Thresholds(), self._cleaning)
                    if not self._cleaning and not (force and not done.packs):
                        break
                    self._limiter.bytes_per_s = 0 if force or self._is_short() else CLEAN_BYTES_PER_S
                    cleaned = await self._cleaner.clean(survey, enough=self._enough(survey, room))
                    done += cleaned
                    self._note(cleaned)
                    if not cleaned.pays:
                        break
                self._note(small := await self._cleaner.clean(await self._cleaner.survey(), small=True))
                return done + small
            except (Busy, Missing) as error:  # the family changes all the time: the next round sees it as it is then
                _log.info("%s: cleaning is put off: %s", self._dataset.row.name, error)
                return done

    def _enough(self, survey: Survey, room: Room) -> Callable[[], bool]:
        """W5. With a lot of garbage, all of it is worth cleaning."""
        limits = Thresholds()
        if room.garbage_part >= limits.garbage_start:
            return lambda: False
        return lambda: self._cleaner.room(survey).free_part >= limits.free_stop

    def _note(self, cleaned: Cleaned) -> None:
        self.cleaned += cleaned
        self._dataset.reader.forget(set(cleaned.segments))
        self._dataset.log.retry_space()

    async def _due_after(self) -> int:
        """W1."""
        rows = await self._dataset.env.run_blocking(
            self._dataset.pool.catalog.segments_of_family, self._dataset.row.family
        )
        stored = sum(stored_bytes(row, self._dataset.pool.segment_size) for row in rows)
        return max(LOG_BYTES_MIN, stored // 4 // max(1, self._dataset.pool.copies))
