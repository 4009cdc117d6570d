"""Recovery: from the last checkpoint and the log behind it to the newest prefix that can be proven.

    load checkpoint ─▶ read the log in order up to the first gap ─▶ is what was flushed there? ─▶ keep ─▶ publish

  V1  Only segments of the epoch that published the checkpoint are replayed: every later epoch begins by publishing
      one, so whatever else lies behind it is left from a recovery that was cut off, and is forgotten.
  V2  Frames are replayed in sequence; a gap or a frame that does not verify ends the log (P2).
  V3  An operation counts only with its last frame (flag MORE): it is there wholly or not at all.
  V4  If any frame behind the end says that more was durable, acknowledged data is damaged: that is an error
      and nothing is changed. It is never passed over.
  V5  With several copies, or a stage that outlived its worker, the longest valid prefix counts.
  V6  Nothing is changed on the backends before the log was read. What is kept is made durable before
      it is published; recovery cut off at any point can be done again.
  V7  After an import without the journal of the machine that wrote the dataset (journal_lost), what V4 finds is told
      and is no error: segments that were on their way to an object store are gone with that machine.
  V8  A page that a copy has already is not written again: the power may fail, and it may have been flushed.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from backends.base import Backend
from backends.cache import open_original
from sds.core.checkpoint_record import decode_checkpoint
from sds.core.errors import BackendError, BadInput, Corrupt, Missing
from sds.core.frame import CHECKPOINT, DATA, SEAL, TXN, pool_key
from sds.core.names import segment_name
from sds.core.segment import HEAD_SIZE, SegmentHead, decode_head
from sds.core.txn import Operation, decode_txn
from sds.log.env import Env
from sds.log.replay import Frame, Parsed, durable_evidence, parse
from sds.log.stage import Stage
from sds.pool.places import is_remote
from sds.pool.pool import Pool
from sds.pool.rows import SURELY_LOST, CheckpointRef, DatasetRow, SegmentRow

PAGE = 4096
_log = logging.getLogger(__name__)


class CheckpointLost(Corrupt):
    """The log does not lead to the record of the checkpoint that the catalog knows."""


class Mapped(NamedTuple):
    """A DATA frame: blocks first .. first+count of the inode live at consecutive addresses."""

    inode: int
    first_block: int
    blocks: int
    address: int


@dataclass(frozen=True, slots=True)
class Source:
    """One place that a segment can be read from."""

    data: memoryview
    copy: int
    """Backend id; 0: the stage."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A segment of which something counts, and the copies that have to be brought to it."""

    row: SegmentRow
    end: int
    data: memoryview | None
    """What to write to the copies in `behind`; None if there are none."""
    behind: tuple[int, ...]
    blocks: int
    """DATA blocks in it; 0: not known, for only its end was read."""

    @property
    def size_bytes(self) -> int:
        """Of the files, from now on for ever."""
        return self.end + -self.end % PAGE


@dataclass(slots=True)
class Tail:
    """What was found behind the checkpoint."""

    changes: list[Mapped | Operation] = field(default_factory=list)
    sequence: int = 0
    kept: list[Kept] = field(default_factory=list)
    forgotten: list[SegmentRow] = field(default_factory=list)


async def find_tail(pool: Pool, dataset: DatasetRow, stage: Stage, env: Env) -> tuple[DatasetRow, Tail]:
    """As read_tail; with a lost journal from the uploaded checkpoint, if the newest one cannot be had (V7). The row as
    it is then."""
    try:
        return dataset, await read_tail(pool, dataset, stage, env)
    except CheckpointLost as error:
        is_lost = dataset.journal_lost == SURELY_LOST and not pool.missing
        may_have_more = dataset.uploaded is None and not _is_remote_only(pool)
        if not is_lost or may_have_more or dataset.checkpoint == dataset.uploaded:
            raise
        _log.warning("%s: goes back to its uploaded checkpoint: %s", dataset.name, error)
        await env.run_blocking(pool.catalog.go_back_to_uploaded, dataset.id)
        row = await env.run_blocking(pool.catalog.dataset_by_id, dataset.id)
        return row, await read_tail(pool, row, stage, env)


