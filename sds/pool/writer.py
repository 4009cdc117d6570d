"""What the one writer of a dataset does to the catalog.

W1  Each method is one transaction and conditional on (dataset, epoch): once another worker has acquired the
    dataset, every later call raises Fenced and changes nothing.
W2  acquire raises the epoch by one; an epoch is held by at most one worker, ever.
W3  publish is atomic: checkpoint, snapshot roots, forgotten and sealed segments appear together or not at
    all.
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.engine import Connection

from sds.core.address import SEGMENT_ID_MAX
from sds.core.errors import Fenced, Missing, NoSpace
from sds.core.names import EPOCH_MAX, check_name
from sds.pool.database import Database
from sds.pool.datasets import CHECKPOINT_COLUMNS, bump, checkpoint_values, find_dataset, next_id
from sds.pool.rows import CheckpointRef, Sealed, SnapshotRow
from sds.pool.schema import dataset, segment, snapshot
from sds.pool.segments import delete_rows, join_copies
from sds.pool.snapshots import check_snapshot_free

_NOTHING: Mapping[int, int] = MappingProxyType({})
_NOT_SEALED: Mapping[int, Sealed] = MappingProxyType({})
_d, _g, _s = dataset.c, segment.c, snapshot.c
_HELD = select(_d.epoch, _d.name, _d.family).where(_d.id == bindparam("key"))
_PUBLISH = (
    update(dataset)
    .where(_d.id == bindparam("key"))
    .values({f"ck_{name}": bindparam(f"ck_{name}") for name in CHECKPOINT_COLUMNS})
    .values(size_bytes=bindparam("ck_size_bytes"), journal_lost=0)
)
_UPLOADED = (
    update(dataset)
    .where(_d.id == bindparam("key"))
    .values({f"up_{name}": bindparam(f"up_{name}") for name in CHECKPOINT_COLUMNS})
)
_ROOT = (
    update(snapshot)
    .where(_s.id == bindparam("key"), _s.dataset == bindparam("owner"))
    .values(root=bindparam("new_root"), mapped_blocks=bindparam("mapped"))
)
_SEAL = (
    update(segment)
    .where(_g.id == bindparam("key"), _g.dataset == bindparam("owner"))
    .values(sealed=True, size_bytes=bindparam("bytes"), blocks=bindparam("data_blocks"))
)
_COPIES = (
    update(segment)
    .where(_g.id == bindparam("key"), _g.dataset == bindparam("owner"))
    .values(copies=bindparam("where"))
)
_ALLOCATE = insert(segment)


class WriterTable(Database):
    def acquire(self, dataset_id: int, holder: str) -> int:
        """The new epoch. The caller holds the lease (pool/lease.py); `holder` is for people."""
        with self._transaction() as c:
            epoch = find_dataset(c, dataset_id).epoch + 1
            if epoch > EPOCH_MAX:
                raise NoSpace(f"dataset {dataset_id} was opened {EPOCH_MAX} times: clone it to go on")
            c.execute(update(dataset).where(_d.id == dataset_id).values(epoch=epoch, holder=holder))
        return epoch

    def holder(self, dataset_id: int) -> tuple[int, str]:
        """(epoch, holder) of the last acquire."""
        with self._reading() as c:
            row = c.execute(select(_d.epoch, _d.holder).where(_d.id == dataset_id)).first()
        if row is None:
            raise Missing(f"no dataset with id {dataset_id} in this pool")
        return row[0], row[1]

    def allocate_segment(self, dataset_id: int, epoch: int, copies: Sequence[int]) -> int:
        """Registers an open segment; ids grow by one, are pool-wide and never reused."""
        return self.allocate_segments(dataset_id, epoch, [copies])[0]

    def allocate_segments(self, dataset_id: int, epoch: int, places: Sequence[Sequence[int]]) -> list[int]:
        """Registers an open segment for each of `places`, the backends of its copies; ids as allocate_segment."""
        ids = []
        with self._transaction() as c:
            family_id = _held(c, dataset_id, epoch)
            for copies in places:
                new = next_id(c, "segment")
                if new > SEGMENT_ID_MAX:
                    raise NoSpace("the pool has used up all its segment ids: move its datasets to a new pool")
                values = {"id": new, "dataset": dataset_id, "epoch": epoch, "copies": join_copies(copies)}
                c.execute(_ALLOCATE, values | {"sealed": False, "size_bytes": 0, "family": family_id})
                ids.append(new)
        return ids

    def set_segment_copies(self, dataset_id: int, epoch: int, segment_id: int, copies: Sequence[int]) -> None:
        with self._transaction() as c:
            _held(c, dataset_id, epoch)
            keys = {"key": segment_id, "owner": dataset_id}
            _expect_one(c.execute(_COPIES, keys | {"where": join_copies(copies)}).rowcount, segment_id)

    def seal_segment(
        self, dataset_id: int, epoch: int, segment_id: int, size_bytes: int, blocks: int = 0
    ) -> None:
        with self._transaction() as c:
            _held(c, dataset_id, epoch)
            keys = {"key": segment_id, "owner": dataset_id, "bytes": size_bytes, "data_blocks": blocks}
            _expect_one(c.execute(_SEAL, keys).rowcount, segment_id)

    def publish(
        self,
        dataset_id: int,
        epoch: int,
        checkpoint: CheckpointRef,
        snapshot_roots: Mapping[int, int] = _NOTHING,
        forget: Collection[int] = (),
        sealed: Mapping[int, Sealed] = _NOT_SEALED,
        snapshot_mapped: Mapping[int, int] = _NOTHING,
    ) -> None:
        """W3. The dataset's size becomes the checkpoint's.

        `snapshot_roots`: snapshot id -> root; those destroyed meanwhile are skipped. `forget`: segments
        whose rows go. `sealed`: segment id -> what is known of it. `snapshot_mapped`: snapshot id -> mapped
        blocks, if not the checkpoint's.
        """
        with self._transaction() as c:
            _held(c, dataset_id, epoch)
            c.execute(_PUBLISH, {"key": dataset_id, **checkpoint_values(checkpoint)})
            roots: list[dict[str, Any]] = [
                {
                    "key": key,
                    "owner": dataset_id,
                    "new_root": root,
                    "mapped": snapshot_mapped.get(key, checkpoint.mapped_blocks),
                }
                for key, root in snapshot_roots.items()
            ]
            if roots:
                c.execute(_ROOT, roots)
            if sealed:
                values = [
                    {"key": key, "owner": dataset_id, "bytes": size, "data_blocks": blocks}
                    for key, (size, blocks) in sealed.items()
                ]
                c.execute(_SEAL, values)
            delete_rows(c, forget)

    def set_uploaded(self, dataset_id: int, epoch: int, checkpoint: CheckpointRef) -> None:
        """All that this checkpoint, published before, refers to is where it stays: it needs no journal any more."""
        with self._transaction() as c:
            _held(c, dataset_id, epoch)
            c.execute(_UPLOADED, {"key": dataset_id, **checkpoint_values(checkpoint, "up")})

    def add_snapshot(
        self, dataset_id: int, epoch: int, snapshot_id: int, name: str, sequence: int, size_bytes: int
    ) -> SnapshotRow:
        """`snapshot_id` is from reserve_snapshot_id. Repeating it with the same name (replay) changes
        nothing.
        """
        check_name("snapshot", name)
        row = SnapshotRow(snapshot_id, dataset_id, name, sequence, size_bytes, None, self._now())
        with self._transaction() as c:
            _held(c, dataset_id, epoch)
            old = c.execute(select(snapshot).where(_s.id == snapshot_id, _s.dataset == dataset_id)).first()
            if old is not None:
                return SnapshotRow(**old._mapping)
            check_snapshot_free(c, dataset_id, name)
            values = {
                "id": snapshot_id,
                "dataset": dataset_id,
                "name": name,
                "sequence": sequence,
                "root": None,
            }
            values |= {"size_bytes": size_bytes, "created_at": row.created_at, "mapped_blocks": 0}
            c.execute(insert(snapshot), values)
        return row

    def rolled_back(self, dataset_id: int, epoch: int) -> None:
        """The head got an older root: marks made before are stale."""
        with self._transaction() as c:
            bump(c, _held(c, dataset_id, epoch))


def _held(c: Connection, dataset_id: int, epoch: int) -> int:
    """W1. The family of the dataset."""
    row = c.execute(_HELD, {"key": dataset_id}).first()
    if row is None:
        raise Fenced(
            f"dataset {dataset_id} was destroyed while epoch {epoch} had it open: this worker must end"
        )
    if row.epoch != epoch:
        raise Fenced(f"{row.name} belongs to epoch {row.epoch} now, not {epoch}: this worker must end")
    return int(row.family)


def _expect_one(count: int, segment_id: int) -> None:
    if count != 1:
        raise Missing(f"segment {segment_id:#x} is not in the catalog as one of this dataset")
