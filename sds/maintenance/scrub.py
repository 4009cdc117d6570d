"""Every copy of every sealed file is read and verified; what is bad is healed from a copy that is good.

  SC1  Files go by the time of their last verification, the oldest first. A file is marked as verified only when every
       copy in its row was read in this scrub and is good, or was healed.
  SC2  Resumable: files verified since the scrub began are not read again; its beginning and counters are in the
       catalog (progress `scrub`), and, once it has ended, its result (`scrub-result`).
  SC3  What a sweep, the cleaner or a mover changed meanwhile is no finding: the row is read again before anything is
       called bad.
  SC4  Every finding is an event in the catalog, counted, and in the result. A file without any good copy is told with
       the datasets that may need it, and left as it is.
  SC5  A backend that does not answer, or has lost its label, says nothing about its copies: they are counted as not
       reached, and nothing is written there.
  SC6  Labels and backups of the catalog are verified, too. A damaged backup goes after a new one is durable; a
       damaged label is written anew; a label that is absent or foreign is only told.
  SC7  FILES_MAX files at once, one copy of each in memory: that keeps a disk busy while the last ones are verified.
"""

import json
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Final, Literal

import trio

from sds.core.errors import BackendError, Corrupt, Missing, SdsError
from sds.log.env import Env
from sds.maintenance.limiter import Limiter
from sds.maintenance.moving import Turn, heal, is_unchanged, problem_of
from sds.maintenance.scratch import Scratch
from sds.pool.backup import PREFIX, generations
from sds.pool.files import StoredFile, files_of
from sds.pool.label import LABEL, LABEL_BYTES_MAX, Label, decode_label, write_label
from sds.pool.pool import Pool, check_label
from sds.pool.rows import BackendRow
from sds.pool.state import STATE_BYTES_MAX, state_generation

FILES_MAX: Final = 4
SAVE_EVERY_FILES: Final = 64
PROGRESS: Final = "scrub"
RESULT: Final = "scrub-result"
TRIES: Final = 3
Outcome = Literal["healed", "unhealed", "lost"]


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    backend: str
    """URL; empty: all."""
    problem: str
    outcome: Outcome
    datasets: tuple[str, ...] = ()
    """Of a lost file: who may need it."""

    def __str__(self) -> str:
        needed = f"; needed by {', '.join(self.datasets) or 'destroyed datasets'}" if self.outcome == "lost" else ""
        return f"{self.outcome}: {self.name}{f' on {self.backend}' if self.backend else ''}: {self.problem}{needed}"


@dataclass(slots=True)
class Counters:
    """What the catalog keeps of a scrub under way, and of the last that ended."""

    started_at: int
    ended_at: int = 0
    files: int = 0
    copies: int = 0
    size_bytes: int = 0
    healed: int = 0
    unhealed: int = 0
    lost: int = 0
    not_reached: int = 0
    """Copies whose backend did not answer."""


@dataclass(frozen=True, slots=True)
class Scrubbed:
    counters: Counters
    was_resumed: bool
    findings: list[Finding] = field(default_factory=list)
    """Of this run."""

    @property
    def is_sound(self) -> bool:
        return not self.counters.unhealed and not self.counters.lost


@dataclass(frozen=True, slots=True)
class Step:
    """Of this run, for who waits."""

    done_bytes: int
    total_bytes: int
    findings: int


Report = Callable[[Step], None]


def last_result(progress: str | None) -> Counters | None:
    """What set_progress kept under PROGRESS or RESULT."""
    return None if progress is None else Counters(**json.loads(progress))


