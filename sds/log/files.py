"""The open files of segments, and on which copy a read is carried out.

  SF1  Copies are tried in turn, those that answer soonest first: an error or a bad checksum of one is an error only if
       no other copy can answer.
  SF2  What a cache on this machine answered is not believed twice: before a copy counts as bad it is asked again
       without the cache (`distrust`).
  SF3  `on_damage` is told of a copy that is Corrupt or Missing according to a row that was read after the file had been
       opened anew, while another copy could answer: an old file of a segment that was cleaned or moved is no damage.
  SF4  Bounded: at most FILES_MAX open files; one that is used stays open until it is not.
  SF5  A segment that is cleaned or moved while it is looked for is looked for again where it is then.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Final, TypeVar

from backends.base import Reader
from backends.cache import CachedReader
from sds.core.errors import BackendError, Corrupt, Missing
from sds.core.frame import pool_key
from sds.log.env import Env
from sds.log.relocated import open_member
from sds.pool.files import file_name
from sds.pool.places import is_remote
from sds.pool.pool import Pool, is_faulted
from sds.pool.rows import SegmentRow

T = TypeVar("T")
Ranges = Generator[tuple[int, int], memoryview, T]
"""Yields (offset, length) within a segment, is sent the bytes (or Corrupt if they are not there), returns what it
was after."""
Plan = Callable[[], Ranges[T]]
OnDamage = Callable[[int, int, str], None]
"""Segment, backend of the bad copy, what is wrong."""

FILES_MAX: Final = 512
CHANGES_MAX: Final = 5


class SegmentFiles:
    def __init__(self, pool: Pool, env: Env) -> None:
        self._pool = pool
        self._env = env
        self._key = pool_key(pool.uuid)
        self._users: Counter[Reader] = Counter()
        self._retired: set[Reader] = set()
        self.open: OrderedDict[int, Reader] = OrderedDict()
        """By segment; for reads that do not wait."""
        self.on_damage: OnDamage = lambda segment, copy, problem: None

    async def read(self, segment: int, plan: Plan[T]) -> T:
        """SF1: carry out a plan on the first copy that can."""
        file = self.open.get(segment)
        tried: set[Reader] = set()
        if file is not None:
            tried.add(file)
            try:
                return await self._drive(plan, file)
            except (Corrupt, BackendError, Missing):
                if self.open.get(segment) is file:
                    self._retire(segment)
        row = await self._env.run_blocking(self._pool.catalog.segment, segment)
        for _ in range(CHANGES_MAX):
            errors: dict[int, Exception] = {}
            for copy in self._in_turn(row.copies):
                try:
                    file = await self._open_copy(row, copy, tried)
                    tried.add(file)
                    result = await self._drive(plan, file)
                except (Corrupt, BackendError, Missing) as problem:
                    errors[copy] = problem
                    continue
                self._tell(row, errors)
                return result
            before, row = row, await self._env.run_blocking(self._pool.catalog.segment, segment)
            if replace(row, verified_at=before.verified_at) == before:
                break  # SF5: else it was cleaned or moved while we looked for it
        raise _worst(segment, list(errors.values()))

    def _in_turn(self, copies: tuple[int, ...]) -> list[int]:
        """Local before remote, and what has failed lately last."""

        def rank(copy: int) -> tuple[bool, bool]:
            backend = self._pool.backends.get(copy)
            return backend is None or is_faulted(backend), backend is not None and is_remote(backend.url)

        return sorted(copies, key=rank)

    def _tell(self, row: SegmentRow, errors: dict[int, Exception]) -> None:
        """SF3."""
        for copy, problem in errors.items():
            if isinstance(problem, Corrupt | Missing):
                self.on_damage(row.id, copy, str(problem))

    async def _drive(self, plan: Plan[T], file: Reader) -> T:
        """Carry out a plan; the file stays open meanwhile. SF2."""
        self._users[file] += 1
        try:
            try:
                return await _carry_out(plan(), file)
            except Corrupt:
                if not isinstance(file, CachedReader) or not file.distrust():
                    raise
                return await _carry_out(plan(), file)
        finally:
            self._users[file] -= 1
            if not self._users[file]:
                del self._users[file]
                if file in self._retired:
                    self._retired.remove(file)
                    file.close()

    async def _open_copy(self, row: SegmentRow, copy: int, tried: set[Reader]) -> Reader:
        """The file of this copy; or one that another task has opened meanwhile and that this one has not tried."""
        backend = self._pool.backends.get(copy)
        if backend is None:
            raise BackendError(f"backend {copy}, which holds segment {row.id:#x}, is not there")
        known = self.open.get(row.id)
        if known is not None and known not in tried:
            return known
        file = await backend.open(file_name(row))
        if row.pack:
            try:
                file = await self._open_member(file, row)
            except BaseException:
                file.close()
                raise
        known = self.open.get(row.id)
        if known is not None and known not in tried:
            file.close()
            return known
        if len(self.open) >= FILES_MAX:
            self._retire(next(iter(self.open)))
        self._retire(row.id)
        self.open[row.id] = file
        return file

    async def _open_member(self, pack: Reader, row: SegmentRow) -> Reader:
        """SF2 for the table."""
        try:
            return await open_member(pack, row.base, row, self._key)
        except Corrupt:
            if not isinstance(pack, CachedReader) or not pack.distrust():
                raise
            return await open_member(pack, row.base, row, self._key)

    def _retire(self, segment: int) -> None:
        """Close a file as soon as nobody reads it (SF4)."""
        file = self.open.pop(segment, None)
        if file is not None and self._users[file]:
            self._retired.add(file)
        elif file is not None:
            del self._users[file]
            file.close()

    def forget(self, segments: set[int]) -> None:
        """These segments are gone, or lie elsewhere now."""
        for segment in segments & self.open.keys():
            self._retire(segment)

    def close(self) -> None:
        for segment in list(self.open):
            self._retire(segment)


def _worst(segment: int, problems: list[Exception]) -> Exception:
    if not problems:
        return Corrupt(f"segment {segment:#x} has no copy: restore it from a backup")
    if all(isinstance(problem, Missing) for problem in problems):
        return Corrupt(f"segment {segment:#x} is lost: {problems[-1]}")
    return next(problem for problem in problems if not isinstance(problem, Missing))


async def _carry_out(plan: Ranges[T], file: Reader) -> T:
    try:
        offset, length = next(plan)
        while True:
            data = memoryview(bytearray(length))
            if not file.read_nowait(offset, data):
                try:
                    await file.read(offset, data)
                except Corrupt as too_short:
                    offset, length = plan.throw(too_short)
                    continue
            offset, length = plan.send(data)
    except StopIteration as done:
        result: T = done.value
        return result
