"""What can be asked of an open dataset, whoever has it open: a worker over its control socket, or a command that
opened the dataset for the moment (sds/daemon/operate.py). Results are plain JSON values. What only volumes or only
filesystems can do is in volume_operations.py and filesystem_operations.py.

  OP1  One operation at a time, but for those that only look.
  OP2  `changed` is called after every structural change: the catalog wants a backup (BK2 of sds.pool.backup).
"""

import os
from collections.abc import Callable
from dataclasses import asdict
from time import perf_counter
from typing import Final

import trio

from backends.base import Backend
from backends.object_backend import ObjectBackend
from sds.core.errors import Busy
from sds.daemon.control import Handler
from sds.daemon.front import Front, Json
from sds.daemon.sweeper import Sweeper
from sds.dataset.dataset import Dataset
from sds.filesystem.changed import Changed
from sds.pool.lease import Holder
from sds.pool.rows import SnapshotRow

BLOCK_SIZE: Final = 4096
CUT_S: Final = 60.0
CLEAN_UPLOAD_S: Final = 10.0
"""How long a cleaning that was asked for waits for uploads."""


class Operations:
    def __init__(self, dataset: Dataset, sweeper: Sweeper, changed: Callable[[], None], holder: Holder) -> None:
        self._dataset = dataset
        self._pool = dataset.pool
        self._sweeper = sweeper
        self._changed = changed
        self._holder = holder
        self._turn = trio.Lock()
        self._closing = False
        self.front: Front | None = None
        """Of a worker; its caches follow what is done here."""
        self.stop: Callable[[], None] = lambda: None

    def handlers(self) -> dict[str, Handler]:
        one_at_a_time: dict[str, Handler] = {
            "snapshot": self.snapshot, "clone": self.clone, "rollback": self.rollback, "checkpoint": self.checkpoint,
            "destroy_snapshot": self.destroy_snapshot, "set_property": self.set_property,
            "cut": self.cut, **self.own_handlers(),
        }  # fmt: skip
        found: dict[str, Handler] = {name: self._in_turn(handler) for name, handler in one_at_a_time.items()}
        now = {"ping": self.ping, "stats": self.stats, "sweep": self.sweep, "clean": self.clean, "stop": self.end}
        return found | now

    def close(self) -> None:
        """Nothing is asked any more: what only operations need is let go of."""

    def own_handlers(self) -> dict[str, Handler]:
        """More operations of this kind of dataset."""
        return {}

    def apply_property(self, key: str, value: str | None) -> None:
        """It counts from now on; None: its default. Raises if it cannot."""
        raise AssertionError("subclasses know")

    def _in_turn(self, handler: Handler) -> Handler:
        async def call(**arguments: object) -> object:
            async with self._turn:
                if self._closing:
                    raise Busy(f"{self._dataset.row.name} is being closed: try again in a moment")
                return await handler(**arguments)

        return call

    async def finish(self) -> None:
        """Return when the operation under way has ended; later ones are refused."""
        self._closing = True
        async with self._turn:
            pass

    async def ping(self) -> Json:
        failed = self._dataset.failed
        return {"pid": os.getpid(), "failed": None if failed is None else str(failed)}

    async def end(self) -> Json:
        self.stop()
        return {}

    async def snapshot(self, name: str) -> Json:
        begin_s = perf_counter()
        await self._pull_in()
        row = await self._dataset.snapshot(name)
        elapsed_ms = (perf_counter() - begin_s) * 1000
        self._changed()
        return {"id": row.id, "name": row.name, "elapsed_ms": round(elapsed_ms, 3)}

    async def clone(self, name: str, new: str) -> Json:
        """A new dataset from a snapshot of this one."""
        begin_s = perf_counter()
        dataset, catalog = self._dataset, self._pool.catalog
        origin = catalog.snapshot(dataset.row.id, name)
        if origin.root is None:
            await dataset.newest_root()
            origin = catalog.snapshot(dataset.row.id, name)
        with self._pool.hold_snapshot(dataset.row, origin, self._holder, shared=True):
            await dataset.uploads.need(origin.sequence)
            properties = catalog.dataset_by_id(dataset.row.id).properties
            await dataset.env.run_blocking(
                catalog.create_dataset, new, dataset.row.kind, origin.size_bytes, properties, origin
            )
        elapsed_ms = (perf_counter() - begin_s) * 1000
        self._changed()
        return {"name": new, "elapsed_ms": round(elapsed_ms, 3)}

    async def rollback(self, name: str) -> Json:
        snapshot = self._pool.catalog.snapshot(self._dataset.row.id, name)
        await self._pull_in()
        # Not to be destroyed before the rollback is published: until then a replay of the log needs its tree.
        with self._pool.hold_snapshot(self._dataset.row, snapshot, self._holder, shared=True):
            await self._dataset.newest_root()  # its own root may be among what is not published yet
            snapshot = self._pool.catalog.snapshot(self._dataset.row.id, name)
            uploads = self._dataset.uploads
            uploads.rollbacks += 1
            uploads.is_rolling_back = True
            await self._rollback(snapshot)
            uploads.is_rolling_back = False  # after an error its record may be in the log: see destroy_snapshot
        self._sweeper.note_change()
        self._changed()
        return {"size_bytes": self._dataset.size_bytes}

    async def _rollback(self, snapshot: SnapshotRow) -> None:
        """Then whatever stands on the dataset follows."""
        raise AssertionError("subclasses know")

    async def _pull_in(self) -> None:
        if self.front is not None:
            await self.front.pull_in()

    async def _replaced(self, changed: Changed | None) -> None:
        if self.front is not None:
            await self.front.replaced(changed)

    async def checkpoint(self) -> Json:
        await self._pull_in()
        await self._dataset.checkpoint()
        return {"sequence": self._dataset.log.durable_sequence}

    async def cut(self) -> Json:
        """Go on in segments that are placed now, and publish those that were open as sealed: a backend that leaves the
        pool gets nothing new. An empty open segment would stay, so a checkpoint comes first."""
        dataset = self._dataset
        with trio.move_on_after(CUT_S):
            await dataset.log.rest()
            await dataset.checkpoint()
            await dataset.log.settle()
            await dataset.checkpoint()
            return {"sequence": dataset.log.durable_sequence}
        name = dataset.row.name
        raise Busy(f"{name} got no new segment within {CUT_S:g} s: is there room on backends that its worker knows?")

    async def sweep(self) -> Json:
        swept = await self._sweeper.sweep()
        return {"segments": swept.segments, "bytes": swept.size_bytes}

    async def clean(self) -> Json:
        dataset = self._dataset
        await dataset.newest_root()  # what was overwritten since the last checkpoint counts, too
        if dataset.uploads.is_needed:
            await dataset.uploads.bring_within(CLEAN_UPLOAD_S)  # UL4: until then the one before is spared
        cleaned = await self._sweeper.clean(force=True)
        return {"packs": cleaned.packs, "files": cleaned.files, "bytes": cleaned.freed_bytes}

    async def destroy_snapshot(self, name: str) -> Json:
        catalog = self._pool.catalog
        snapshot = catalog.snapshot(self._dataset.row.id, name)
        hold = self._pool.hold_snapshot(self._dataset.row, snapshot, self._holder, shared=False)
        try:
            uploads = self._dataset.uploads
            if uploads.is_rolling_back:
                await self._dataset.newest_root()  # published, or the replay would need the snapshot
                uploads.is_rolling_back = False
            if uploads.is_needed and uploads.may_lag_behind_rollback:
                await uploads.bring()
            await self._dataset.env.run_blocking(catalog.destroy_snapshot, snapshot.id)
        except BaseException:
            hold.release()
            raise
        hold.release(remove=True)
        self._changed()
        self._sweeper.note_change()
        return {"name": name}

    async def set_property(self, key: str, value: str | None) -> Json:
        self.apply_property(key, value)
        catalog, env = self._pool.catalog, self._dataset.env
        if key == "flush" and value == "backend":
            await self._settle_before(key, value)
        await env.run_blocking(catalog.set_property, self._dataset.row.id, key, value)
        row = await env.run_blocking(catalog.dataset_by_id, self._dataset.row.id)
        if key == "flush":
            await self._pool.backup()  # who imports the pool must know what a flush meant
        self._dataset.apply_policy(row.properties)
        self._changed()
        return {}

    async def _settle_before(self, key: str, value: str) -> None:
        """Whoever imports the pool takes what the log calls durable to be in the store: so that must be true before the
        catalog says so."""
        dataset = self._dataset
        properties = (await dataset.env.run_blocking(self._pool.catalog.dataset_by_id, dataset.row.id)).properties
        dataset.apply_policy({**properties, key: value})
        try:
            await dataset.flush()
        except BaseException:
            dataset.apply_policy(properties)
            raise

    async def stats(self) -> Json:
        dataset, log = self._dataset, self._dataset.log
        before = dataset.row.checkpoint.written_bytes if dataset.row.checkpoint else 0
        failed = dataset.failed
        return {
            "pid": os.getpid(),
            "size_bytes": dataset.size_bytes,
            "used_bytes": dataset.map.mapped_blocks * BLOCK_SIZE,
            "written_bytes": before + log.appended_bytes,
            "log_bytes": log.appended_bytes,
            "undurable_bytes": log.undurable_bytes,
            "sequence": log.sequence,
            "durable_sequence": log.durable_sequence,
            "checkpoints": dataset.checkpointer.count,
            "dirty_pages": dataset.map.dirty_pages,
            "swept_bytes": self._sweeper.swept_bytes,
            "cleaned_packs": self._sweeper.cleaned.packs,
            "cleaned_read_bytes": self._sweeper.cleaned.read_bytes,
            "cleaned_written_bytes": self._sweeper.cleaned.written_bytes,
            "cleaned_freed_bytes": self._sweeper.cleaned.freed_bytes,
            "backends": {str(id): _backend_stats(backend) for id, backend in self._pool.backends.items()},
            "failed": None if failed is None else str(failed),
            **(self.front.stats() if self.front is not None else {}),
        }


def _backend_stats(backend: Backend) -> Json:
    """Room; of an object store also requests and bytes as this process made them, and what waits for its upload."""
    return asdict(backend.usage()) | (asdict(backend.stats()) if isinstance(backend, ObjectBackend) else {})