class Scrub:
    def __init__(
        self, pool: Pool, env: Env, turn: Turn, clock: Callable[[], float], limiter: Limiter,
        report: Report = lambda step: None,
    ) -> None:  # fmt: skip
        self._pool = pool
        self._env = env
        self._turn = turn
        self._clock = clock
        self._limiter = limiter
        self._report = report
        self._counters = Counters(0)
        self._findings: list[Finding] = []
        self._queue: deque[StoredFile] = deque()
        self._silent: set[int] = set()
        """Backends that do not answer (SC5)."""
        self._done_bytes = self._total_bytes = 0

    async def run(self, anew: bool = False) -> Scrubbed:
        """`anew`: even if one that was interrupted could go on."""
        catalog = self._pool.catalog
        kept = None if anew else last_result(await self._env.run_blocking(catalog.progress, PROGRESS))
        files = files_of(await self._env.run_blocking(catalog.all_segments))
        newest = max((row.verified_at for file in files for row in file.rows), default=0)
        if kept is not None:  # what could not be healed was not marked as verified: it is found again
            kept = replace(kept, unhealed=0, lost=0, not_reached=0)
        self._counters = kept or Counters(max(int(self._clock()), newest + 1))
        await self._save(PROGRESS)
        for row in await self._env.run_blocking(catalog.backends):
            await self._check_backend(row)
        pending = [file for file in files if _verified_at(file) < self._counters.started_at]
        self._queue.extend(sorted(pending, key=lambda file: (_verified_at(file), file.rows[0].id)))  # SC1
        self._total_bytes = sum(self._size(file) for file in pending)
        async with trio.open_nursery() as nursery:
            for _ in range(FILES_MAX):
                nursery.start_soon(self._work)
        self._counters.ended_at = max(int(self._clock()), self._counters.started_at)
        await self._save(RESULT)
        await self._env.run_blocking(catalog.set_progress, PROGRESS, None)
        return Scrubbed(self._counters, kept is not None, self._findings)

    async def _work(self) -> None:
        scratch = Scratch()
        while self._queue:
            file = self._queue.popleft()
            await self._verify(file, scratch)
            self._counters.files += 1
            self._done_bytes += self._size(file)
            self._report(Step(self._done_bytes, self._total_bytes, len(self._findings)))
            if self._counters.files % SAVE_EVERY_FILES == 0:
                await self._save(PROGRESS)

    def _size(self, file: StoredFile) -> int:
        return file.size_bytes * sum(copy in self._pool.backends for copy in file.copies)

    async def _save(self, name: str) -> None:
        await self._env.run_blocking(self._pool.catalog.set_progress, name, json.dumps(asdict(self._counters)))

    # -- files -------------------------------------------------------------------------------------------------------

    async def _verify(self, file: StoredFile, scratch: Scratch) -> None:
        for _ in range(TRIES):
            bad, good, silent = await self._look(file, scratch)
            if not bad:
                self._count(file, good, silent)
                await self._mark(file, silent)
                return
            if await is_unchanged(self._pool, self._env, file) and await self._mend(file, bad, good, silent):
                self._count(file, good + len(bad), silent)
                return
            now = await self._now(file)  # SC3
            if now is None:
                return
            file = now

    def _count(self, file: StoredFile, copies: int, silent: int) -> None:
        self._counters.copies += copies
        self._counters.size_bytes += copies * file.size_bytes
        self._counters.not_reached += silent

    async def _mark(self, file: StoredFile, silent: int) -> None:
        """SC1."""
        if not silent:
            at = max(int(self._clock()), self._counters.started_at)
            await self._env.run_blocking(self._pool.catalog.set_verified, file, at)

    async def _look(self, file: StoredFile, scratch: Scratch) -> tuple[dict[int, str], int, int]:
        """(what is wrong with the bad copies, how many are good, how many could not be reached)."""
        bad: dict[int, str] = {}
        good = silent = 0
        for copy in file.copies:
            if copy in self._silent or copy not in self._pool.backends:
                silent += 1
                continue
            try:
                problem = await problem_of(self._pool, self._env, file, copy, self._limiter, scratch)
            except BackendError as error:  # SC5
                self._silent.add(copy)
                silent += 1
                url = self._pool.backends[copy].url
                await self._tell(Finding("all of its copies", url, f"cannot be verified now: {error}", "unhealed"))
                continue
            if problem:
                bad[copy] = problem
            else:
                good += 1
        return bad, good, silent

    async def _now(self, file: StoredFile) -> StoredFile | None:
        """The same file by the catalog as it is now; None: it is gone, or on its way to be."""
        rows = []
        for row in file.rows:
            try:
                rows.append(await self._env.run_blocking(self._pool.catalog.segment, row.id))
            except Missing:
                return None
        return next((found for found in files_of(rows) if found.name == file.name), None)

    async def _mend(self, file: StoredFile, bad: dict[int, str], good: int, silent: int) -> bool:
        """SC4. False: somebody changed the file meanwhile."""
        if not good and not silent:
            problem = "; ".join(bad.values())
            await self._tell(Finding(file.name, "", problem, "lost", await self._needed_by(file)))
            return True
        if not good:
            what = f"{'; '.join(bad.values())}; its other copies are on backends that do not answer"
            await self._tell(Finding(file.name, "", what, "unhealed", await self._needed_by(file)))
            return True
        try:
            async with self._turn():
                healed = await heal(self._pool, self._env, file, tuple(bad), self._limiter)
        except SdsError as error:
            await self._tell_all(file, bad, "unhealed", str(error))
            return True
        if healed.was_changed:
            return False
        await self._tell_all(file, bad, "unhealed" if healed.problem else "healed", healed.problem)
        if not healed.problem:
            await self._mark(healed.file, silent)
        return True

    async def _needed_by(self, file: StoredFile) -> tuple[str, ...]:
        rows = await self._env.run_blocking(self._pool.catalog.datasets_of_family, file.family)
        return tuple(f"{self._pool.name}/{row.name}" for row in rows)

    async def _tell_all(self, file: StoredFile, bad: dict[int, str], outcome: Outcome, why: str) -> None:
        for copy, problem in bad.items():
            text = f"{problem}; {why}" if why else problem
            await self._tell(Finding(file.name, self._pool.backends[copy].url, text, outcome))

    async def _tell(self, finding: Finding) -> None:
        """SC4."""
        self._findings.append(finding)
        setattr(self._counters, finding.outcome, getattr(self._counters, finding.outcome) + 1)
        await self._env.run_blocking(self._pool.catalog.add_event, f"scrub-{finding.outcome}", str(finding))

    # -- labels and backups --------------------------------------------------------------------------------------------

    async def _check_backend(self, row: BackendRow) -> None:
        """SC6."""
        backend = self._pool.backends.get(row.id)
        if backend is None:
            return
        try:
            await self._check_label(row)
            for generation in await generations(backend):
                await self._check_backup(row, generation)
        except SdsError as error:
            await self._tell(Finding("label or catalog", row.url, str(error), "unhealed"))

    async def _check_label(self, row: BackendRow) -> None:
        backend = self._pool.backends[row.id]
        data = await backend.get(LABEL, LABEL_BYTES_MAX)
        try:
            label = decode_label(data, row.url)
        except Corrupt as error:
            mine = Label(self._pool.uuid.hex(), self._pool.name, row.uuid, self._pool.row.created_at)
            await write_label(backend, mine)
            await self._tell(Finding("label", row.url, str(error), "healed"))
        else:
            check_label(label, self._pool.row, row)

    async def _check_backup(self, row: BackendRow, generation: int) -> None:
        backend = self._pool.backends[row.id]
        name = f"{PREFIX}{generation:016x}"
        try:
            found = state_generation(await backend.get(name, STATE_BYTES_MAX))
            problem = "" if found == generation else f"is backup {found:x}"
        except Corrupt as error:
            problem = str(error)
        except Missing:
            return  # it was pruned: a newer one is there
        if problem:
            await self._pool.backup()
            await backend.delete(name)
            await self._tell(Finding(name, row.url, problem, "healed"))


def _verified_at(file: StoredFile) -> int:
    return min(row.verified_at for row in file.rows)
