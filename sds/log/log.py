"""The log of an open dataset: appends are memory operations, everything else happens behind them.

  L1  append is synchronous: when it returns an address, the frame is in the stage and survives a kill of the process.
  L2  Sequence numbers rise by one from frame to frame, over all segments.
  L3  durable_sequence <= sequence. It rises only when every copy of every segment up to there was synced.
  L4  Bounded: without a free slot or a prepared segment, append returns 0 and the caller waits (backpressure).
  L5  A slot is used again only when its segment is durable on every copy. Until then the segment can be rewritten
      from it (sds.log.copies K1).
  L6  Segments are used in the order of their ids: the order of the log is the order of ids.
  L7  After an error that could not be repaired `failed` is set, for ever: nothing is appended or acknowledged any more.

    append ──▶ [open segment in its slot] ──drain──▶ copies ──sync──▶ durable ──▶ slot is cache ──▶ slot is free
                  ▲ prepared segments (file preallocated, so ENOSPC is known before the ack)
"""

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from sds.core.errors import Failed, NoSpace, SdsError
from sds.core.frame import BLOCKS, HEADER_SIZE, Buffer, pool_key
from sds.log.copies import Copies
from sds.log.env import Env
from sds.log.open_segment import PAGE, OpenSegment
from sds.log.slots import Slots
from sds.log.stage import Stage
from sds.pool.pool import Pool
from sds.pool.rows import Sealed

DRAIN_MAX = 8 << 20
RETRY_FULL_S = 1.0
SETTLING_MAX = 4  # with `settles`: so many segments on their way, and the next flush waits for company


