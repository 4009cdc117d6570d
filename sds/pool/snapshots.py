"""Snapshots in the catalog: a kept root. A clone owns its root, so a snapshot with clones may be
destroyed.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.engine import Connection

from sds.core.errors import Exists, Missing
from sds.core.names import check_name
from sds.pool.database import Database
from sds.pool.datasets import bump, next_id
from sds.pool.rows import SnapshotRow
from sds.pool.schema import dataset, snapshot

_s = snapshot.c
_SELECT = select(
    _s.id, _s.dataset, _s.name, _s.sequence, _s.size_bytes, _s.root, _s.created_at, _s.mapped_blocks
)
_OF_DATASET = _SELECT.where(_s.dataset == bindparam("key")).order_by(_s.id)
_BY_NAME = _SELECT.where(_s.dataset == bindparam("key"), _s.name == bindparam("wanted"))
_OF_FAMILY = _SELECT.join_from(snapshot, dataset).where(dataset.c.family == bindparam("key")).order_by(_s.id)


class SnapshotTable(Database):
    def reserve_snapshot_id(self) -> int:
        """For the record in the dataset's log, written before add_snapshot. An id not used is simply
        skipped.
        """
        with self._transaction() as c:
            return next_id(c, "snapshot")

    def snapshots(self, dataset_id: int) -> list[SnapshotRow]:
        """Oldest first."""
        with self._reading() as c:
            return to_snapshots(c.execute(_OF_DATASET, {"key": dataset_id}))

    def snapshots_of_family(self, family_id: int) -> list[SnapshotRow]:
        with self._reading() as c:
            return to_snapshots(c.execute(_OF_FAMILY, {"key": family_id}))

    def snapshot(self, dataset_id: int, name: str) -> SnapshotRow:
        with self._reading() as c:
            found = to_snapshots(c.execute(_BY_NAME, {"key": dataset_id, "wanted": name}))
        if not found:
            raise Missing(f"no snapshot @{name} of this dataset: `sds list -t snapshot` shows what there is")
        return found[0]

    def rename_snapshot(self, snapshot_id: int, name: str) -> None:
        check_name("snapshot", name)
        with self._transaction() as c:
            dataset_id, old = _where(c, snapshot_id)
            if old != name:
                check_snapshot_free(c, dataset_id, name)
                c.execute(update(snapshot).where(_s.id == snapshot_id).values(name=name))

    def destroy_snapshot(self, snapshot_id: int) -> None:
        with self._transaction() as c:
            dataset_id, _ = _where(c, snapshot_id)
            c.execute(delete(snapshot).where(_s.id == snapshot_id))
            bump(c, c.execute(select(dataset.c.family).where(dataset.c.id == dataset_id)).scalar_one())


def to_snapshots(rows: Iterable[Sequence[Any]]) -> list[SnapshotRow]:
    return [SnapshotRow(*row) for row in rows]


def check_snapshot_free(c: Connection, dataset_id: int, name: str) -> None:
    if c.execute(_BY_NAME, {"key": dataset_id, "wanted": name}).first() is not None:
        raise Exists(f"a snapshot @{name} exists already: choose another name")


def _where(c: Connection, snapshot_id: int) -> tuple[int, str]:
    row = c.execute(select(_s.dataset, _s.name).where(_s.id == snapshot_id)).first()
    if row is None:
        raise Missing(f"no snapshot with id {snapshot_id} in this pool: it was destroyed meanwhile")
    return row[0], row[1]
