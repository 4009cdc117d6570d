"""The catalog as bytes for a backup in the backends, and back. Segments are not in it: their names are
listed instead.

  ST1  The generation grows by one with every export, so the newest backup is the one with the highest.
  ST2  import_state accepts exactly what export_state wrote, or raises Corrupt saying what is wrong; it
       trusts nothing.
  ST3  After an import no id is handed out again that the old machine may have used since the backup: every
       counter jumps by ID_GAP, and beyond whatever the backends' listings show.
  ST4  Epochs likewise: register_found raises each dataset's epoch to the highest that its segments show.
  ST5  What was in a lost journal is missed, not mistaken for damage: the export names the segments that perhaps no
       backend has yet (`journalled`). If one of them was not found and the tree of the newest checkpoint may lead there
       (its id is below the replay position), the dataset goes back to its uploaded checkpoint; recovery does the same
       if the log does not reach the record of the newest one. journal_lost lets recovery end where the log ends.

| part       | content                                                                                   |
|------------|-------------------------------------------------------------------------------------------|
| first line | `sds-catalog 2 <generation, 16 hex digits> <xxh3-64 of the rest, 16 hex digits>\\n`        |
| rest       | JSON: {"generation": n, "tables": {table: [[column, ...], ...]}, "journalled": [[dataset, |
|            | segment], ...], "packs": [id, ...]}, UTF-8. Version 1: without journalled, packs and the  |
|            | columns of MIGRATIONS                                                                     |
"""

import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import xxhash
from sqlalchemy import func, insert, select, update
from sqlalchemy.engine import Connection

from sds.core.address import SEGMENT_ID_MAX
from sds.core.errors import Corrupt, Exists
from sds.pool.database import Clock, Database, create_file, create_memory
from sds.pool.datasets import CHECKPOINT_COLUMNS, drop_empty_families, next_id
from sds.pool.places import is_remote
from sds.pool.rows import MAYBE_LOST, SURELY_LOST, SegmentRow
from sds.pool.schema import backend, counter, dataset, event, family, member, pool, segment, snapshot
from sds.pool.segments import join_copies, split_copies
from sds.pool.validate import check_tables

STATE_VERSION = 2
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
            packs = list(c.execute(select(segment.c.pack).where(segment.c.pack > 0).distinct()).scalars())
            state = {"generation": generation, "tables": tables, "journalled": _journalled(c), "packs": sorted(packs)}
        body = json.dumps(state, separators=(",", ":")).encode()
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
        tables = _decode(body, generation)[0]
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

    def go_back_to_uploaded(self, dataset_id: int) -> None:
        """ST5, on behalf of recovery."""
        with self._transaction() as c:
            _go_back(c, dataset_id)

    def register_found(
        self, found: Iterable[SegmentRow], journalled: Iterable[tuple[int, int]] = (), packs: Collection[int] = ()
    ) -> list[SegmentRow]:
        """Fills the empty registry from what the backends list; `family` of the given rows does not count. ST5 for
        what `journalled` names as (dataset, segment); `packs`: those that the exported catalog knew.

        Returned are those left out: of datasets this catalog has never heard of, and older epochs of a
        segment that was found twice. The caller reports them and deletes nothing.
        """
        with self._transaction() as c:
            families = {row[0]: row[1] for row in c.execute(select(member.c.dataset, member.c.family))}
            newest, left_out = _newest(found, families, packs)
            _raise_counter(c, "segment", [max(row.id, row.pack) for row in [*newest, *left_out]])
            _raise_counter(c, "dataset", [row.dataset for row in [*newest, *left_out]])
            for row in _highest_epochs(newest):
                statement = update(dataset).where(dataset.c.id == row.dataset, dataset.c.epoch < row.epoch)
                c.execute(statement.values(epoch=row.epoch))
            ids = {row.id for row in newest}
            starts = {row.id: row.ck_segment or 0 for row in c.execute(select(dataset.c.id, dataset.c.ck_segment))}
            lost = [(owner, key) for owner, key in journalled if key not in ids]
            for dataset_id in sorted({owner for owner, key in lost if key < starts.get(owner, 0)}):
                _go_back(c, dataset_id)
            _note_lost_journals(c, {owner for owner, _ in lost})
            rows = _sealed_below_replay(c, _whole_packs(newest, left_out))
            if rows:
                c.execute(insert(segment), [_segment_values(row, families[row.dataset]) for row in rows])
            drop_empty_families(c)
        return left_out


