"""The copies of open segments: creating them, writing to all of them, replacing one that failed.

  K1  A failed write, sync or seal is final for that file. The copy is replaced from the stage, and the replacement is
      registered in the catalog, before the caller goes on: nothing is acknowledged on the strength of a bad copy.
  K2  With no place left for a replacement, the copies that are good carry on (the pool is degraded);
      with none good, Failed: the dataset goes read-only.
  K3  A pool that is nearly full keeps a reserve: segments for user data are refused while metadata still gets some.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import replace

import trio

from backends.base import Backend
from sds.core.errors import BackendError, Failed, NoSpace, SdsError
from sds.core.names import SEGMENT_PREFIX
from sds.log.env import Env
from sds.log.open_segment import OpenSegment
from sds.pool.placement import choose, in_tier
from sds.pool.places import is_remote
from sds.pool.policy import Policy
from sds.pool.pool import Pool

RESERVE_SEGMENTS = 8
ROOMY_SEGMENTS = 16
SETTLE_RETRY_S = 2.0
SegmentFactory = Callable[[int, tuple[int, ...]], OpenSegment]
_log = logging.getLogger(__name__)


class Copies:
    """Placement and writing of one dataset's open segments."""

    def __init__(self, pool: Pool, dataset: int, epoch: int, env: Env) -> None:
        self.policy = Policy(pool.copies)
        """Of the dataset; may change at any time, for segments created from then on."""
        self._pool = pool
        self._dataset = dataset
        self._epoch = epoch
        self._env = env
        self._placed = 0

    async def create(self, makers: Sequence[SegmentFactory], reserved: bool) -> list[OpenSegment]:
        """Allocate ids, register them, preallocate all copies: one segment for each maker, or fewer; in order.

        `reserved`: may use the reserve (K3). NoSpace, or the last backend's error: none at all could be had, and
        neither file nor row is left behind.
        """
        bad: dict[int, SdsError] = {}
        while True:
            try:
                places = self._places(len(makers), bad, reserved)
            except NoSpace as error:
                reasons = "; ".join(map(str, bad.values()))
                raise NoSpace(f"{reasons}; and no other place: {error}" if bad else str(error)) from None
            ids = await self._env.run_blocking(
                self._pool.catalog.allocate_segments, self._dataset, self._epoch, places
            )
            segments = [make(*made) for make, made in zip(makers, zip(ids, places, strict=True), strict=False)]
            failed = await self._create_files(segments)
            for segment in segments:
                if segment.id in failed:
                    bad |= failed[segment.id]
                    await self.forget([segment])
            good = [segment for segment in segments if segment.id not in failed]
            if good:
                return good

    def _places(self, count: int, bad: Collection[int], reserved: bool) -> list[tuple[int, ...]]:
        """Backends for up to `count` segments; NoSpace if there is no place for the first."""
        places = [self._choose(bad, reserved)]
        try:
            while len(places) < count and self._is_roomy():
                places.append(self._choose(bad, reserved))
        except NoSpace:
            return places
        return places

    def _is_roomy(self) -> bool:
        """With little room left, segments that are only prepared keep too much of it from everybody."""
        free = sum(one.free_bytes - self._kept(one.backend) for one in self._pool.candidates())
        return free > ROOMY_SEGMENTS * self._pool.segment_size * self.policy.copies

    async def _create_files(self, segments: Sequence[OpenSegment]) -> dict[int, dict[int, SdsError]]:
        """By segment id: what went wrong on which backend."""
        failed: dict[int, dict[int, SdsError]] = {}

        async def one(segment: OpenSegment) -> None:
            errors = await self._each(segment.copies, lambda b: b.create(segment.name, len(segment.view)))
            if errors:
                failed[segment.id] = errors

        async with trio.open_nursery() as nursery:
            for segment in segments:
                nursery.start_soon(one, segment)
        return failed

    async def write(self, segment: OpenSegment, start: int, end: int, sync: bool) -> None:
        """Write the stage's bytes start..end to every copy; with `sync` all before `end` is durable then."""
        data = segment.view[start:end]
        if start == end:
            failed = await self._each(segment.copies, lambda b: b.sync(segment.name)) if sync else {}
        else:
            failed = await self._each(segment.copies, lambda b: b.write(segment.name, start, data, sync))
        if failed:
            await self._replace(segment, failed, end)

    async def seal(self, segment: OpenSegment) -> None:
        """The files, whose content is durable already, are complete: cut to what was used of them."""
        failed = await self._each(segment.copies, lambda b: b.seal(segment.name, segment.tail))
        if failed:
            await self._replace(segment, failed, segment.tail)

    async def settle(self, segment: OpenSegment, is_wanted: Callable[[], bool]) -> None:
        """Return when every copy is where it stays (B12 of backends). What is written is whole and durable in a
        journal: an object store that is away is waited for, as long as that is wanted."""
        told = False
        while is_wanted() and (failed := await self._each(segment.copies, lambda b: b.settle(segment.name))):
            if not told:
                _log.warning("flushes wait for uploads: %s", next(iter(failed.values())))
            told = True
            await trio.sleep(SETTLE_RETRY_S)

    async def settle_all(self) -> None:
        """Return when all files of this dataset that were sealed before are where they stay; the first error if that
        cannot be now."""
        prefix = f"{SEGMENT_PREFIX}{self._dataset:08x}/"
        rows = await self._env.run_blocking(self._pool.catalog.backends)
        remote = tuple(row.id for row in rows if is_remote(row.url))
        failed = await self._each(remote, lambda b: b.settle(prefix))
        for error in failed.values():
            raise error

    async def forget(self, segments: Iterable[OpenSegment]) -> None:
        """Segments that were prepared and not used: rows first, then files."""
        unused = list(segments)
        await self._env.run_blocking(self._pool.catalog.delete_segments, [segment.id for segment in unused])
        for segment in unused:
            await self.discard(segment.copies, segment.name)

    async def discard(self, copies: Iterable[int], name: str) -> None:
        """Delete files that nobody will read. One that cannot be deleted is garbage without a row: harmless."""
        failed = await self._each(tuple(copies), lambda b: b.delete(name))
        for error in failed.values():
            _log.warning("a file was left behind: %s", error)

    async def _each(
        self, copies: tuple[int, ...], operation: Callable[[Backend], Awaitable[None]]
    ) -> dict[int, SdsError]:
        """Do it on every copy at once; the errors of those that failed."""
        failed: dict[int, SdsError] = {}

        async def one(copy: int) -> None:
            try:
                backend = self._pool.backends.get(copy)
                if backend is None:
                    raise BackendError(f"backend {copy} is not there: bring it back")
                await operation(backend)
            except SdsError as error:
                failed[copy] = error

        if len(copies) == 1:
            await one(copies[0])
        else:
            async with trio.open_nursery() as nursery:
                for copy in copies:
                    nursery.start_soon(one, copy)
        return failed

    async def _replace(self, segment: OpenSegment, failed: dict[int, SdsError], end: int) -> None:
        """K1, K2: bring everything before `end` to other backends, durably, in place of the failed copies."""
        for copy, error in failed.items():
            _log.error("copy of segment %#x on backend %d is lost: %s", segment.id, copy, error)
        good = [copy for copy in segment.copies if copy not in failed]
        bad = dict(failed)
        while len(good) < len(segment.copies):
            try:
                new = self._choose({**bad, **dict.fromkeys(good)}, reserved=True, count=1)[0]
            except SdsError:
                break
            wrong = await self._each((new,), lambda b: self._rewrite(b, segment, end))
            if wrong:
                bad |= wrong
                await self.discard([new], segment.name)
            else:
                good.append(new)
        if not good:
            raise Failed(
                f"segment {segment.id:#x} could not be written anywhere ({next(iter(failed.values()))}): "
                "the dataset is read-only now; repair or add a backend, then open it again"
            )
        await self._env.run_blocking(
            self._pool.catalog.set_segment_copies, self._dataset, self._epoch, segment.id, good
        )
        segment.copies = tuple(good)

    async def _rewrite(self, backend: Backend, segment: OpenSegment, end: int) -> None:
        await backend.create(segment.name, len(segment.view))
        await backend.write(segment.name, 0, segment.view[:end], True)
        if segment.sealed and end == segment.tail:
            await backend.seal(segment.name, end)

    def _choose(
        self, excluded: Collection[int], reserved: bool, count: int | None = None
    ) -> tuple[int, ...]:
        """Backends for the next segment. NoSpace says what is missing."""
        size = self._pool.segment_size
        candidates = [c for c in self._pool.candidates() if c.backend not in excluded]
        if not reserved:
            candidates = [replace(c, free_bytes=c.free_bytes - self._kept(c.backend)) for c in candidates]
        self._placed += 1
        wanted = self.policy.copies if count is None else count
        labels = len({candidate.label for candidate in candidates})
        if labels < wanted and self._pool.domains >= wanted:  # degraded (K2): as many copies as those that answer take
            wanted = max(1, labels)
        if self.policy.place:
            candidates = in_tier(candidates, self.policy.place[0], wanted, size)
        return choose(self._dataset << 32 | self._placed, candidates, wanted, size)

    def _kept(self, backend: int) -> int:
        """K3: bytes of a backend that user data may not take."""
        return reserve_bytes(self._pool.backends[backend].usage().total_bytes, self._pool.segment_size)


def reserve_bytes(total_bytes: int, segment_size: int) -> int:
    """K3: of a backend of this size."""
    return min(RESERVE_SEGMENTS * segment_size, max(2 * segment_size, total_bytes // 16))