def _is_remote_only(pool: Pool) -> bool:
    """Then what never was uploaded was in the lost journal alone."""
    return all(is_remote(row.url) for row in pool.catalog.backends())


async def read_tail(pool: Pool, dataset: DatasetRow, stage: Stage, env: Env) -> Tail:
    """Read the log behind the checkpoint; changes nothing (V6). Corrupt: see V4."""
    ref = dataset.checkpoint
    if ref is None or ref.segment == 0:
        rows = await env.run_blocking(pool.catalog.segments, dataset.id)
        if rows and dataset.journal_lost and not _is_remote_only(pool):
            raise Corrupt(f"{dataset.name}: its first checkpoint was lost with a journal: nothing of it can be had")
        return Tail(sequence=ref.sequence if ref else 0, forgotten=rows)
    rows = await env.run_blocking(pool.catalog.segments, dataset.id, ref.segment)
    if not rows or rows[0].id != ref.segment:
        raise CheckpointLost(f"the log of {dataset.name} is lost: segment {ref.segment:#x} is not in the catalog")
    reader = _TailReader(pool, dataset, ref, stage, env)
    for row in rows:
        if row.epoch == rows[0].epoch:
            await reader.read(row)
        else:
            reader.tail.forgotten.append(row)  # V1
    return reader.result()


