"""What can be asked of an open dataset, whoever has it open: a worker over its control socket, or a command that
opened the dataset for the moment (sds/daemon/operate.py). Results are plain JSON values. What only volumes or only
filesystems can do is in volume_operations.py and filesystem_operations.py.

  OP1  One operation at a time, but for those that only look.
  OP2  `changed` is called after every structural change: the catalog wants a backup (BK2 of sds.pool.backup).
"""

import os
from collections.abc import Callable
from time import perf_counter
from typing import Final

import trio

from sds.core.errors import Busy
from sds.daemon.control import Handler
from sds.daemon.front import Front, Json
from sds.daemon.sweeper import Sweeper
from sds.dataset.dataset import Dataset
from sds.filesystem.changed import Changed
from sds.pool.lease import Holder
from sds.pool.rows import SnapshotRow

BLOCK_SIZE: Final = 4096


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
            "destroy_snapshot": self.destroy_snapshot, "set_property": self.set_property, **self.own_handlers(),
        }  # fmt: skip
        found: dict[str, Handler] = {name: self._in_turn(handler) for name, handler in one_at_a_time.items()}
        return found | {"ping": self.ping, "stats": self.stats, "sweep": self.sweep, "stop": self.end}

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
            await self._rollback(snapshot)
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

    async def sweep(self) -> Json:
        swept = await self._sweeper.sweep()
        return {"segments": swept.segments, "bytes": swept.size_bytes}

    async def destroy_snapshot(self, name: str) -> Json:
        catalog = self._pool.catalog
        snapshot = catalog.snapshot(self._dataset.row.id, name)
        hold = self._pool.hold_snapshot(self._dataset.row, snapshot, self._holder, shared=False)
        try:
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
        await self._dataset.env.run_blocking(self._pool.catalog.set_property, self._dataset.row.id, key, value)
        self._changed()
        return {}

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
            "failed": None if failed is None else str(failed),
            **(self.front.stats() if self.front is not None else {}),
        }
