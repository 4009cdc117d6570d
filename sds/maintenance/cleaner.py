"""The cleaner: live frames of half-dead files are packed together, and the files go. Beside running writers.

    read the catalog (T) ─▶ count what is alive ─▶ choose victims ─▶ mark exactly which of their frames are alive
    ─▶ write them into a pack ─▶ every copy of it is where it stays ─▶ the rows change, if the family's generation and
    the rows are still the same ─▶ backup of the catalog ─▶ the old files go

  CL1  What is alive is what SW1 and SW2 of sds.maintenance.sweep say, for frames instead of segments; SW3 to SW6 hold
       for them as well, for an address never changes. Segments that a replay may read (SW2) are no victims.
  CL2  Frames are taken from a copy in which all live ones of that file verify, each under its own address; what is
       dead is not looked at. A frame is copied bit by bit (PK1 of sds.core.pack), or, if only some of its blocks are
       alive, made smaller under the same address (SK1 of shrink.py).
  CL3  The old files are deleted only after the pack is durable where it stays on as many backends as it was placed on,
       the rows say so, and a backup of the catalog that no longer needs the old files is durable (SW7).
  CL4  The rows of a batch change in one transaction or not at all (FI2 of sds.pool.files): a clone, rollback or destroy
       meanwhile, or another cleaner, makes it Busy; the pack is deleted and nothing has happened.
  CL5  Cut off at any point it leaves a file without a row at most. After an import the oldest generation of a segment
       counts, which has all that a later one has.
  CL6  Bounded: one file and one pack in memory; at most BATCHES_MAX packs for one marking.
"""

import logging
import mmap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sds.core.errors import Busy, NoSpace, SdsError
from sds.core.names import pack_name
from sds.core.pack import BuiltPack, MemberHead, PackBuilder, PackHead
from sds.core.victims import FileUse, Goal, Room, cap_bytes, choose, choose_small
from sds.dataset.nodes import Nodes
from sds.log.copies import reserve_bytes
from sds.log.env import Env
from sds.maintenance.limiter import Limiter
from sds.maintenance.live import Live, live_frames
from sds.maintenance.marks import Counts, LiveFrames
from sds.maintenance.moving import Turn, delete_from, read_whole, write_all
from sds.maintenance.plan import is_replayed, replay_starts
from sds.maintenance.scratch import Scratch
from sds.maintenance.sweep import Family, read_family
from sds.pool.files import Packed, StoredFile, files_of
from sds.pool.placement import choose as choose_places
from sds.pool.policy import Policy, policy_of
from sds.pool.pool import Pool
from sds.pool.rows import SegmentRow

