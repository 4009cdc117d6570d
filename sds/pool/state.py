"""The catalog as bytes for a backup in the backends, and back. Segments are not in it: their names are
listed instead.

  ST1  The generation grows by one with every export, so the newest backup is the one with the highest.
  ST2  import_state accepts exactly what export_state wrote, or raises Corrupt saying what is wrong; it
       trusts nothing.
  ST3  After an import no id is handed out again that the old machine may have used since the backup: every
       counter jumps by ID_GAP, and beyond whatever the backends' listings show.
  ST4  Epochs likewise: register_found raises each dataset's epoch to the highest that its segments show.

| part       | content                                                                             |
|------------|-------------------------------------------------------------------------------------|
| first line | `sds-catalog 1 <generation, 16 hex digits> <xxh3-64 of the rest, 16 hex digits>\\n`  |
| rest       | JSON: {"generation": n, "tables": {table: [[column, ...], ...]}}, UTF-8             |
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import xxhash
from sqlalchemy import insert, select, update

from sds.core.errors import Corrupt, Exists
from sds.pool.database import Clock, Database, create_file, create_memory
from sds.pool.datasets import drop_empty_families, next_id
from sds.pool.rows import SegmentRow
from sds.pool.schema import backend, counter, dataset, event, family, member, pool, segment, snapshot
from sds.pool.segments import join_copies
from sds.pool.validate import check_tables

STATE_VERSION = 1
STATE_BYTES_MAX = 64 << 20
ID_GAP = 1 << 16
"""More ids than a machine hands out between two backups."""
EVENTS_EXPORTED = 100
TABLES = (pool, counter, backend, family, member, dataset, snapshot, event)
_HEAD = re.compile(rb"sds-catalog ([0-9]{1,6}) ([0-9a-f]{16}) ([0-9a-f]{16})\n")
_HEAD_BYTES_MAX = 64


class StateTable(Database):
    def export_state(self) -> bytes:
        """ST1. One consistent state, everything but segments and older events."""
        with self._transaction() as c:
            generation = next_id(c, "backup")
            tables: dict[str, list[list[Any]]] = {}
            for table in TABLES:
                statement = select(table).order_by(*table.primary_key.columns)
                if table is event:
                    statement = select(table).order_by(event.c.id.desc()).limit(EVENTS_EXPORTED)
                tables[table.name] = [[_plain(value) for value in row] for row in c.execute(statement)]
        body = json.dumps({"generation": generation, "tables": tables}, separators=(",", ":")).encode()
        return (
            b"sds-catalog %d %016x %016x\n" % (STATE_VERSION, generation, xxhash.xxh3_64_intdigest(body))
            + body
        )

    def backup_generation(self) -> int:
        """Of the newest export; after an import, beyond all that were there."""
        with self._reading() as c:
            return int(c.execute(select(counter.c.value).where(counter.c.name == "backup")).scalar_one())

    @classmethod
    def import_state(cls, data: bytes, path: Path | None, clock: Clock) -> Self:
        """ST2, ST3. A new catalog at `path` (None: in memory), without segments."""
        generation, body = _open_envelope(data)
        tables = _decode(body, generation)
        check_tables(tables)
        if path is not None and path.exists():
            raise Exists(f"{path} exists already")
        raw = create_memory() if path is None else create_file(path)
        catalog = cls(raw, "in memory" if path is None else str(path), clock)
        with catalog._transaction() as c:
            for table in TABLES:
                if tables[table.name]:
                    c.execute(insert(table), tables[table.name])
            c.execute(update(counter).values(value=counter.c.value + ID_GAP))
        return catalog

    def register_found(self, found: Iterable[SegmentRow]) -> list[SegmentRow]:
        """Fills the empty registry from what the backends list; `family` of the given rows does not count.

        Returned are those left out: of datasets this catalog has never heard of, and older epochs of a
        segment that was found twice. The caller reports them and deletes nothing.
        """
        with self._transaction() as c:
            families = {row[0]: row[1] for row in c.execute(select(member.c.dataset, member.c.family))}
            newest, left_out = _newest(found, families)
            if newest:
                c.execute(insert(segment), [_segment_values(row, families[row.dataset]) for row in newest])
            everything = [*newest, *left_out]
            _raise_counter(c, "segment", [row.id for row in everything])
            _raise_counter(c, "dataset", [row.dataset for row in everything])
            for row in _highest_epochs(newest):
                statement = update(dataset).where(dataset.c.id == row.dataset, dataset.c.epoch < row.epoch)
                c.execute(statement.values(epoch=row.epoch))
            drop_empty_families(c)
        return left_out


def state_generation(data: bytes) -> int:
    """Of an export; Corrupt if it is none, or damaged."""
    return _open_envelope(data)[0]


def _open_envelope(data: bytes) -> tuple[int, bytes]:
    if len(data) > STATE_BYTES_MAX:
        raise Corrupt(
            f"catalog backup: {len(data)} bytes are more than the largest possible, {STATE_BYTES_MAX}"
        )
    match = _HEAD.match(data[:_HEAD_BYTES_MAX])
    if match is None:
        raise Corrupt("catalog backup: its first line is not that of a backup")
    if int(match[1]) != STATE_VERSION:
        raise Corrupt(
            f"catalog backup: version {int(match[1])}, this program knows {STATE_VERSION}: upgrade sds"
        )
    body = data[match.end() :]
    if xxhash.xxh3_64_intdigest(body) != int(match[3], 16):
        raise Corrupt("catalog backup: checksum does not match, it is damaged")
    return int(match[2], 16), body


def _decode(body: bytes, generation: int) -> dict[str, list[dict[str, Any]]]:
    try:
        state = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"catalog backup: not JSON ({error})") from error
    if not isinstance(state, dict) or set(state) != {"generation", "tables"}:
        raise Corrupt("catalog backup: expected `generation` and `tables`, nothing else")
    if state["generation"] != generation:
        raise Corrupt("catalog backup: generation inside differs from that of the first line")
    tables = state["tables"]
    if not isinstance(tables, dict) or set(tables) != {table.name for table in TABLES}:
        raise Corrupt("catalog backup: the set of tables is not the expected one")
    return {
        table.name: _decode_rows(table.name, [c.name for c in table.columns], tables[table.name])
        for table in TABLES
    }


def _decode_rows(name: str, columns: Sequence[str], rows: object) -> list[dict[str, Any]]:
    if not isinstance(rows, list):
        raise Corrupt(f"catalog backup: table {name} is not a list")
    decoded = []
    for row in rows:
        if not isinstance(row, list) or len(row) != len(columns):
            raise Corrupt(f"catalog backup: a row of {name} has not {len(columns)} columns")
        decoded.append(dict(zip(columns, row, strict=True)))
    return decoded


def _plain(value: Any) -> Any:
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def _newest(
    found: Iterable[SegmentRow], families: dict[int, int]
) -> tuple[list[SegmentRow], list[SegmentRow]]:
    best: dict[int, SegmentRow] = {}
    left_out = []
    for row in found:
        other = best.get(row.id)
        if row.dataset not in families:
            left_out.append(row)
        elif other is None or row.epoch > other.epoch:
            best[row.id] = row
            left_out += [] if other is None else [other]
        else:
            left_out.append(row)
    return [best[key] for key in sorted(best)], left_out


def _segment_values(row: SegmentRow, family_id: int) -> dict[str, Any]:
    values = {"id": row.id, "dataset": row.dataset, "epoch": row.epoch, "copies": join_copies(row.copies)}
    return values | {"sealed": row.sealed, "size_bytes": row.size_bytes, "family": family_id}


def _highest_epochs(rows: Iterable[SegmentRow]) -> list[SegmentRow]:
    highest: dict[int, SegmentRow] = {}
    for row in rows:
        if row.dataset not in highest or row.epoch > highest[row.dataset].epoch:
            highest[row.dataset] = row
    return list(highest.values())


def _raise_counter(c: Any, kind: str, seen: Sequence[int]) -> None:
    if seen:
        floor = max(seen) + ID_GAP
        c.execute(update(counter).where(counter.c.name == kind, counter.c.value < floor).values(value=floor))
