"""Is this decoded catalog backup one that export_state could have written? Types, ranges, names, references.

Everything that the rest of the program takes for granted about catalog rows is checked here, once, for
content that comes from outside.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import Boolean, LargeBinary, String, Table

from sds.core.address import SEGMENT_ID_MAX
from sds.core.errors import BadInput, Corrupt
from sds.core.names import DATASET_ID_MAX, EPOCH_MAX, check_name
from sds.core.units import SIZE_MAX
from sds.pool.rows import DatasetKind
from sds.pool.schema import BACKEND_STATES, COUNTERS, U64, metadata

TEXT_MAX = 1 << 16
Rows = list[dict[str, Any]]

_UUID = re.compile(r"[0-9a-f]{32}")
_KINDS: tuple[DatasetKind, ...] = ("volume", "fs")
_LIMITS = {"id": DATASET_ID_MAX, "dataset": DATASET_ID_MAX, "family": DATASET_ID_MAX, "epoch": EPOCH_MAX}
_LIMITS |= {
    "size_bytes": SIZE_MAX,
    "ck_size_bytes": SIZE_MAX,
    "ck_segment": SEGMENT_ID_MAX,
    "ck_offset": 32 << 20,
    "up_size_bytes": SIZE_MAX,
    "up_segment": SEGMENT_ID_MAX,
    "up_offset": 32 << 20,
}


def check_tables(tables: dict[str, Rows]) -> None:
    """Corrupt at the first thing that is wrong. Turns the pool's UUID back into bytes."""
    for name, rows in tables.items():
        for row in rows:
            _check_columns(metadata.tables[name], row)
    _check_pool(tables["pool"])
    _check_unique(tables)
    _check_references(tables)
    _check_counters(tables)
    for row in tables["dataset"]:
        _check_dataset(row)
    for row in tables["snapshot"]:
        _name("snapshot", row["name"])
    for row in tables["backend"]:
        _require(row["state"] in BACKEND_STATES, f"backend {row['id']} is in no state that we know")
    for row in tables["backend"]:
        _require(_UUID.fullmatch(row["uuid"]) is not None, f"backend {row['id']} has a bad uuid")


def _check_columns(table: Table, row: dict[str, Any]) -> None:
    for column in table.columns:
        value, where = row[column.name], f"{table.name}.{column.name}"
        if value is None:
            _require(bool(column.nullable), f"{where} is missing")
        elif isinstance(column.type, LargeBinary):
            row[column.name] = _bytes(value, where)
        elif isinstance(column.type, Boolean):
            _require(isinstance(value, bool), f"{where} is neither true nor false")
        elif isinstance(column.type, String):
            _require(
                isinstance(value, str) and len(value) <= TEXT_MAX, f"{where} is not a text of bounded length"
            )
        else:
            top = (1 << 64) - 1 if isinstance(column.type, U64) else _LIMITS.get(column.name, (1 << 63) - 1)
            _require(type(value) is int and 0 <= value <= top, f"{where} is not a number from 0 to {top}")


def _check_pool(rows: Rows) -> None:
    _require(len(rows) == 1 and rows[0]["id"] == 1, "there is not exactly one pool")
    row = rows[0]
    _require(len(row["uuid"]) == 16, "the pool's uuid has not 16 bytes")
    _name("pool", row["name"])
    size = row["segment_size"]
    _require(1 << 16 <= size <= 32 << 20 and size & size - 1 == 0, f"segment size {size} is none we use")
    _require(1 <= row["copies"] <= 16, f"{row['copies']} copies are none we use")


def _check_unique(tables: dict[str, Rows]) -> None:
    keys: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
        (name, lambda row: row["id"]) for name in ("backend", "family", "dataset", "snapshot", "event")
    ]
    keys += [("member", lambda row: row["dataset"]), ("counter", lambda row: row["name"])]
    keys += [("dataset", lambda row: row["name"]), ("snapshot", lambda row: (row["dataset"], row["name"]))]
    keys += [("backend", lambda row: row["url"]), ("backend", lambda row: row["uuid"])]
    for name, key in keys:
        rows = tables[name]
        _require(len({key(row) for row in rows}) == len(rows), f"two rows of {name} are the same one")


def _check_references(tables: dict[str, Rows]) -> None:
    families = {row["id"] for row in tables["family"]}
    members = {row["dataset"]: row["family"] for row in tables["member"]}
    datasets = {row["id"] for row in tables["dataset"]}
    _require(families.issuperset(members.values()), "a dataset's family is missing")
    for row in tables["dataset"]:
        _require(
            members.get(row["id"]) == row["family"], f"dataset {row['id']} is not a member of its family"
        )
    for row in tables["snapshot"]:
        _require(row["dataset"] in datasets, f"the dataset of snapshot {row['id']} is missing")


def _check_counters(tables: dict[str, Rows]) -> None:
    counters = {row["name"]: row["value"] for row in tables["counter"]}
    _require(set(counters) == set(COUNTERS), "the set of counters is not the expected one")
    _require(max(counters.values()) <= SEGMENT_ID_MAX, "a counter is too large")
    used = [("backend", row["id"]) for row in tables["backend"]]
    used += [("dataset", row["dataset"]) for row in tables["member"]]
    used += [("snapshot", row["id"]) for row in tables["snapshot"]]
    for place in ("ck_segment", "up_segment"):
        used += [("segment", row[place]) for row in tables["dataset"] if row[place] is not None]
    for kind, used_id in used:
        _require(used_id <= counters[kind], f"{kind} {used_id} is beyond the counter")


def _check_dataset(row: dict[str, Any]) -> None:
    where = f"dataset {row['id']}"
    _name("dataset", row["name"])
    _require(row["kind"] in _KINDS, f"{where} is of unknown kind")
    for which in ("ck_", "up_"):
        checkpoint = [row[name] is None for name in row if name.startswith(which)]
        _require(len(set(checkpoint)) == 1, f"{where} has half a checkpoint")
    try:
        properties = json.loads(row["properties"])
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"catalog backup: properties of {where} are not JSON") from error
    legal = isinstance(properties, dict) and all(isinstance(value, str) for value in properties.values())
    _require(legal, f"properties of {where} are not texts")


def _bytes(value: object, where: str) -> bytes:
    if isinstance(value, dict) and set(value) == {"hex"} and isinstance(value["hex"], str):
        try:
            return bytes.fromhex(value["hex"])
        except ValueError:
            pass  # falls through to the one error below
    raise Corrupt(f"catalog backup: {where} is not a string of bytes")


def _name(what: str, name: str) -> None:
    try:
        check_name(what, name)
    except BadInput as error:
        raise Corrupt(f"catalog backup: {error}") from error


def _require(condition: bool, wrong: str) -> None:
    if not condition:
        raise Corrupt(f"catalog backup: {wrong}")
