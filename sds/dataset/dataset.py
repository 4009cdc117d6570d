"""An open dataset: its log, its block map, and what keeps them going.

    CLOSED --open (lease, new epoch, recovery)--> OPEN --close--> CLOSED
                                                   └--unrepairable error--> FAILED: reads go on, changes are refused

  D1  Whoever has it open holds its lease; every catalog write is conditional on the epoch (P7).
  D2  An operation is one synchronous section: append its frame or frames, change the map. So the map is at
      all times exactly what a replay of the log would give, and snapshots are atomic.
  D3  A snapshot is acknowledged when its record is durable in the log and its row is in the catalog; its tree is
      written afterwards, by the running worker or by recovery.
"""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from backends.base import Backend
from backends.object_backend import ObjectBackend
from sds.core.errors import Failed, Fenced, SdsError
from sds.core.frame import HEADER_SIZE, RAW, TXN
from sds.core.names import SEGMENT_PREFIX, segment_name
from sds.core.planner import checkpoint_interval_bytes
from sds.core.txn import Delete, Drop, Operation, Put, Resize, Rollback, Snapshot, Unmap, encode_txn
from sds.dataset.blockmap import BlockMap, page_keys
from sds.dataset.changes import Unmapping, prepare_unmap
from sds.dataset.checkpointer import Checkpointer
from sds.dataset.items import Items
from sds.dataset.layer import Layers
from sds.dataset.nodes import Nodes, expect_root
from sds.dataset.recovery import Mapped, Tail, find_tail, make_durable
from sds.dataset.uploads import CLOSE_LIMIT_S, OPEN_LIMIT_S, Uploads
from sds.log.env import Env, sole_error
from sds.log.log import Log
from sds.log.reader import FrameReader
from sds.log.stage import Stage
from sds.pool.policy import policy_of
from sds.pool.pool import Pool
from sds.pool.rows import DatasetRow, Sealed, SnapshotRow

VOLUME_INODE: Final = 1
TICK_S: Final = 0.1
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a worker may use. Delays in seconds."""

    stage_slots: int = 8
    map_pages_max: int = 1 << 16
    """Map pages in memory, about 1.2 KiB each."""
    items_max: int = 1 << 18
    """Changed items in memory (names, attributes, ...), about 250 bytes each; a checkpoint begins at half of it."""
    flush_delay_s: float = 5.0
    """Unflushed data is made durable after this time at the latest."""
    checkpoint_delay_s: float = 60.0
    checkpoint_bytes: int = 0
    """Log between two checkpoints; 0: chosen by the planner."""
    idle_delay_s: float = 10.0
    """Without writes for so long, the stage's memory is given back."""