class _TailReader:
    def __init__(self, pool: Pool, dataset: DatasetRow, ref: CheckpointRef, stage: Stage, env: Env) -> None:
        self._pool = pool
        self._env = env
        self._dataset = dataset
        self._ref = ref
        self._key = pool_key(pool.uuid)
        self._survivors = stage.survivors()
        self._start = ref.offset
        self._ended = False
        self._pending: list[Mapped | Operation] = []
        self._checkpoint_seen = False
        self._evidence = 0
        self._proof = ""
        self.tail = Tail(sequence=ref.sequence)

    async def read(self, row: SegmentRow) -> None:
        """Take the next segment of the log in."""
        sources = await self._sources(row)
        if not sources and not self._ended and not self._is_within_reach(row):
            raise BackendError(
                f"{self._dataset.name}: its log goes on in segment {row.id:#x} on backends {row.copies}, "
                "which are missing: bring one of them back"
            )
        parsed = [parse(source.data, row.id, self._key, self._start, self.tail.sequence) for source in sources]
        if self._ended or not parsed:
            self._forget(row, sources)
            return
        best = max(range(len(parsed)), key=lambda index: parsed[index].sequence)  # V5
        if not parsed[best].frames and row.id != self._ref.segment:
            self._forget(row, sources)
            return
        for frame in parsed[best].frames:
            self._take(frame)
        self.tail.sequence = max(self.tail.sequence, parsed[best].sequence)
        self.tail.kept.append(_keep(row, sources, parsed, best, whole=self._start == HEAD_SIZE))
        self._start = HEAD_SIZE
        if not parsed[best].sealed:
            self._ended = True
            self._look_for_evidence(row, sources, parsed[best].end)

    def result(self) -> Tail:
        """The tail, if nothing that was acknowledged is missing (V4)."""
        if self._evidence > self.tail.sequence and self._checkpoint_seen and self._dataset.journal_lost:
            self._tell_loss()
        elif not self._checkpoint_seen and self._dataset.journal_lost:
            raise CheckpointLost(f"{self._dataset.name}: its newest checkpoint is lost with a journal")
        elif self._evidence > self.tail.sequence or not self._checkpoint_seen:
            what = self._proof or f"the checkpoint at {self._ref.sequence}"
            raise Corrupt(
                f"{self._dataset.name}: its log ends at {self.tail.sequence}, but {what} proves that more was flushed: "
                "stored data is damaged; bring back the missing disk, or restore from a copy"
            )
        return self.tail

    def _tell_loss(self) -> None:
        """ST5 of sds.pool.state: what was flushed to a journal that is lost cannot be had; that is no damage."""
        text = (
            f"{self._dataset.name}: the journal of the machine that wrote it is lost, and with it the operations "
            f"{self.tail.sequence + 1} to {self._evidence} at least"
        )
        _log.warning("%s", text)
        self._pool.catalog.add_event("journal-lost", text)

    def _take(self, frame: Frame) -> None:
        header = frame.header
        where = f"segment {frame.address >> 24:#x}"
        if header.kind == DATA:
            self._pending.append(Mapped(header.inode, header.first_block, header.blocks, frame.address))
        elif header.kind == TXN:
            self._pending += decode_txn(bytes(frame.payload), f"TXN frame in {where}")
        elif header.kind == CHECKPOINT:
            record = decode_checkpoint(bytes(frame.payload), f"CHECKPOINT frame in {where}")
            self._checkpoint_seen |= record.sequence == self._ref.sequence and record.root == self._ref.root
        if not header.more and header.kind != SEAL:  # V3; an operation may go on behind the end of a segment
            self.tail.changes += self._pending
            self._pending.clear()

    def _forget(self, row: SegmentRow, sources: list[Source]) -> None:
        """Nothing of it counts. The log may go on behind it: its sequence numbers tell (V2), and a segment that was
        prepared and let go of, but whose row is still there, lies between two that were used."""
        self.tail.forgotten.append(row)
        self._look_for_evidence(row, sources, HEAD_SIZE)

    def _look_for_evidence(self, row: SegmentRow, sources: list[Source], start: int) -> None:
        for source in sources:
            found = durable_evidence(source.data, row.id, self._key, start)
            if found > self._evidence:
                self._evidence, self._proof = found, f"segment {row.id:#x}"

    async def _sources(self, row: SegmentRow) -> list[Source]:
        """The stage if it has the segment (it is never behind a file), else every copy that can be read."""
        head, view = self._survivors.get(row.id, (None, memoryview(b"")))
        if head is not None and self._is_of(head, row):
            return [Source(view, 0)]
        sources, strays, swapped = [], [], ""
        for copy in row.copies:
            backend = self._pool.backends.get(copy)
            data = await read_file(backend, row) if backend is not None else None
            if data is not None:
                head = decode_head(data)
                if head is None or self._is_of(head, row):  # frames prove by themselves where they belong
                    sources.append(Source(data, copy))
                elif await self._is_at_home(head, copy, data):
                    swapped = f"backend {copy} has segment {head.segment:#x} in the place of {row.id:#x}"
                else:
                    strays.append(Source(data, copy))  # its first page never came; what is behind it is evidence (V4)
        if swapped and not sources:
            raise Corrupt(f"{self._dataset.name}: {swapped}: put the right file back, or restore from a copy")
        return sources or strays

    async def _is_at_home(self, head: SegmentHead, copy: int, data: memoryview) -> bool:
        """Is this the file of another segment of this backend, or a copy of it? If not, its head is what a deleted file
        left in room used again; also if that segment has a new file there, in place of a bad one."""
        try:
            row = await self._env.run_blocking(self._pool.catalog.segment, head.segment)
        except Missing:
            return False
        if head.pool != self._pool.uuid or copy not in row.copies or row.pack:
            return False
        own = await read_file(self._pool.backends[copy], row)
        own_head = decode_head(own) if own is not None else None
        if own is None or own_head is None or own_head.segment != head.segment:
            return True
        length = min(len(own), len(data))
        return own[:length] == data[:length]

    def _is_within_reach(self, row: SegmentRow) -> bool:
        return any(copy in self._pool.backends for copy in row.copies)

    def _is_of(self, head: SegmentHead, row: SegmentRow) -> bool:
        """Else the file was never written, in room used again, or it is damaged."""
        wanted = (self._pool.uuid, row.id, row.dataset, row.epoch)
        return (head.pool, head.segment, head.dataset, head.epoch) == wanted


