"""Datasets and families in the catalog.

DS1  Names are unique in the pool; ids are never reused, so neither are the names of segments.
DS2  A family lives as long as it has a dataset or a segment; `member` remembers its destroyed datasets until
     then.
DS3  Clone, rollback and destroy raise the family's generation in the same transaction.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.engine import Connection

from sds.core.errors import BadInput, Busy, Exists, Missing
from sds.core.names import check_name
from sds.core.units import SIZE_MAX, shown
from sds.pool.database import Database
from sds.pool.rows import CheckpointRef, DatasetKind, DatasetRow, SnapshotRow
from sds.pool.schema import counter, dataset, family, member, segment, snapshot

_d = dataset.c
CHECKPOINT_COLUMNS = ("root", "sequence", "segment", "offset", "size_bytes", "mapped_blocks", "written_bytes")
_SELECT = select(
    *(_d.id, _d.name, _d.kind, _d.size_bytes, _d.epoch, _d.family, _d.origin_snapshot, family.c.generation),
    *(_d.properties, _d.created_at),
    *(_d[f"ck_{name}"] for name in CHECKPOINT_COLUMNS),
    *(_d[f"up_{name}"] for name in CHECKPOINT_COLUMNS),
    _d.journal_lost,
).join_from(dataset, family)
_BY_ID = _SELECT.where(_d.id == bindparam("key"))
_BY_NAME = _SELECT.where(_d.name == bindparam("key"))
_BY_FAMILY = _SELECT.where(_d.family == bindparam("key")).order_by(_d.id)
_ALL = _SELECT.order_by(_d.name)
_NEXT = (
    update(counter)
    .where(counter.c.name == bindparam("key"))
    .values(value=counter.c.value + 1)
    .returning(counter.c.value)
)
_BUMP = update(family).where(family.c.id == bindparam("key")).values(generation=family.c.generation + 1)
_DROP_EMPTY = delete(family).where(
    ~select(1).where(_d.family == family.c.id).exists(),
    ~select(1).where(segment.c.family == family.c.id).exists(),
)


class DatasetTable(Database):
    def create_dataset(
        self,
        name: str,
        kind: DatasetKind,
        size_bytes: int,
        properties: Mapping[str, str] | None = None,
        origin: SnapshotRow | None = None,
    ) -> DatasetRow:
        """A new dataset: empty, or a clone of a snapshot (in its family, with its root)."""
        check_name("dataset", name)
        if not 0 <= size_bytes <= SIZE_MAX:
            raise BadInput(f"a dataset cannot have {size_bytes} bytes: choose 0 to {SIZE_MAX}")
        with self._transaction() as c:
            _check_free(c, name)
            new = next_id(c, "dataset")
            values: dict[str, Any] = {"family": new}
            if origin is None:
                c.execute(insert(family).values(id=new, generation=0))
            else:
                values = _clone_values(c, origin, size_bytes)
                bump(c, values["family"])
            c.execute(insert(member).values(dataset=new, family=values["family"]))
            values |= {
                "id": new,
                "name": name,
                "kind": kind,
                "size_bytes": size_bytes,
                "epoch": 0,
                "holder": "",
            }
            values |= {"properties": json.dumps(dict(properties or {})), "created_at": self._now()}
            c.execute(insert(dataset).values(values))
            return _one(c, _BY_ID, new)

    def dataset(self, name: str) -> DatasetRow:
        with self._reading() as c:
            return _one(c, _BY_NAME, name)

    def dataset_by_id(self, dataset_id: int) -> DatasetRow:
        with self._reading() as c:
            return _one(c, _BY_ID, dataset_id)

    def datasets(self) -> list[DatasetRow]:
        """All, by name."""
        with self._reading() as c:
            return [to_dataset(row) for row in c.execute(_ALL)]

    def datasets_of_family(self, family_id: int) -> list[DatasetRow]:
        with self._reading() as c:
            return [to_dataset(row) for row in c.execute(_BY_FAMILY, {"key": family_id})]

    def families(self) -> list[int]:
        """Every family, also those of which only segments are left."""
        with self._reading() as c:
            return list(c.execute(select(family.c.id).order_by(family.c.id)).scalars())

    def generation(self, family_id: int) -> int:
        with self._reading() as c:
            found = c.execute(select(family.c.generation).where(family.c.id == family_id)).scalar()
        if found is None:
            raise Missing(f"no family {family_id} in this pool")
        return int(found)

    def rename_dataset(self, dataset_id: int, name: str) -> None:
        check_name("dataset", name)
        with self._transaction() as c:
            if _one(c, _BY_ID, dataset_id).name != name:
                _check_free(c, name)
                c.execute(update(dataset).where(_d.id == dataset_id).values(name=name))

    def set_property(self, dataset_id: int, key: str, value: str | None) -> None:
        """None takes the property away."""
        check_name("property", key)
        with self._transaction() as c:
            properties = dict(_one(c, _BY_ID, dataset_id).properties)
            if value is None:
                properties.pop(key, None)
            else:
                properties[key] = value
            c.execute(update(dataset).where(_d.id == dataset_id).values(properties=json.dumps(properties)))

    def destroy_dataset(self, dataset_id: int) -> None:
        """Its segments stay registered: the sweep deletes what no other member of the family uses."""
        with self._transaction() as c:
            row = _one(c, _BY_ID, dataset_id)
            names = c.execute(select(snapshot.c.name).where(snapshot.c.dataset == dataset_id)).scalars().all()
            if names:
                shown_names = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
                raise Busy(f"{row.name} has snapshots ({shown_names}): destroy them first, or use -r")
            c.execute(delete(dataset).where(_d.id == dataset_id))
            bump(c, row.family)
            drop_empty_families(c)


def to_dataset(row: Sequence[Any]) -> DatasetRow:
    checkpoint = None if row[10] is None else CheckpointRef(*row[10:17])
    uploaded = None if row[17] is None else CheckpointRef(*row[17:24])
    first, second = tuple(row[:5]), tuple(row[5:8])
    return DatasetRow(*first, checkpoint, *second, json.loads(row[8]), row[9], uploaded, row[24])  # type: ignore[call-arg]


def find_dataset(c: Connection, dataset_id: int) -> DatasetRow:
    return _one(c, _BY_ID, dataset_id)


def next_id(c: Connection, kind: str) -> int:
    """DS1: counters only grow."""
    return int(c.execute(_NEXT, {"key": kind}).scalar_one())


def bump(c: Connection, family_id: int) -> None:
    c.execute(_BUMP, {"key": family_id})


def drop_empty_families(c: Connection) -> None:
    """DS2."""
    c.execute(_DROP_EMPTY)


def _one(c: Connection, statement: Any, key: int | str) -> DatasetRow:
    row = c.execute(statement, {"key": key}).first()
    if row is None:
        raise Missing(f"no dataset {shown(str(key))} in this pool: `sds list` shows what there is")
    return to_dataset(row)


def _check_free(c: Connection, name: str) -> None:
    if c.execute(select(_d.id).where(_d.name == name)).first() is not None:
        raise Exists(f"a dataset {name} exists already: choose another name")


def _clone_values(c: Connection, origin: SnapshotRow, size_bytes: int) -> dict[str, Any]:
    """The snapshot is read anew: it may have been destroyed, or finished, since the caller looked."""
    found = c.execute(
        select(snapshot.c.root, snapshot.c.mapped_blocks, _d.family)
        .join_from(snapshot, dataset)
        .where(snapshot.c.id == origin.id)
    ).first()
    if found is None:
        raise Missing(f"snapshot {origin.name} is gone")
    if found.root is None:
        raise Busy(f"snapshot {origin.name} is still being written: try again in a moment")
    ref = CheckpointRef(found.root, 0, 0, 0, size_bytes, found.mapped_blocks, 0)
    values = {"family": found.family, "origin_snapshot": origin.id}
    return values | checkpoint_values(ref) | checkpoint_values(ref, "up")


def checkpoint_values(ref: CheckpointRef, which: str = "ck") -> dict[str, int]:
    return {f"{which}_{name}": getattr(ref, name) for name in CHECKPOINT_COLUMNS}
