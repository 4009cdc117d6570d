"""A segment that lies in a pack, read as if it were still the file that its writer made.

  RL1  Offsets are those of the segment as it was written: readers and their checksums know of no other.
  RL2  A read that begins in no frame that was kept is Missing (`read_nowait`: False): never other bytes (PK2 of
       sds.core.pack).
  RL3  A read may ask for more than its frame, as FrameReader does before it knows the frame's size: what it gets behind
       the frame is whatever follows in the pack. At the end of the pack it is Corrupt, as with any file (B6).
  RL4  The table is verified before it answers anything, and it must be that of the segment asked for.
"""

from backends.base import Reader
from backends.cache import CachedReader
from sds.core.errors import Corrupt, Missing
from sds.core.pack import TABLE_SIZE, RelocationTable, decode_table, decode_table_head
from sds.pool.rows import SegmentRow


class Relocated:
    """A Reader (backends.base) in the offsets of one member. It owns the file: close closes that."""

    __slots__ = ("_file", "table")

    def __init__(self, file: Reader, table: RelocationTable) -> None:
        self._file = file
        self.table = table

    def read_nowait(self, offset: int, into: memoryview) -> bool:
        frame = self.table.place(offset)
        return frame is not None and self._file.read_nowait(frame.new_offset + offset - frame.old_offset, into)

    async def read(self, offset: int, into: memoryview) -> None:
        frame = self.table.place(offset)
        if frame is None:
            head = self.table.head
            raise Missing(
                f"segment {head.member.segment:#x} has nothing at {offset} since it was cleaned "
                f"into pack {head.pack:#x}: look at the map again"
            )
        await self._file.read(frame.new_offset + offset - frame.old_offset, into)

    def will_need(self, offset: int, length: int) -> bool:
        """For the frame that the range begins in, as far as that goes."""
        frame = self.table.place(offset)
        if frame is None:
            return False
        within = offset - frame.old_offset
        return self._file.will_need(frame.new_offset + within, min(length, frame.length - within))

    def distrust(self) -> bool:
        """As CachedReader of backends.cache: the pack is."""
        return isinstance(self._file, CachedReader) and self._file.distrust()

    def close(self) -> None:
        self._file.close()


def is_of(table: RelocationTable, row: SegmentRow) -> bool:
    """Is this the table that the catalog means? (RL4)"""
    head, member = table.head, table.head.member
    found = (member.segment, member.dataset, member.epoch, member.generation, head.pack)
    return found == (row.id, row.dataset, row.epoch, row.generation, row.pack)


async def open_member(file: Reader, base: int, row: SegmentRow, key: int) -> Relocated:
    """`file`: the open pack, `key`: of the pool. Corrupt: damaged, or another's table; the file stays open."""
    head = memoryview(bytearray(TABLE_SIZE))
    await file.read(base, head)
    size_bytes = decode_table_head(head, base).table_bytes
    data = memoryview(bytearray(size_bytes))
    await file.read(base, data)
    table = decode_table(data, base, key)
    if not is_of(table, row):
        raise Corrupt(f"pack {row.pack:#x} has at {base} the table of another segment than {row.id:#x}")
    return Relocated(file, table)
