"""The catalog of a pool: what is small and shared. One SQLite file per pool, one class, one method per
transaction.

  database.py   connections, transactions, errors (Q1-Q4)     segments.py   registry of segments (SG1-SG3)
  schema.py     the tables                                    writer.py     conditional on the epoch (W1-W3)
  datasets.py   datasets and families (DS1-DS3)               snapshots.py  snapshots
  state.py      export and import for backups                 files.py      segments by the file they lie in (FI1-FI3)
  rows.py       what is handed out

C1  Every method is synchronous, thread-safe, and one transaction: it happens wholly or not at all, and is
    durable when it returns (a memory catalog excepted).
C2  Ids (dataset, snapshot, segment, backend) are never reused, not even after an import.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from sqlalchemy import delete, insert, select, update

from sds.core.errors import BadInput, Busy, Corrupt, Exists, Missing
from sds.pool.database import Clock, create_file, create_memory, load_memory, open_file
from sds.pool.datasets import DatasetTable, next_id
from sds.pool.files import FileTable
from sds.pool.rows import BackendRow, EventRow, PoolRow
from sds.pool.schema import BACKEND_STATES, COUNTERS, backend, counter, event, pool, progress
from sds.pool.segments import SegmentTable, count_copies_on
from sds.pool.snapshots import SnapshotTable
from sds.pool.state import StateTable
from sds.pool.writer import WriterTable

EVENTS_KEPT = 1000
MEMORY_POOL = PoolRow(uuid=bytes(range(16)), name="memory", segment_size=32 << 20, copies=1)


class Catalog(DatasetTable, SnapshotTable, SegmentTable, FileTable, WriterTable, StateTable):
    @classmethod
    def create(cls, path: Path, row: PoolRow, clock: Clock = time.time) -> Self:
        if path.exists():
            raise Exists(f"{path} exists already")
        catalog = cls(create_file(path), str(path), clock)
        catalog._fill(row)
        return catalog

    @classmethod
    def open(cls, path: Path, clock: Clock = time.time) -> Self:
        return cls(open_file(path), str(path), clock)

    @classmethod
    def in_memory(cls, row: PoolRow = MEMORY_POOL, clock: Clock = time.time) -> Self:
        """For the simulator."""
        catalog = cls(create_memory(), "in memory", clock)
        catalog._fill(row)
        return catalog

    @classmethod
    def deserialize(cls, image: bytes, clock: Clock = time.time) -> Self:
        """A memory catalog with the content that serialize() gave."""
        return cls(load_memory(image), "in memory", clock)

    def _fill(self, row: PoolRow) -> None:
        if len(row.uuid) != 16:
            raise BadInput(f"a pool UUID has 16 bytes, not {len(row.uuid)}")
        values = {name: getattr(row, name) for name in PoolRow.__slots__}
        with self._transaction() as c:
            c.execute(insert(pool), {"id": 1, **values})
            c.execute(insert(counter), [{"name": name, "value": 0} for name in COUNTERS])

    def pool(self) -> PoolRow:
        with self._reading() as c:
            row = c.execute(select(pool)).first()
        if row is None:
            raise Corrupt(
                f"catalog {self._where} is empty (its creation was cut off): remove it, create the pool again"
            )
        return PoolRow(*row[1:])

    def backends(self) -> list[BackendRow]:
        with self._reading() as c:
            return [BackendRow(*row) for row in c.execute(select(backend).order_by(backend.c.id))]

    def add_backend(self, url: str, uuid: str, label: str, state: str = "online", tier: str = "") -> BackendRow:
        _check_state(state)
        with self._transaction() as c:
            if c.execute(select(backend).where(backend.c.url == url)).first() is not None:
                raise Exists(f"backend {url} is in the pool already")
            row = BackendRow(next_id(c, "backend"), url, uuid, label, state, tier)
            c.execute(insert(backend), {name: getattr(row, name) for name in BackendRow.__slots__})
        return row

    def set_backend_state(self, backend_id: int, state: str) -> None:
        _check_state(state)
        with self._transaction() as c:
            if c.execute(update(backend).where(backend.c.id == backend_id).values(state=state)).rowcount != 1:
                raise Missing(f"no backend with id {backend_id} in this pool")

    def move_backends(self, urls: Mapping[int, str]) -> None:
        """New URLs of backends, by id. In two steps, for they may have swapped places."""
        with self._transaction() as c:
            for prefix in ("moving:", ""):
                for backend_id, url in urls.items():
                    c.execute(update(backend).where(backend.c.id == backend_id).values(url=prefix + url))

    def remove_backend(self, backend_id: int) -> None:
        """Refuses while a segment has a copy there."""
        with self._transaction() as c:
            used = count_copies_on(c, backend_id)
            if used:
                raise Busy(
                    f"backend {backend_id} still holds copies of {used} segments: move them away first"
                )
            if c.execute(delete(backend).where(backend.c.id == backend_id)).rowcount != 1:
                raise Missing(f"no backend with id {backend_id} in this pool")

    def progress(self, name: str) -> str | None:
        """Of a long task: what set_progress kept."""
        with self._reading() as c:
            return c.execute(select(progress.c.value).where(progress.c.name == name)).scalar()

    def set_progress(self, name: str, value: str | None) -> None:
        """None: the task has ended."""
        with self._transaction() as c:
            c.execute(delete(progress).where(progress.c.name == name))
            if value is not None:
                c.execute(insert(progress).values(name=name, value=value))

    def add_event(self, kind: str, text: str) -> None:
        """The newest EVENTS_KEPT are kept."""
        with self._transaction() as c:
            new = c.execute(
                insert(event), {"at": self._now(), "kind": kind, "text": text}
            ).inserted_primary_key
            assert new is not None
            c.execute(delete(event).where(event.c.id <= new[0] - EVENTS_KEPT))

    def events(self, limit: int = EVENTS_KEPT) -> list[EventRow]:
        """Newest first."""
        with self._reading() as c:
            return [
                EventRow(*row) for row in c.execute(select(event).order_by(event.c.id.desc()).limit(limit))
            ]


def _check_state(state: str) -> None:
    if state not in BACKEND_STATES:
        raise BadInput(f"{state!r} is no state of a backend: {', '.join(BACKEND_STATES)}")