def _journalled(c: Connection) -> list[list[int]]:
    """Of datasets of which something is newer than their uploaded checkpoint: segments that an object store has, or
    will have; other copies may be lost with this machine."""
    remote = _remote_backends(c)
    if not remote:
        return []
    rows = c.execute(
        select(segment.c.dataset, segment.c.id, segment.c.copies)
        .join_from(segment, dataset, segment.c.dataset == dataset.c.id)
        .where(segment.c.id >= func.coalesce(dataset.c.up_segment, 0))
        .order_by(segment.c.id)
    )
    return [[row[0], row[1]] for row in rows if not remote.isdisjoint(split_copies(row[2]))]


def _remote_backends(c: Connection) -> set[int]:
    return {row.id for row in c.execute(select(backend)) if is_remote(row.url)}


def _go_back(c: Connection, dataset_id: int) -> None:
    """ST5. Snapshots whose trees may be gone are looked for in the log again. Without an uploaded checkpoint all stays
    as it is where a disk may have more: then recovery says what is missing, and nothing is forgotten."""
    found = c.execute(select(dataset.c.up_sequence).where(dataset.c.id == dataset_id)).scalar()
    if found is None and not all(is_remote(row.url) for row in c.execute(select(backend))):
        return
    columns = {f"ck_{name}": dataset.c[f"up_{name}"] for name in CHECKPOINT_COLUMNS}
    c.execute(update(dataset).where(dataset.c.id == dataset_id).values(journal_lost=SURELY_LOST, **columns))
    uploaded = select(dataset.c.up_sequence).where(dataset.c.id == dataset_id).scalar_subquery()
    newer = snapshot.c.sequence > func.coalesce(uploaded, 0)
    c.execute(update(snapshot).where(snapshot.c.dataset == dataset_id, newer).values(root=None))


def _note_lost_journals(c: Connection, losers: Collection[int]) -> None:
    """ST5. Also segments that were begun after the backup may have been in the journal. With flush=backend, what the
    log calls durable is in the store."""
    if _remote_backends(c):
        for row in c.execute(select(dataset.c.id, dataset.c.properties)).all():
            maybe = MAYBE_LOST if json.loads(row.properties).get("flush") != "backend" else 0
            lost = SURELY_LOST if row.id in losers else maybe
            c.execute(update(dataset).where(dataset.c.id == row.id).values(journal_lost=lost))


def _sealed_below_replay(c: Connection, rows: list[SegmentRow]) -> list[SegmentRow]:
    """What is open, or was torn (copies of different lengths), is for recovery to judge and seal if a replay reads it.
    What no replay reads was sealed, for nobody will ever look again."""
    columns = select(dataset.c.id, dataset.c.ck_segment, dataset.c.up_segment)
    starts = {row[0]: min(row[1] or 0, row[2] if row[2] is not None else row[1] or 0) for row in c.execute(columns)}
    size = c.execute(select(pool.c.segment_size)).scalar_one()
    judged = []
    for row in rows:
        if not row.sealed and row.id >= starts.get(row.dataset, SEGMENT_ID_MAX + 1):
            row = replace(row, size_bytes=0)
        elif not row.sealed:
            row = replace(row, sealed=True, size_bytes=row.size_bytes or size)
        judged.append(row)
    return judged


def _whole_packs(rows: list[SegmentRow], left_out: Iterable[SegmentRow]) -> list[SegmentRow]:
    """The shares of the segments in a pack add up to its file, also if some of them lie elsewhere by now."""
    missing: dict[int, int] = {}
    for row in left_out:
        if row.pack:
            missing[row.pack] = missing.get(row.pack, 0) + row.size_bytes
    return [
        replace(row, size_bytes=row.size_bytes + missing.pop(row.pack)) if row.pack in missing else row
        for row in rows
    ]  # fmt: skip


