"""What the listings of the backends show: segments with a file of their own, and in packs. For imports.

  FO1  Nothing is written. A listing that fails is an error, never an empty one.
  FO2  Names are proof of nothing but themselves: of a pack its index and tables count, as far as they verify. A damaged
       copy is told; the others do. What has no good copy is left out and told.
  FO3  Ids so high that none would be left after them are left out and told: no release of ours came that far, and
       taking them for real would leave the pool without ids (ST3 of state.py).
  FO4  A pack is read in two pieces, both bounded by the largest segment: its end, then index and tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from backends.base import Backend, Stat
from sds.core.address import SEGMENT_ID_MAX, SEGMENT_SIZE_MAX, UNIT
from sds.core.errors import BackendError, BadInput, Corrupt, Missing, SdsError
from sds.core.frame import pool_key
from sds.core.names import (
    DATASET_ID_MAX,
    EPOCH_MAX,
    PACK_PREFIX,
    SEGMENT_PREFIX,
    PackName,
    SegmentName,
    parse_pack_name,
    parse_segment_name,
)  # fmt: skip
from sds.core.pack import (
    TRAILER_SIZE,
    RelocationTable,
    decode_index,
    decode_pack_trailer,
    decode_table,
)  # fmt: skip
from sds.pool.rows import PoolRow, SegmentRow
from sds.pool.state import ID_GAP

TOLD_MAX = 20


@dataclass(slots=True)
class Found:
    rows: list[SegmentRow] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    """Lines for people: what was left out, and why."""


async def find_segments(backends: Mapping[int, Backend], pool: PoolRow) -> Found:
    """One row per segment and epoch, and file or pack."""
    found = Found()
    await _find_files(backends, pool, found)
    await _find_packs(backends, pool, found)
    if len(found.told) > TOLD_MAX:
        found.told[TOLD_MAX:] = [f"... and {len(found.told) - TOLD_MAX} more"]
    return found


async def list_segments(backend: Backend) -> list[tuple[Stat, SegmentName]]:
    """What is named like a segment; other files are none of ours."""
    found = []
    for stat in await backend.list(SEGMENT_PREFIX):
        try:
            found.append((stat, parse_segment_name(stat.name)))
        except BadInput:
            continue
    return found


async def list_packs(backend: Backend) -> list[tuple[Stat, PackName]]:
    """What is named like a pack."""
    found = []
    for stat in await backend.list(PACK_PREFIX):
        try:
            found.append((stat, parse_pack_name(stat.name)))
        except BadInput:
            continue
    return found


async def _find_files(backends: Mapping[int, Backend], pool: PoolRow, found: Found) -> None:
    """A file shorter than a segment was sealed: open ones have their full size.

    A sealed segment may be full, too: recovery looks for the footer before it believes that one is open.
    """
    copies: dict[SegmentName, list[tuple[int, int]]] = {}
    for backend_id, backend in backends.items():
        for stat, name in await list_segments(backend):
            if _is_absurd(name.segment, name.dataset, name.epoch):
                found.told.append(f"{backend.url}: {stat.name} was left out: no pool gets to numbers that high")
            else:
                copies.setdefault(name, []).append((backend_id, stat.size_bytes))
    for name, places in copies.items():
        sizes = [size for _, size in places]
        ids = tuple(backend_id for backend_id, _ in places)
        sealed = max(sizes) < pool.segment_size and min(sizes) == max(sizes)
        found.rows.append(SegmentRow(name.segment, name.dataset, name.epoch, ids, sealed, max(sizes)))


def _is_absurd(segment: int, dataset: int, epoch: int) -> bool:
    """FO3."""
    return segment > SEGMENT_ID_MAX - ID_GAP or dataset > DATASET_ID_MAX - ID_GAP or epoch > EPOCH_MAX - ID_GAP


# -- packs -----------------------------------------------------------------------------------------------------------


async def _find_packs(backends: Mapping[int, Backend], pool: PoolRow, found: Found) -> None:
    copies: dict[PackName, list[tuple[int, Stat]]] = {}
    for backend_id, backend in backends.items():
        for stat, name in await list_packs(backend):
            if name.pack > SEGMENT_ID_MAX - ID_GAP:
                found.told.append(f"{backend.url}: {stat.name} was left out: no pool gets to numbers that high")
            else:
                copies.setdefault(name, []).append((backend_id, stat))
    for name, places in copies.items():
        await _add_pack(backends, pool, name, places, found)


async def _add_pack(
    backends: Mapping[int, Backend], pool: PoolRow, name: PackName, places: list[tuple[int, Stat]], found: Found
) -> None:
    """FO2. Copies that could not be read count if another one could: they may be good."""
    readable: list[tuple[int, int, list[SegmentRow]]] = []
    """How much of it is damaged, the backend, and what could be read: copies without damage come first."""
    unread: list[int] = []
    failed: BackendError | None = None
    for backend_id, stat in places:
        url = backends[backend_id].url
        try:
            rows, damage = await _read_pack(backends[backend_id], stat, name, pool_key(pool.uuid))
        except BackendError as error:
            failed, unread = error, [*unread, backend_id]
        except (Corrupt, Missing) as error:
            found.told.append(f"{url}: {stat.name} is damaged: {error}")
        else:
            found.told += [f"{url}: {stat.name} is damaged: {text}" for text in damage]
            readable.append((len(damage), backend_id, rows))
    members: dict[int, list[SegmentRow]] = {}
    for _, backend_id, rows in sorted(readable, key=lambda one: one[:2]):
        for row in rows:
            members.setdefault(row.id, []).append(replace(row, copies=(backend_id,)))
    if not members:
        if failed is not None:
            raise failed
        found.told.append(f"{places[0][1].name} has no good copy: what lies in it only is lost")
        return
    ids = (*(backend_id for _, backend_id, _ in sorted(readable, key=lambda one: one[:2])), *unread)
    for copies in members.values():
        if _is_absurd(copies[0].id, copies[0].dataset, copies[0].epoch):
            found.told.append(f"{places[0][1].name}: segment {copies[0].id:#x} was left out: no pool gets that high")
        else:
            found.rows.append(replace(copies[0], copies=ids))  # those of the file (FI1): scrub heals what is damaged


async def _read_pack(backend: Backend, stat: Stat, name: PackName, key: int) -> tuple[list[SegmentRow], list[str]]:
    """FO4. Rows without copies, and what is wrong with members that are left out. Corrupt: nothing can be used."""
    if not 2 * TRAILER_SIZE < stat.size_bytes <= SEGMENT_SIZE_MAX:
        raise Corrupt(f"{stat.size_bytes} bytes are no size of a pack")
    reader = await backend.open(stat.name)
    try:
        tail = memoryview(bytearray(TRAILER_SIZE))
        await reader.read(stat.size_bytes - TRAILER_SIZE, tail)
        trailer = decode_pack_trailer(tail, stat.size_bytes)
        if trailer.pack != name.pack:
            raise Corrupt(f"it is pack {trailer.pack:#x}")
        index = memoryview(bytearray(trailer.index_bytes))
        await reader.read(trailer.index_offset, index)
        entries = decode_index(index, trailer, key)
        start = entries[0].base
        tables = memoryview(bytearray(trailer.index_offset - start))
        await reader.read(start, tables)
    finally:
        reader.close()
    good: dict[int, RelocationTable] = {}
    damage: list[str] = []
    for entry in entries:
        try:
            table = decode_table(tables[entry.base - start : entry.base - start + entry.table_bytes], entry.base, key)
            if (table.head.member.segment, table.head.pack) != (entry.segment, name.pack):
                raise Corrupt(f"the table at {entry.base} is that of another segment")
        except SdsError as error:
            damage.append(str(error))
        else:
            good[entry.base] = table
    return _rows(good, stat.size_bytes), damage


def _rows(tables: Mapping[int, RelocationTable], file_bytes: int) -> list[SegmentRow]:
    """By base. The shares add up to the file: the first one has what belongs to none, as in sds.core.pack."""
    rows = []
    shares = [
        sum(frame.length for frame in table.frames()) + -(-table.head.table_bytes // UNIT) * UNIT
        for table in tables.values()
    ]
    if shares:
        shares[0] += file_bytes - sum(shares)
    for (base, table), share in zip(tables.items(), shares, strict=True):
        member = table.head.member
        rows.append(
            SegmentRow(
                member.segment, member.dataset, member.epoch, (), True, share, 0, member.generation,
                table.head.blocks, table.head.pack, base,
            )
        )
    return rows