BATCHES_MAX: Final = 16
WORTH_PART: Final = 0.05
BLOCK_BYTES: Final = 4096 + 64
"""Of a block in a segment of which is not known how many it has."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cleaned:
    packs: int = 0
    files: int = 0
    """Deleted."""
    read_bytes: int = 0
    written_bytes: int = 0
    """One copy."""
    freed_bytes: int = 0
    """One copy, less what was written."""
    segments: frozenset[int] = frozenset()
    """That lie elsewhere now."""

    @property
    def pays(self) -> bool:
        """Whether another round is worth it. What was overwritten since the last checkpoint does not count as garbage
        yet, so a round may give back less than the survey hoped for, time and again."""
        return self.files > 0 and self.freed_bytes >= WORTH_PART * self.read_bytes

    def __add__(self, other: "Cleaned") -> "Cleaned":
        return Cleaned(
            self.packs + other.packs, self.files + other.files, self.read_bytes + other.read_bytes,
            self.written_bytes + other.written_bytes, self.freed_bytes + other.freed_bytes,
            self.segments | other.segments,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Survey:
    """What a family stores, and how much of it is alive, at one point in time."""

    family: Family
    uses: tuple[FileUse, ...]
    """Of the files that may be cleaned."""
    stored_bytes: int
    live_bytes: int
    """Estimates, one copy; what cannot be cleaned now counts as alive."""


class Cleaner:
    def __init__(self, pool: Pool, family: int, nodes: Nodes, env: Env, turn: Turn, limiter: Limiter) -> None:
        self._pool = pool
        self._family = family
        self._nodes = nodes
        self._env = env
        self._turn = turn
        self._limiter = limiter
        self._scratch = Scratch()

    async def survey(self) -> Survey:
        found = await self._env.run_blocking(read_family, self._pool, self._family)
        counts = Counts(self._nodes)
        for root in found.roots:
            await counts.add(root)
        starts = replay_starts(found.datasets, found.is_remote)
        newest = max((row.pack or row.id for row in found.segments), default=0)
        uses, stored, live = [], 0, 0
        for file in files_of(found.segments):
            alive = sum(_live_bytes(row, counts.found[row.id]) for row in file.rows)
            stored += file.size_bytes
            if found.has_pending or any(is_replayed(row, starts) for row in file.rows):
                live += file.size_bytes
                continue
            live += alive
            age = (newest - (file.pack or file.rows[0].id)) * self._pool.segment_size
            uses.append(FileUse(file.name, file.size_bytes, alive, age, len(file.rows)))
        return Survey(found, tuple(uses), stored, live)

    def room(self, survey: Survey) -> Room:
        """What is free for users: without the reserve."""
        free = total = 0
        for backend in self._pool.backends.values():
            usage = backend.usage()
            free += max(0, usage.free_bytes - reserve_bytes(usage.total_bytes, self._pool.segment_size))
            total += usage.total_bytes
        return Room(survey.stored_bytes, survey.live_bytes, free, total)

    async def clean(self, survey: Survey, small: bool = False, enough: Callable[[], bool] = lambda: False) -> Cleaned:
        """Up to BATCHES_MAX packs, or until it is enough. `small`: pack small files, whatever garbage they have. Busy:
        all changed meanwhile."""
        chosen = self._choose(survey, small, BATCHES_MAX)
        done = Cleaned()
        if not chosen:
            return done
        files = {file.name: file for file in files_of(survey.family.segments)}
        victims = [[files[use.name] for use in batch] for batch in chosen]
        marks = LiveFrames(self._nodes, [row.id for batch in victims for file in batch for row in file.rows])
        for root in survey.family.roots:
            await marks.add(root)
        try:
            for batch in victims:
                if enough():
                    break
                async with self._turn():
                    done += await self._clean_batch(survey.family, batch, marks, small)
        finally:
            self._scratch.drop()
        return done

    def _choose(self, survey: Survey, small: bool, batches: int) -> list[list[FileUse]]:
        goal = Goal(self._pool.segment_size, cap_bytes(survey.live_bytes))
        left = list(survey.uses)
        chosen: list[list[FileUse]] = []
        while len(chosen) < batches:
            batch = choose_small(left, goal) if small else choose(left, goal)
            if not batch:
                break
            chosen.append(batch)
            names = {use.name for use in batch}
            left = [use for use in left if use.name not in names]
        return chosen

    async def _clean_batch(
        self, family: Family, batch: Sequence[StoredFile], marks: LiveFrames, small: bool
    ) -> Cleaned:
        """CL2 to CL4. What that would give nothing back is left alone: its estimate was wrong, and would be again."""
        taken, frames = await self._collect(batch, marks)
        if not taken:
            return Cleaned()
        pack_id = await self._env.run_blocking(self._pool.catalog.new_pack_id)
        built = await self._env.run_blocking(self._build, pack_id, taken, frames) if frames else None
        del frames
        read = sum(file.size_bytes for file in taken)
        if built is not None and not small and len(built.data) > (1 - WORTH_PART) * read:
            return Cleaned()
        expected = (family.id, family.generation)
        copies: list[int] = []
        members: list[Packed] = []
        if built is not None:
            members = [Packed(one.segment, one.base, one.size_bytes, one.blocks) for one in built.members]
            copies = await self._write(pack_id, taken, built, _policy(self._pool, family))
        try:
            await self._env.run_blocking(
                self._pool.catalog.pack_segments, expected, taken, pack_id, copies, members
            )
        except Busy:
            await self._delete(pack_name(self._family, pack_id), copies)
            raise
        await self._pool.backup()
        for file in taken:
            await self._delete(file.name, file.copies)
        written = len(built.data) if built is not None else 0
        moved = frozenset(row.id for file in taken for row in file.rows)
        return Cleaned(int(built is not None), len(taken), read, written, read - written, moved)

    async def _collect(
        self, batch: Sequence[StoredFile], marks: LiveFrames
    ) -> tuple[list[StoredFile], list[Live]]:
        """The files whose live frames fit into one pack, the best first, and these frames in the order of a scan."""
        room = PackRoom(self._pool.segment_size)
        taken: list[StoredFile] = []
        frames: list[Live] = []
        for file in batch:
            found: list[Live] | None = []
            if any(marks.frames[row.id] for row in file.rows):
                found = await self._find(file, marks)
            if found is None:
                continue
            if not room.take(found):
                break
            taken.append(file)
            frames += found
        return taken, sorted(frames)

    async def _find(self, file: StoredFile, marks: LiveFrames) -> list[Live] | None:
        """CL2; None: no copy will do."""
        bad = []
        for copy in file.copies:
            try:
                data = await read_whole(self._pool, file, copy, self._limiter, self._scratch)
                return await self._env.run_blocking(live_frames, file, data, marks.frames, self._pool.uuid)
            except SdsError as error:
                bad.append(str(error))
        _log.warning("%s cannot be cleaned: %s", file.name, "; ".join(bad))
        return None

    def _build(self, pack_id: int, files: Sequence[StoredFile], frames: Sequence[Live]) -> BuiltPack:
        """Page-aligned memory, so that it can be written past the page cache."""
        head = PackHead(self._pool.uuid, self._family, pack_id)
        rows = [row for file in files for row in file.rows]
        members = [MemberHead(row.id, row.dataset, row.epoch, row.generation + 1) for row in rows]
        builder = PackBuilder(head, members, memoryview(mmap.mmap(-1, self._pool.segment_size)))
        for live in frames:
            builder.add(live.segment, live.old_offset, memoryview(live.frame))
        return builder.finish()

    async def _write(self, pack_id: int, files: Sequence[StoredFile], built: BuiltPack, policy: Policy) -> list[int]:
        """The copies of the pack: as many as the policy asks for, or as the backends that answer can take; never fewer
        than the best of the files had."""
        name = pack_name(self._family, pack_id)
        size = len(built.data)
        candidates = self._pool.candidates()
        wanted = min(policy.copies, max(1, len({one.label for one in candidates})))
        wanted = max(wanted, *(sum(copy in self._pool.backends for copy in file.copies) for file in files))
        places = choose_places(pack_id, candidates, wanted, size)
        rows = tuple(replace(files[0].rows[0], pack=pack_id, size_bytes=size) for _ in (0,))
        added, problems = await write_all(self._pool, StoredFile(name, rows), places, built.data, self._limiter)
        if len(added) == len(places):
            return added
        await self._delete(name, added)
        raise NoSpace(f"pack {name} could not be written: {'; '.join(problems)}")


    async def _delete(self, name: str, copies: Iterable[int]) -> None:
        for copy in copies:
            backend = self._pool.backends.get(copy)
            if backend is not None:
                await delete_from(backend, name)


class PackRoom:
    """Whether frames fit into one pack, before it is built: the builder's own arithmetic, from above."""

    def __init__(self, pack_bytes: int) -> None:
        self._free = pack_bytes - 2 * 4096

    def take(self, frames: Sequence[Live]) -> bool:
        members = len({live.segment for live in frames})
        need = sum([-(-len(live.frame) // 64) * 64 + 12 for live in frames]) + members * (64 + 64 + 16)
        if need > self._free:
            return False
        self._free -= need
        return True


def _live_bytes(row: SegmentRow, addresses: int) -> int:
    each = min(row.size_bytes / row.blocks, BLOCK_BYTES) if row.blocks else BLOCK_BYTES  # nodes count as blocks, too
    return min(row.size_bytes, int(addresses * each))


def _policy(pool: Pool, family: Family) -> Policy:
    """The strictest of the family's datasets."""
    policies = [policy_of(row.properties, pool.copies) for row in family.datasets] or [Policy(pool.copies)]
    return max(policies, key=lambda policy: policy.copies)