class Log:
    """Use: `async with trio.open_nursery() as n: await n.start(log.run)`; then append, flush; `close` ends `run`."""

    def __init__(
        self, pool: Pool, dataset: int, epoch: int, stage: Stage, env: Env, sequence: int, previous: int
    ) -> None:
        self.copies = Copies(pool, dataset, epoch, env)
        self._pool = pool
        self._dataset = dataset
        self._epoch = epoch
        self._slots = Slots(stage)
        self._wanted_ready = max(1, stage.slot_count // 2)
        self._key = pool_key(pool.uuid)
        self._previous = previous
        self._ready: deque[OpenSegment] = deque()
        self._order: deque[OpenSegment] = deque()
        self._open: OpenSegment | None = None
        self._full: NoSpace | None = None
        self._keeper_done = trio.Event()
        self._urgent_waiters = self._sync_requested = self._closed_bytes = 0
        self._closing = self._resting = self._stopped = self._reserve_empty = False
        self._changed, self._prepare = trio.Event(), trio.Event()
        self._nursery: trio.Nursery | None = None
        self.sequence = self.durable_sequence = sequence
        self.staged = self._slots.staged
        self.sealed: dict[int, Sealed] = {}
        """Segments that became complete and are not published as such yet."""
        self.settles = False
        """A flush means: where it stays (B12 of backends), not only in a journal."""
        self.failed: Failed | None = None
        self.may_acknowledge: Callable[[], Awaitable[None]] | None = None
        """Awaited before a flush returns: another machine may have the pool by now. Raises like `check`."""
        self.on_full: Callable[[], bool] = lambda: False  # True: wait, space is being made

    # -- appending (synchronous) -----------------------------------------------------------------------------------

    def append(
        self, kind: int, codec: int, flags: int, blocks: int, payload: Buffer, raw_bytes: int,
        inode: int = 0, first_block: int = 0, metadata: bool = True,
    ) -> int:  # fmt: skip
        """Append a frame; its address, or 0 if there is no room now (wait_room). See OpenSegment.append."""
        segment = self._open
        if segment is None or self.failed is not None:
            return 0
        need = len(payload) + (8 * blocks if codec == BLOCKS else 0) + 2 * HEADER_SIZE - 1
        limit = segment.limit if metadata else segment.data_limit
        if segment.tail + need + HEADER_SIZE * (len(segment.offsets) + 1) > limit:
            if not self._roll(metadata):
                return 0
            segment = self._open
            assert segment is not None
        self.sequence = sequence = self.sequence + 1
        return segment.append(
            kind, codec, flags, blocks, payload, raw_bytes, inode, first_block, sequence,
            self.durable_sequence,
        )  # fmt: skip

    def has_room(self, frame_bytes: int, frames: int = 1, metadata: bool = False) -> bool:
        """Would `frames` frames of together `frame_bytes` (headers included) be appended without waiting?

        At most a quarter of a segment may be asked for: that much always fits into a fresh one.
        """
        segment = self._open
        if segment is None or self.failed is not None:
            return False
        frame_bytes += frames * (HEADER_SIZE - 1)  # each starts on a 64-byte boundary
        if segment.has_room(frame_bytes, frames, segment.limit if metadata else segment.data_limit):
            return True
        return bool(self._ready) and (metadata or self._ready[0].data_limit > 0)

    async def wait_room(self, frame_bytes: int, frames: int = 1, metadata: bool = False) -> None:
        """Return when has_room is true. NoSpace: the pool is full; Failed: L7."""
        self._urgent_waiters += metadata
        try:
            while not self.has_room(frame_bytes, frames, metadata):
                self.check()
                # Whoever makes space needs metadata himself: with the reserve empty there is nobody to wait for.
                if self._full is not None and (self._reserve_empty if metadata else not self.on_full()):
                    raise NoSpace(str(self._full))
                self._resting = False
                self._prepare.set()
                await self._changed.wait()
        finally:
            self._urgent_waiters -= metadata

    def check(self) -> None:
        """Raise if the log has failed (L7), or was stopped."""
        if self.failed is not None:
            raise Failed(str(self.failed))
        if self._stopped:
            raise Failed("the dataset was closed meanwhile: open it again")

    @property
    def position(self) -> tuple[int, int]:
        """(segment, offset) where the next frame will be, if it fits there: where a replay from now on begins. L7."""
        self.check()
        assert self._open is not None
        return self._open.id, self._open.tail

    @property
    def appended_bytes(self) -> int:
        """Length of the log since it was opened, everything included."""
        return self._closed_bytes + (self._open.tail if self._open is not None else 0)

    @property
    def undurable_bytes(self) -> int:
        """Roughly how much a power cut could take."""
        return sum(segment.tail - segment.written for segment in self._order)

    def _roll(self, metadata: bool) -> bool:
        """Seal the open segment and go on in a prepared one; False if there is none to be had."""
        if not self._ready or (not metadata and self._ready[0].data_limit == 0):
            return False
        assert self._open is not None
        self.sequence += 1
        self._open.seal(self.sequence, self.durable_sequence)
        self._closed_bytes += self._open.tail
        self._begin(self._ready.popleft())
        return True

    def _begin(self, segment: OpenSegment) -> None:
        segment.begin(self._pool.uuid, self._previous, self.sequence + 1)
        self._previous = segment.id
        self._open = segment
        self._order.append(segment)
        self.staged[segment.id] = segment.view
        self._prepare.set()
        assert self._nursery is not None
        self._nursery.start_soon(self._guard, self._drain, segment)

    # -- becoming durable -----------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Everything appended before the call is durable on return. Group commit: one sync serves all waiters."""
        target = self.sequence
        while self.durable_sequence < target:
            self.check()
            self._sync_requested = max(self._sync_requested, target)
            assert self._open is not None
            if not self.settles:
                self._open.wake.set()
                await self._changed.wait()
            elif len(self._order) > SETTLING_MAX or not self._open.offsets or not self.cut():
                await self._wait_segment()
        if self.may_acknowledge is not None:
            await self.may_acknowledge()
        self.check()

    def cut(self) -> bool:
        """End the open segment now, so that it can go where it stays; True: it is empty. False: no other is ready."""
        if self._open is None or not self._open.offsets:
            return self._open is not None
        return self._roll(metadata=True)

    async def settle(self, cut: bool = True) -> None:
        """Return when all that was appended before the call is where it stays. BackendError: not now."""
        while cut and not self.cut():
            self.check()
            await self._wait_segment()
        waiting = {segment.id for segment in self._order if segment.sealed}
        while not waiting.isdisjoint(segment.id for segment in self._order):
            self.check()
            await self._changed.wait()
        await self.copies.settle_all()

    @property
    def is_closed(self) -> bool:
        return self._stopped

    async def _wait_segment(self) -> None:
        """For a prepared segment, or for one that becomes complete."""
        self._urgent_waiters += 1
        self._resting = False
        self._prepare.set()
        try:
            await self._changed.wait()
        finally:
            self._urgent_waiters -= 1

    async def _drain(self, segment: OpenSegment) -> None:
        """Bring one segment to its copies, step by step, until all of it is durable."""
        while not segment.complete:
            target, sync = self._drain_target(segment)
            if target - segment.written < (0 if sync else segment.drain_step):
                segment.wake = trio.Event()
                await segment.wake.wait()
                continue
            end = min(target, segment.written + DRAIN_MAX)
            last = sync and end == target
            point, sealed = segment.last_sequence, segment.sealed
            await self.copies.write(segment, segment.written, end, last)
            segment.written = end
            if last:
                if sealed:
                    await self.copies.seal(segment)
                    await self.copies.settle(segment, lambda: self.settles)
                self._synced(segment, point, complete=sealed)

    def _drain_target(self, segment: OpenSegment) -> tuple[int, bool]:
        """(up to where, sync there?). Only whole pages are ever written, so a flush fills up its page first."""
        if segment.sealed:
            return segment.tail, True
        if not self.settles and segment.synced_sequence < min(self._sync_requested, segment.last_sequence):
            if segment.pad(self.sequence + 1, self.durable_sequence):
                self.sequence += 1
            return segment.tail, True
        return segment.tail & -PAGE, False

    def _synced(self, segment: OpenSegment, point: int, complete: bool) -> None:
        """Everything of the segment up to sequence `point` is durable: advance durable_sequence (L3)."""
        segment.synced_sequence = point
        segment.complete = complete
        if complete:
            self.sealed[segment.id] = Sealed(segment.tail, segment.blocks)
            self._slots.cache(segment)
            self._prepare.set()
        durable = self.durable_sequence
        while self._order and self._order[0].complete:
            durable = self._order.popleft().last_sequence
        if self._order:
            durable = max(durable, self._order[0].synced_sequence)
        self.durable_sequence = durable
        self._notify()

    # -- preparing segments ----------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Prepare segments and drain them until `close`. Raises NoSpace if not even the first one can be had."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._begin((await self._create(self._slots.take(1), reserved=True))[0])
                task_status.started()
                await self._guard(self._keep_ready)
        finally:
            self._stopped = True
            self._open = None

    async def _keep_ready(self) -> None:
        """Have segments at hand: ordinary ones while there is space, one from the reserve when metadata waits."""
        while not self._closing:
            self._prepare = trio.Event()
            urgent = self._urgent_waiters > 0 and not self._reserve_empty
            reserved = self._full is not None and urgent and not self._ready
            missing = 1 if reserved else 0 if self._full or self._resting else self._wanted_ready - len(self._ready)
            slots = self._slots.take(missing)
            if slots:
                await self._prepare_some(slots, reserved)
                continue
            with trio.move_on_after(RETRY_FULL_S if self._full else float("inf")) as waiting:
                await self._prepare.wait()
            if waiting.cancelled_caught:
                self._full, self._reserve_empty = None, False
        self._keeper_done.set()

    async def _prepare_some(self, slots: list[int], reserved: bool) -> None:
        try:
            made = await self._create(slots, reserved)
            if not made:
                return
            self._ready.extend(made)  # in the order of their ids (L6)
        except NoSpace as error:
            self._full = error
            self._reserve_empty = reserved
        else:
            self._reserve_empty = False
            if not reserved:
                self._leave_reserve()
        self._notify()

    def _leave_reserve(self) -> None:
        """There is space beyond the reserve again: what was taken from it may hold data now."""
        for segment in (*self._ready, self._open):
            if segment is not None:
                segment.data_limit = segment.limit

    async def _create(self, slots: list[int], reserved: bool) -> list[OpenSegment]:
        """Segments in these slots; slots that are not needed become free again."""
        made: list[OpenSegment] = []
        try:
            self._slots.claim(slots, len(self._order) + len(self._ready))
            if slots:
                made = await self.copies.create([partial(self._make, slot, reserved) for slot in slots], reserved)
        finally:
            used = {segment.slot for segment in made}
            self._slots.free(slot for slot in slots if slot not in used)
        return made

    def _make(self, slot: int, reserved: bool, segment_id: int, copies: tuple[int, ...]) -> OpenSegment:
        return OpenSegment(
            id=segment_id, dataset=self._dataset, epoch=self._epoch, key=self._key, slot=slot,
            view=self._slots.view(slot), copies=copies, reserved=reserved,
        )  # fmt: skip

    def retry_space(self) -> None:
        """Space may have come back: look again now."""
        self._full = None
        self._reserve_empty = False
        self._prepare.set()
        self._notify()

    async def rest(self) -> None:
        """Nothing happens: let go of what is only a cache, and of prepared segments, until the next append."""
        self._resting = True
        ready, self._ready = list(self._ready), deque()
        self._slots.drop_cache()
        try:
            await self.copies.forget(ready)
        finally:
            self._slots.free(segment.slot for segment in ready)
        self._slots.give_back()

    def wake(self) -> None:
        """The opposite of `rest`."""
        if self._resting:
            self._resting = False
            self._prepare.set()

    # -- ending ------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Make everything durable, seal the open segment, remove prepared ones, end `run`."""
        try:
            await self.flush()
            assert self._open is not None
            last, self._open = self._open, None
            self.sequence += 1
            last.seal(self.sequence, self.durable_sequence)
            while not last.complete:
                self.check()
                await self._changed.wait()
            self._closing = True
            self._prepare.set()
            await self._keeper_done.wait()
            ready, self._ready = list(self._ready), deque()
            await self.copies.forget(ready)
        finally:
            self.stop()

    def stop(self) -> None:
        """End `run` at once. What was not flushed stays in the stage. Nothing is appended any more."""
        self._closing = self._stopped = True
        self._open = None
        self._notify()
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def _guard(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        """A background task that fails takes the log down with it (L7), not the process."""
        try:
            await function(*args)
        except SdsError as error:
            self.fail(error)

    def fail(self, error: SdsError) -> None:
        """L7. The first error counts."""
        if self.failed is None:
            self.failed = error if isinstance(error, Failed) else Failed(str(error))
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