class Dataset:
    """Made by `open_dataset`."""

    def __init__(
        self, pool: Pool, row: DatasetRow, epoch: int, env: Env, settings: Settings, stage: Stage, tail: Tail
    ) -> None:
        self.pool = pool
        self.row = row
        self.epoch = epoch
        self.env = env
        self.settings = settings
        self.log = Log(pool, row.id, epoch, stage, env, tail.sequence, 0)
        self.reader = FrameReader(pool, env, self.log.staged)
        self.nodes = Nodes(self.reader, self.log)
        ref = row.checkpoint
        root, mapped = (ref.root, ref.mapped_blocks) if ref else (0, 0)
        self.layers = Layers(root)
        self.map = BlockMap(self.nodes, self.layers, mapped, settings.map_pages_max)
        self.items = Items(self.nodes, self.layers)
        self.checkpointer = Checkpointer(pool, row, epoch, env, self.log, self.map, self.nodes)
        self.uploads = Uploads(pool, row, epoch, env, self.log, self.checkpointer)
        self.nursery: trio.Nursery | None = None
        """Of what goes on while it is open."""
        self.apply_policy(row.properties)
        self._stage = stage
        self._rolling_back = trio.Lock()
        self._merge_wanted = trio.Event()
        self._snapshot_ids: list[int] = []
        self._closing = False
        self._maintained = trio.Event()

    @property
    def size_bytes(self) -> int:
        return self.checkpointer.size_bytes

    @property
    def failed(self) -> Failed | None:
        return self.log.failed

    def serve_store(self, backend: Backend) -> None:
        """An object store gets what this dataset seals, and what an earlier worker of it left in the journal."""
        if isinstance(backend, ObjectBackend) and self.nursery is not None:
            backend.own(f"{SEGMENT_PREFIX}{self.row.id:08x}/")
            self.nursery.start_soon(backend.run)

    def apply_policy(self, properties: Mapping[str, str]) -> None:
        """For segments and flushes from now on."""
        policy = policy_of(properties, self.pool.copies)
        self.log.copies.policy = policy
        if policy.settles and not self.log.settles:
            self.uploads.is_anchored = False
        self.log.settles = policy.settles

    # -- operations -------------------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """P1: all operations that returned before are durable."""
        if self.log.settles and not self.uploads.is_anchored:
            await self.uploads.anchor()
        await self.log.flush()

    async def checkpoint(self) -> None:
        """Everything up to now is in the tree, and the tree is published."""
        await self.checkpointer.wait_turn()
        await self.checkpointer.merge(self.checkpointer.freeze())

    async def wait_item_room(self) -> None:
        """P8: return when changed items may be added."""
        if self.items.unmerged >= self.settings.items_max:
            await self.checkpoint()

    async def newest_root(self) -> int:
        """The root of a published tree with everything up to now."""
        if self.layers.frozen or not self.layers.current.is_empty:
            await self.checkpoint()
        return self.layers.root

    async def snapshot(self, name: str) -> SnapshotRow:
        """D3. Exists, NoSpace, Failed. A record in the log whose row was refused means nothing."""
        catalog = self.pool.catalog
        if not self._snapshot_ids:
            await self._reserve_snapshot_id()
        snapshot_id = self._snapshot_ids.pop()
        await self.checkpointer.wait_turn()
        operation = Snapshot(snapshot_id, name)
        await self._wait_txn_room(operation)
        self._append(operation)  # from here to the freeze nothing may wait (C1)
        layer = self.checkpointer.freeze(snapshot_id)
        row = None
        try:
            await self.log.flush()
            row = await self.env.run_blocking(
                catalog.add_snapshot, self.row.id, self.epoch, snapshot_id, name, layer.sequence, layer.size_bytes
            )
        finally:
            layer.snapshot_id = snapshot_id if row is not None else None
            layer.ready.set()
        self._merge_wanted.set()
        return row

    async def _reserve_snapshot_id(self) -> None:
        """Ahead of time: a snapshot has one transaction less to wait for."""
        self._snapshot_ids.append(await self.env.run_blocking(self.pool.catalog.reserve_snapshot_id))

    async def rollback(self, snapshot: SnapshotRow) -> None:
        """The head becomes what the snapshot is; published on return."""
        async with self._rolling_back:
            root = expect_root(snapshot.root, f"snapshot @{snapshot.name}")
            mapped = await self.map.count_tree(root)
            operation = Rollback(snapshot.id, root, snapshot.size_bytes)
            await self.checkpointer.wait_turn()
            await self._wait_txn_room(operation)
            self._append(operation)
            self.map.reset(root, mapped)
            self.checkpointer.size_bytes = snapshot.size_bytes
            await self.env.run_blocking(self.pool.catalog.rolled_back, self.row.id, self.epoch)
            await self.checkpoint()

    async def unmap(self, inode: int, first: int, count: int) -> None:
        """Blocks become holes; O(extents)."""
        operation = Unmap(inode, first, count)
        while True:
            await self._wait_txn_room(operation)
            change = await prepare_unmap(self.map, inode, first, count)
            if self._append(operation, change):
                return

    async def resize(self, size_bytes: int, inode: int = VOLUME_INODE) -> None:
        """What lies beyond a smaller size is gone. The catalog follows at once."""
        operation = Resize(size_bytes)
        while True:
            await self._wait_txn_room(operation)
            old, new = blocks_of(self.size_bytes), blocks_of(size_bytes)
            change = await prepare_unmap(self.map, inode, new, old - new) if new < old else None
            if old == blocks_of(self.size_bytes) and self._append(operation, change):
                self.checkpointer.size_bytes = size_bytes
                break
        await self.checkpoint()

    def _append(self, operation: Operation, change: Unmapping | None = None) -> bool:
        """D2. False: no room after all, nothing was done."""
        payload = encode_txn([operation])
        if not self.log.append(TXN, RAW, 0, 0, payload, len(payload)):
            return False
        if change is not None:
            change.apply()
        return True

    async def _wait_txn_room(self, operation: Operation) -> None:
        await self.log.wait_room(HEADER_SIZE + len(encode_txn([operation])), metadata=True)

    # -- recovery -----------------------------------------------------------------------------------------------------

    async def replay(self, tail: Tail) -> None:
        """Bring the map to where the log ends, and publish it: the last step of recovery."""
        pending = {
            row.id
            for row in await self.env.run_blocking(self.pool.catalog.snapshots, self.row.id)
            if row.root is None
        }
        await self._preload(tail)
        for change in tail.changes:
            await self._redo(change, pending)
        if pending and self.row.journal_lost:
            await self._forget_snapshots(pending)
        elif pending:
            raise Failed(f"{self.row.name}: the log does not have the snapshots {sorted(pending)} of the catalog")
        self.checkpointer.forget([row.id for row in tail.forgotten])
        self.log.sealed |= {kept.row.id: Sealed(kept.size_bytes, kept.blocks) for kept in tail.kept}
        await self.checkpointer.merge(self.checkpointer.freeze())

    async def _forget_snapshots(self, pending: set[int]) -> None:
        """They were made in a journal that is lost."""
        for snapshot_id in pending:
            await self.env.run_blocking(self.pool.catalog.destroy_snapshot, snapshot_id)
        text = f"{self.row.name}: {len(pending)} snapshots were lost with the journal of the machine that made them"
        await self.env.run_blocking(self.pool.catalog.add_event, "journal-lost", text)

    async def _preload(self, tail: Tail) -> None:
        """Load the pages that the log touches in the order in which they are stored."""
        keys: set[int] = set()
        for change in tail.changes:
            if isinstance(change, Mapped):
                keys.update(page_keys(change.inode, change.first_block, change.blocks))
        for key in sorted(keys):
            await self.map.page(key)

    async def _redo(self, change: Mapped | Operation, pending: set[int]) -> None:
        match change:
            case Mapped(inode, first, count, address):
                for key in page_keys(inode, first, count):
                    await self.map.page(key)
                self.map.set_run(inode, first, count, address)
            case Unmap(inode, first, count):
                (await prepare_unmap(self.map, inode, first, count)).apply()
            case Resize(size_bytes):
                old, new = blocks_of(self.size_bytes), blocks_of(size_bytes)
                if new < old:
                    (await prepare_unmap(self.map, VOLUME_INODE, new, old - new)).apply()
                self.checkpointer.size_bytes = size_bytes
            case Snapshot(snapshot_id):
                if snapshot_id in pending:
                    pending.discard(snapshot_id)
                    self.checkpointer.freeze(snapshot_id).ready.set()
            case Rollback(_, root, size_bytes):
                self.map.reset(root, await self.map.count_tree(root))
                self.checkpointer.size_bytes = size_bytes
            case Put(key, value):
                self.items.put(key, value)
            case Delete(key):
                self.items.delete(key)
            case Drop(inode):
                self.items.drop(inode)

    # -- background ---------------------------------------------------------------------------------------------------

    async def maintain(self) -> None:
        """Checkpoints by volume and time, flushes by time, memory given back when idle; until `close`."""
        last_sequence, idle_s, flush_age_s, age_s = -1, 0.0, 0.0, 0.0
        self.map.relieve = self.checkpoint
        while self.failed is None and not self._closing:
            self._merge_wanted = trio.Event()
            with trio.move_on_after(TICK_S):
                await self._merge_wanted.wait()
            age_s += TICK_S
            flush_age_s += TICK_S
            if self.log.sequence == last_sequence:
                idle_s += TICK_S
            else:
                idle_s, last_sequence = 0.0, self.log.sequence
                self.log.wake()
            try:
                if self.layers.frozen:
                    await self.checkpointer.merge(self.layers.frozen[-1])
                if not self._snapshot_ids:
                    await self._reserve_snapshot_id()
                if self._checkpoint_is_due(age_s):
                    await self.checkpoint()
                    age_s = 0.0
                if self.log.durable_sequence == self.log.sequence:
                    flush_age_s = 0.0
                elif flush_age_s >= self.settings.flush_delay_s:
                    await self.flush()
                if self.settings.idle_delay_s <= idle_s < self.settings.idle_delay_s + TICK_S:
                    await self.log.rest()
            except Fenced as error:  # P7: from now on nothing may be acknowledged
                self.log.fail(error)
            except SdsError as error:
                _log.error("%s: background work failed: %s", self.row.name, error)
                age_s = 0.0
        self._maintained.set()

    def _checkpoint_is_due(self, age_s: float) -> bool:
        written = self.log.appended_bytes - self.checkpointer.frozen_at_bytes
        limit = self.settings.checkpoint_bytes or checkpoint_interval_bytes(self.map.mapped_blocks)
        if written >= limit or self.map.dirty_pages >= self.settings.map_pages_max // 2:
            return True
        if self.items.unmerged >= self.settings.items_max // 2:
            return True
        return age_s >= self.settings.checkpoint_delay_s and not self.layers.current.is_empty

    async def close(self) -> None:
        """Publish everything and end in order: the next opening has nothing to replay."""
        self._closing = True
        self.log.settles = False  # nobody is answered any more; `uploads` waits for the store, but not for ever
        self._merge_wanted.set()
        await self._maintained.wait()
        await self.checkpoint()
        await self.log.close()
        await self.env.run_blocking(self._seal_last)
        self._stage.remove()
        if self.uploads.is_needed:
            await self.uploads.bring_within(CLOSE_LIMIT_S)

    def _seal_last(self) -> None:
        for segment, sealed in self.log.sealed.items():
            self.pool.catalog.seal_segment(self.row.id, self.epoch, segment, *sealed)