def journalled_segments(data: bytes) -> list[tuple[int, int]]:
    """(dataset, segment) that the exporting machine had in its journal, perhaps nowhere else."""
    generation, body = _open_envelope(data)
    return _decode(body, generation)[1]


def packs_in_use(data: bytes) -> frozenset[int]:
    """Of the exporting catalog."""
    generation, body = _open_envelope(data)
    packs = json.loads(body).get("packs", []) if _decode(body, generation) else []
    if not isinstance(packs, list) or any(type(pack) is not int for pack in packs):
        raise Corrupt("catalog backup: packs is not a list of numbers")
    return frozenset(packs)


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
    if not 1 <= int(match[1]) <= STATE_VERSION:
        raise Corrupt(
            f"catalog backup: version {int(match[1])}, this program knows 1 to {STATE_VERSION}: upgrade sds"
        )
    body = data[match.end() :]
    if xxhash.xxh3_64_intdigest(body) != int(match[3], 16):
        raise Corrupt("catalog backup: checksum does not match, it is damaged")
    return int(match[2], 16), body


def _decode(body: bytes, generation: int) -> tuple[dict[str, list[dict[str, Any]]], list[tuple[int, int]]]:
    """Rows by table and column, of whatever version; and what was journalled."""
    try:
        state = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"catalog backup: not JSON ({error})") from error
    if not isinstance(state, dict) or set(state) - {"journalled", "packs"} != {"generation", "tables"}:
        raise Corrupt("catalog backup: expected `generation`, `tables` and `journalled`, nothing else")
    if state["generation"] != generation:
        raise Corrupt("catalog backup: generation inside differs from that of the first line")
    tables, is_old = state["tables"], "journalled" not in state
    if not isinstance(tables, dict) or set(tables) != {table.name for table in TABLES}:
        raise Corrupt("catalog backup: the set of tables is not the expected one")
    decoded = {}
    for table in TABLES:
        added = _ADDED_IN_2.get(table.name, {}) if is_old else {}
        columns = [column.name for column in table.columns if column.name not in added]
        decoded[table.name] = [row | added for row in _decode_rows(table.name, columns, tables[table.name])]
    if is_old:
        for row in decoded["backend"]:
            row["state"] = "draining" if row["state"] == "evacuating" else row["state"]
    return decoded, _decode_pairs(state.get("journalled", []))


_ADDED_IN_2: dict[str, dict[str, Any]] = {
    "backend": {"tier": ""},
    "dataset": {"journal_lost": 0, **{f"up_{name}": None for name in CHECKPOINT_COLUMNS}},
}


def _decode_pairs(pairs: object) -> list[tuple[int, int]]:
    if not isinstance(pairs, list):
        raise Corrupt("catalog backup: journalled is not a list")
    for pair in pairs:
        if not isinstance(pair, list) or [type(number) for number in pair] != [int, int]:
            raise Corrupt("catalog backup: journalled has something else than (dataset, segment)")
    return [(pair[0], pair[1]) for pair in pairs]


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
    found: Iterable[SegmentRow], families: dict[int, int], packs: Collection[int]
) -> tuple[list[SegmentRow], list[SegmentRow]]:
    best: dict[int, SegmentRow] = {}
    left_out = []
    for row in found:
        other = best.get(row.id)
        if row.dataset not in families:
            left_out.append(row)
        elif other is None or _rank(row, packs) > _rank(other, packs):
            best[row.id] = row
            left_out += [] if other is None else [other]
        else:
            left_out.append(row)
    return [best[key] for key in sorted(best)], left_out


def _rank(row: SegmentRow, packs: Collection[int]) -> tuple[int, int, int]:
    """The newest epoch counts. Of a segment that was cleaned, the pack that the exported catalog knew: it was durable
    on all its backends then, and older files of the segment are what a deletion left. Else the oldest generation:
    whatever that catalog refers to was in it."""
    if row.pack in packs:
        return row.epoch, 1, row.generation
    return row.epoch, 0, -row.generation


def _segment_values(row: SegmentRow, family_id: int) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in SegmentRow.__slots__}
    return values | {"copies": join_copies(row.copies), "family": family_id}


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
