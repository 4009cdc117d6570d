"""The registry of segments: which there are, in whose log, on which backends.

SG1  A segment is registered before its file is created; a file without a row is garbage.
SG2  A row goes before its files: whoever deletes files has deleted the rows first, and had a backup
     (pool/backup.py).
SG3  Rows outlive their dataset: a clone may still read them. They go with delete_segments, or forgotten by
     publish.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.engine import Connection

from sds.core.errors import Busy, Missing
from sds.pool.database import Database
from sds.pool.datasets import drop_empty_families
from sds.pool.rows import SegmentRow
from sds.pool.schema import family, segment

_g = segment.c
_SELECT = select(
    *(_g.id, _g.dataset, _g.epoch, _g.copies, _g.sealed, _g.size_bytes, _g.family),
    *(_g.generation, _g.blocks, _g.pack, _g.base, _g.verified_at),
)
_BY_ID = _SELECT.where(_g.id == bindparam("key"))
_OF_FAMILY = _SELECT.where(_g.family == bindparam("key")).order_by(_g.id)
_OF_DATASET = _SELECT.where(_g.dataset == bindparam("key"), _g.id >= bindparam("first")).order_by(_g.id)
_ALL = _SELECT.order_by(_g.id)
_DELETE = delete(segment).where(_g.id == bindparam("key"))


class SegmentTable(Database):
    def segment(self, segment_id: int) -> SegmentRow:
        with self._reading() as c:
            row = c.execute(_BY_ID, {"key": segment_id}).first()
        if row is None:
            raise Missing(f"segment {segment_id:#x} is not in the catalog")
        return to_segment(row)

    def segments(self, dataset_id: int, first_id: int = 0) -> list[SegmentRow]:
        """What this dataset wrote itself, by id."""
        with self._reading() as c:
            return [to_segment(row) for row in c.execute(_OF_DATASET, {"key": dataset_id, "first": first_id})]

    def segments_of_family(self, family_id: int) -> list[SegmentRow]:
        """By id; with those of destroyed datasets."""
        with self._reading() as c:
            return [to_segment(row) for row in c.execute(_OF_FAMILY, {"key": family_id})]

    def all_segments(self) -> list[SegmentRow]:
        with self._reading() as c:
            return [to_segment(row) for row in c.execute(_ALL)]

    def delete_dead(self, rows: Iterable[SegmentRow], expect: tuple[int, int]) -> None:
        """Segments that a mark found dead. `expect` = (family, generation) that the mark was made at. Busy, and nothing
        done, if it has moved on, or a row is not as it was seen: its file is the one that is deleted then.
        """
        with self._transaction() as c:
            now = c.execute(select(family.c.generation).where(family.c.id == expect[0])).scalar()
            if now != expect[1]:
                raise Busy(f"family {expect[0]} changed since it was marked: mark it again")
            for row in rows:
                _delete_seen(c, row)
            drop_empty_families(c)

    def delete_segments(self, ids: Collection[int]) -> None:
        """Rows that are the caller's to delete, whatever they are."""
        with self._transaction() as c:
            delete_rows(c, ids)
            drop_empty_families(c)


def _delete_seen(c: Connection, row: SegmentRow) -> None:
    """Busy if it was cleaned, moved or deleted since the caller read it."""
    seen = join_copies(row.copies)
    where = (_g.id == row.id, _g.pack == row.pack, _g.generation == row.generation, _g.copies == seen)
    if c.execute(delete(segment).where(*where)).rowcount != 1:
        raise Busy(f"segment {row.id:#x} was changed by somebody else meanwhile")


def to_segment(row: Sequence[Any]) -> SegmentRow:
    return SegmentRow(row[0], row[1], row[2], split_copies(row[3]), *row[4:])


def delete_rows(c: Connection, ids: Iterable[int]) -> None:
    keys = [{"key": segment_id} for segment_id in ids]
    if keys:
        c.execute(_DELETE, keys)


def count_copies_on(c: Connection, backend_id: int) -> int:
    listed = ("," + _g.copies + ",").like(f"%,{backend_id},%")
    return int(c.execute(select(func.count()).select_from(segment).where(listed)).scalar_one())


def join_copies(copies: Sequence[int]) -> str:
    assert len(set(copies)) == len(copies)
    return ",".join(map(str, copies))


def split_copies(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(","))) if text else ()