def _keep(row: SegmentRow, sources: Sequence[Source], parsed: Sequence[Parsed], best: int, whole: bool) -> Kept:
    end = parsed[best].end
    good = {s.copy for s, p in zip(sources, parsed, strict=True) if p.sequence == parsed[best].sequence}
    behind = tuple(copy for copy in row.copies if copy not in good)
    blocks = sum(frame.header.blocks for frame in parsed[best].frames) if whole else 0
    return Kept(row, end, sources[best].data[:end] if behind else None, behind, blocks)


async def read_file(backend: Backend, row: SegmentRow) -> memoryview | None:
    """The whole file; None if it is not there, or cannot be read (another copy may do)."""
    name = segment_name(row.dataset, row.id, row.epoch)
    try:
        sizes = [stat.size_bytes for stat in await backend.list(name) if stat.name == name]
        if not sizes:
            return None
        data = memoryview(bytearray(sizes[0]))
        file = await open_original(backend, name)  # a damaged cache must not look like the end of the log
        try:
            await file.read(0, data)
        finally:
            file.close()
    except Missing:
        return None
    except (BackendError, Corrupt):
        if len(row.copies) == 1:
            raise
        return None
    return data


async def make_durable(pool: Pool, tail: Tail, epoch: int, env: Env) -> None:
    """Bring what counts to every copy and sync it; cut off what does not count. Can be done again (V6)."""
    for kept in tail.kept:
        good = []
        for copy in kept.row.copies:
            backend = pool.backends.get(copy)
            if backend is not None and await _bring(backend, kept, copy in kept.behind):
                good.append(copy)
        if not good:
            raise BackendError(f"segment {kept.row.id:#x} cannot be written: bring its backend back")
        # Copies of sealed segments are the business of sds.maintenance.moving, perhaps just now.
        if tuple(good) != kept.row.copies and not kept.row.sealed:
            await env.run_blocking(
                pool.catalog.set_segment_copies, kept.row.dataset, epoch, kept.row.id, good
            )


async def _bring(backend: Backend, kept: Kept, is_behind: bool) -> bool:
    """One copy; False if it is of no use any more."""
    name = segment_name(kept.row.dataset, kept.row.id, kept.row.epoch)
    size = kept.size_bytes
    try:
        sizes = [stat.size_bytes for stat in await backend.list(name) if stat.name == name]
        if not sizes and (kept.row.sealed or not is_behind):
            return False
        if not sizes:
            await backend.create(name, size)
        elif sizes[0] < size:
            return False
        if is_behind and not await _complete(backend, name, kept):
            return False
        if not kept.row.sealed:
            await backend.sync(name)
        if not kept.row.sealed:
            await backend.seal(name, size)
    except (BackendError, BadInput, Corrupt, Missing):
        if len(kept.row.copies) == 1:
            raise
        return False
    return True


async def _complete(backend: Backend, name: str, kept: Kept) -> bool:
    """Write the pages that differ (V8). False: the file was sealed and is damaged, it takes no writes any more."""
    assert kept.data is not None
    wanted = bytearray(kept.size_bytes)
    wanted[: kept.end] = kept.data
    there = bytearray(kept.size_bytes)
    file = await backend.open(name)
    try:
        await file.read(0, memoryview(there))
    finally:
        file.close()
    ranges = different_pages(there, wanted)
    if ranges and kept.row.sealed:
        return False
    for start, end in ranges:
        await backend.write(name, start, memoryview(wanted)[start:end])
    return True


def different_pages(one: bytearray, other: bytearray) -> list[tuple[int, int]]:
    """(start, end) of the runs of pages that are not the same."""
    runs: list[tuple[int, int]] = []
    for start in range(0, len(one), PAGE):
        if one[start : start + PAGE] != other[start : start + PAGE]:
            if runs and runs[-1][1] == start:
                runs[-1] = runs[-1][0], start + PAGE
            else:
                runs.append((start, start + PAGE))
    return runs
