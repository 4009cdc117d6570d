"""Checkpoints: merging frozen layers into the tree, beside the I/O, and publishing the result in the catalog.

  C1  Layers are merged in the order of the log, one at a time. `freeze` is synchronous: it is the point in time.
  C2  A root is published only when everything it refers to is durable, and conditional on the epoch.
  C3  The position where replay begins is the one at the freeze: what was written since is replayed.
  C4  Bounded: with LAYERS_MAX frozen layers, the next freeze waits.
"""

from array import array
from typing import Final

import trio

from sds.core.checkpoint_record import CheckpointRecord, Kind, SnapshotRecord, encode_checkpoint
from sds.core.frame import CHECKPOINT, MAP, RAW
from sds.core.keys import inode_range, map_key, map_range
from sds.core.page import INLINE_SIZE_MAX, PAGE_BLOCKS, encode_page, inline_value, outside_value
from sds.dataset import tree
from sds.dataset.blockmap import INDEX_MASK, INODE_SHIFT, BlockMap
from sds.dataset.layer import Layer
from sds.dataset.nodes import Nodes
from sds.log.env import Env
from sds.log.log import Log
from sds.pool.pool import Pool
from sds.pool.rows import CheckpointRef, DatasetRow

LAYERS_MAX: Final = 8
PAGES_PER_STEP: Final = 32
"""Pages encoded between two chances for other tasks: well under a millisecond."""
RECORD_SNAPSHOTS_MAX: Final = 256
"""The newest snapshots are named in the CHECKPOINT frame, for a pool that lost its catalog and all backups of it."""


class Checkpointer:
    def __init__(
        self, pool: Pool, row: DatasetRow, epoch: int, env: Env, log: Log, blocks: BlockMap, nodes: Nodes
    ) -> None:
        self._pool = pool
        self._row = row
        self._epoch = epoch
        self._env = env
        self._log = log
        self._map = blocks
        self._nodes = nodes
        self._lock = trio.Lock()
        self._forget: list[int] = []
        self._written_before = row.checkpoint.written_bytes if row.checkpoint else 0
        self.size_bytes = row.size_bytes
        self.frozen_at_bytes = 0
        """Log.appended_bytes at the last freeze."""
        self.count = 0
        self.published: CheckpointRef | None = None
        """The newest that this worker published."""
        self._news = trio.Event()

    def freeze(self, snapshot_id: int | None = None) -> Layer:
        """C1. Then `merge`. The layer of a snapshot waits until its `ready` is set."""
        position = self._log.position  # raises if the log has failed: before anything has changed
        layer = self._map.freeze()
        layer.sequence = self._log.sequence
        layer.segment, layer.offset = position
        layer.size_bytes = self.size_bytes
        layer.snapshot_id = snapshot_id
        if snapshot_id is None:
            layer.ready.set()
        self.frozen_at_bytes = self._log.appended_bytes
        return layer

    async def wait_turn(self) -> None:
        """C4: return when another layer may be frozen."""
        while len(self._map.layers.frozen) >= LAYERS_MAX:
            await self.merge(self._map.layers.frozen[0])

    async def wait_newer(self, count: int) -> None:
        """Return when more than `count` checkpoints were published."""
        while self.count <= count:
            await self._news.wait()

    def forget(self, segments: list[int]) -> None:
        """The rows of these segments go with the next checkpoint (they lie beyond what recovery found)."""
        self._forget += segments

    async def merge(self, layer: Layer) -> None:
        """Return when this layer, and all before it, is published."""
        while not layer.published.is_set():
            async with self._lock:
                if not layer.published.is_set():
                    layers = list(self._map.layers.frozen)
                    for waiting in layers:
                        await waiting.ready.wait()
                    await self._publish(layers)

    async def _publish(self, layers: list[Layer]) -> None:
        """Merge these layers and publish the last one's root, with the roots of the snapshots among them."""
        root = self._map.layers.root
        roots, mapped = {}, {}
        for layer in layers:
            layer.root = root = await self._merge_tree(layer, root)
            if layer.snapshot_id is not None:
                roots[layer.snapshot_id] = root
                mapped[layer.snapshot_id] = layer.mapped_blocks
        last = layers[-1]
        await self._append_record(last, root)
        await self._log.flush()
        ref = CheckpointRef(
            root, last.sequence, last.segment, last.offset, last.size_bytes, last.mapped_blocks,
            self._written_before + self._log.appended_bytes,
        )  # fmt: skip
        sealed, forget = dict(self._log.sealed), list(self._forget)
        await self._env.run_blocking(
            self._pool.catalog.publish, self._row.id, self._epoch, ref, roots, forget, sealed, mapped
        )
        for segment in sealed:
            del self._log.sealed[segment]
        del self._forget[: len(forget)]
        self._map.layers.merged(layers, root)
        self.count += 1
        self.published = ref
        self._news.set()
        self._news = trio.Event()
        for layer in layers:
            layer.published.set()

    async def _merge_tree(self, layer: Layer, below: int) -> int:
        """The root of the tree `below` with the layer's changes."""
        base = below if layer.base_root is None else layer.base_root
        batch = tree.Batch()
        for low, high in layer.cleared:
            batch.ranges.append(map_range(low >> INODE_SHIFT, low & INDEX_MASK, (high - 1 & INDEX_MASK) + 1))
        for number, (key, page) in enumerate(layer.dirty.items()):
            batch.items[map_key(key >> INODE_SHIFT, key & INDEX_MASK)] = await self._page_value(page)
            if number % PAGES_PER_STEP == 0:
                await trio.lowlevel.checkpoint()
        for low, high in layer.dropped:
            batch.ranges.append((inode_range(low)[0], inode_range(high - 1)[1]))
        batch.items.update(layer.items.values)
        return await tree.merge(self._nodes, base, batch)

    async def _page_value(self, page: "array[int]") -> bytes | None:
        count = PAGE_BLOCKS - page.count(0)
        if not count:
            return None
        encoded = encode_page(page)
        if len(encoded) <= INLINE_SIZE_MAX:
            return inline_value(encoded)
        return outside_value(await self._nodes.append(MAP, RAW, encoded, len(encoded)), count)

    async def _append_record(self, layer: Layer, root: int) -> None:
        rows = await self._env.run_blocking(self._pool.catalog.snapshots, self._row.id)
        known = [
            SnapshotRecord(s.id, s.name, s.root, s.sequence, s.size_bytes, s.created_at * 10**9)
            for s in rows[-RECORD_SNAPSHOTS_MAX:]
            if s.root is not None
        ]
        kind = Kind.VOLUME if self._row.kind == "volume" else Kind.FILESYSTEM
        record = CheckpointRecord(
            dataset_id=self._row.id,
            kind=kind,
            name=self._row.name,
            root=root,
            sequence=layer.sequence,
            size_bytes=layer.size_bytes,
            replay_segment=layer.segment,
            replay_offset=layer.offset,
            mapped_blocks=layer.mapped_blocks,
            snapshots=tuple(known),
        )
        payload = encode_checkpoint(record)
        await self._nodes.append(CHECKPOINT, RAW, payload, len(payload))