def blocks_of(size_bytes: int) -> int:
    return -(-size_bytes // 4096)


@asynccontextmanager
async def open_dataset(
    pool: Pool, row: DatasetRow, env: Env, settings: Settings, holder: str
) -> AsyncIterator[Dataset]:
    """Recover and run a dataset whose lease the caller holds. Leaving the block in order closes it in order."""
    epoch = await env.run_blocking(pool.catalog.acquire, row.id, holder)
    stage = env.open_stage(pool.uuid, row.id, settings.stage_slots, pool.segment_size)
    try:
        row, tail = await find_tail(pool, row, stage, env)
        await make_durable(pool, tail, epoch, env)
        dataset = Dataset(pool, row, epoch, env, settings, stage, tail)
        async with trio.open_nursery() as nursery:
            dataset.nursery = nursery
            for backend in pool.backends.values():
                dataset.serve_store(backend)
            await nursery.start(dataset.log.run)
            try:
                await dataset.replay(tail)
                await _delete_forgotten(dataset, tail)
                if dataset.uploads.is_needed:
                    await dataset.uploads.bring_within(OPEN_LIMIT_S)
                nursery.start_soon(dataset.uploads.run)
                nursery.start_soon(dataset.maintain)
                yield dataset
                await dataset.close()
            finally:
                dataset.log.stop()
                dataset.reader.close()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise sole_error(group) from None
    finally:
        stage.close()


async def _delete_forgotten(dataset: Dataset, tail: Tail) -> None:
    """Their rows are gone; a file that stays is garbage without a row."""
    for row in tail.forgotten:
        await dataset.log.copies.discard(row.copies, segment_name(row.dataset, row.id, row.epoch))

