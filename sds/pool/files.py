"""Files on the backends as maintenance sees them: a segment as its writer made it, or a pack of cleaned ones.

FI1  The copies of a file are the same for all segments in it; they change together (set_copies).
FI2  A change of copies, or of where a segment lies, is conditional on what the caller saw: Busy, and nothing done, if
     somebody else was faster.
FI3  Only files of sealed segments are maintained: an open one belongs to its writer.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Delete, Update, bindparam, delete, func, select, update
from sqlalchemy.engine import Connection

from sds.core.errors import Busy
from sds.core.names import pack_name, segment_name
from sds.pool.database import Database
from sds.pool.datasets import next_id
from sds.pool.rows import SegmentRow
from sds.pool.schema import family, segment
from sds.pool.segments import join_copies

_g = segment.c


@dataclass(frozen=True, slots=True)
class StoredFile:
    name: str
    rows: tuple[SegmentRow, ...]
    """The segments in it, by id; never empty."""

    @property
    def copies(self) -> tuple[int, ...]:
        return self.rows[0].copies

    @property
    def family(self) -> int:
        return self.rows[0].family

    @property
    def pack(self) -> int:
        return self.rows[0].pack

    @property
    def size_bytes(self) -> int:
        return sum(row.size_bytes for row in self.rows)


@dataclass(frozen=True, slots=True)
class Packed:
    """Where a segment lies after it was cleaned."""

    segment: int
    base: int
    size_bytes: int
    blocks: int


def file_name(row: SegmentRow) -> str:
    """Of the file that a segment lies in."""
    return pack_name(row.family, row.pack) if row.pack else segment_name(row.dataset, row.id, row.epoch)


def files_of(rows: Iterable[SegmentRow]) -> list[StoredFile]:
    """Files of sealed segments (FI3), by the lowest segment in them. All segments of a pack must be among the rows."""
    found: dict[str, list[SegmentRow]] = {}
    for row in rows:
        if row.sealed:
            found.setdefault(file_name(row), []).append(row)
    return [StoredFile(name, tuple(members)) for name, members in found.items()]


class FileTable(Database):
    def set_copies(self, file: StoredFile, copies: Sequence[int]) -> None:
        """FI2."""
        assert copies, "the last copy of a file is never given up"
        statement = (
            update(segment)
            .where(_g.id == bindparam("key"), _g.copies == join_copies(file.copies), _g.pack == file.pack, _g.sealed)
            .values(copies=join_copies(copies))
        )
        with self._transaction() as c:
            for row in file.rows:
                if c.execute(statement, {"key": row.id}).rowcount != 1:
                    raise Busy(f"{file.name} was changed by somebody else meanwhile")

    def new_pack_id(self) -> int:
        """From the same sequence as ids of segments: it tells when the pack was made."""
        with self._transaction() as c:
            return next_id(c, "segment")

    def pack_segments(
        self, family_generation: tuple[int, int], old: Collection[StoredFile], pack_id: int, copies: Sequence[int],
        members: Sequence[Packed],
    ) -> None:  # fmt: skip
        """Everything that is alive in the `old` files lies in a new pack from now on; segments without live frames are
        gone. FI2; Busy, too, if the family has moved on since it was marked."""
        placed = {member.segment: member for member in members}
        with self._transaction() as c:
            now = c.execute(select(family.c.generation).where(family.c.id == family_generation[0])).scalar()
            if now != family_generation[1]:
                raise Busy(f"family {family_generation[0]} changed since it was marked: mark it again")
            for file in old:
                count = select(func.count()).select_from(segment).where(_g.pack == file.pack)
                if file.pack and c.execute(count).scalar_one() != len(file.rows):
                    raise Busy(f"{file.name} was changed by somebody else meanwhile")
                for row in file.rows:
                    self._repack(c, row, pack_id, copies, placed.get(row.id))

    def _repack(self, c: Connection, row: SegmentRow, pack_id: int, copies: Sequence[int], to: Packed | None) -> None:
        copies_then = join_copies(row.copies)
        where = (_g.id == row.id, _g.pack == row.pack, _g.generation == row.generation, _g.copies == copies_then)
        statement: Delete | Update = delete(segment).where(*where)
        if to is not None:
            statement = update(segment).where(*where).values(
                generation=row.generation + 1, pack=pack_id, base=to.base, size_bytes=to.size_bytes, blocks=to.blocks,
                copies=join_copies(copies), verified_at=0,
            )  # fmt: skip
        if c.execute(statement).rowcount != 1:
            raise Busy(f"segment {row.id:#x} was changed by somebody else meanwhile")

    def set_verified(self, file: StoredFile, at: int) -> None:
        ids = [row.id for row in file.rows]
        with self._transaction() as c:
            c.execute(update(segment).where(_g.id.in_(ids), _g.pack == file.pack).values(verified_at=at))
