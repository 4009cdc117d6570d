"""Backups of the catalog: what was exported comes back, anything else is refused by name, ids stay unique."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import xxhash

from sds.core.errors import Corrupt
from sds.pool.catalog import Catalog
from sds.pool.rows import CheckpointRef, SegmentRow
from sds.pool.state import ID_GAP, state_generation

CHECKPOINT = CheckpointRef((1 << 64) - 32, 5, 2, 4096, 1 << 30, 1, 4096)


def clock() -> float:
    return 1000.0


def filled() -> Catalog:
    """vm1 with a snapshot, its clone, and a parent that was destroyed after cloning."""
    catalog = Catalog.in_memory(clock=clock)
    catalog.add_backend("/a", "ab" * 16, "one")
    row = catalog.create_dataset("vm1", "volume", 1 << 30, {"compression": "off"})
    epoch = catalog.acquire(row.id, "me")
    for _ in range(2):
        catalog.allocate_segment(row.id, epoch, (1,))
    kept = catalog.add_snapshot(row.id, epoch, catalog.reserve_snapshot_id(), "s1", 5, 1 << 30)
    catalog.publish(row.id, epoch, CHECKPOINT, {kept.id: CHECKPOINT.root})
    catalog.create_dataset("clone", "volume", 1 << 30, origin=kept)
    catalog.destroy_snapshot(kept.id)
    catalog.destroy_dataset(row.id)
    catalog.create_dataset("fs1", "fs", 0)
    catalog.add_event("test", "hello")
    return catalog


def test_an_import_gives_back_everything_but_segments() -> None:
    catalog = filled()
    again = Catalog.import_state(catalog.export_state(), None, clock)

    assert catalog.pool() == again.pool()
    assert catalog.backends() == again.backends()
    assert catalog.datasets() == again.datasets()
    assert [e.text for e in catalog.events()] == [e.text for e in again.events()]
    assert again.all_segments() == []


def test_generations_grow_with_every_export_and_over_an_import() -> None:
    catalog = filled()
    first, second = catalog.export_state(), catalog.export_state()
    third = Catalog.import_state(second, None, clock).export_state()

    assert state_generation(first) < state_generation(second) < state_generation(third)


def test_segments_of_a_destroyed_parent_are_found_again_for_its_clone() -> None:
    catalog = filled()
    again = Catalog.import_state(catalog.export_state(), None, clock)
    left_out = again.register_found(catalog.all_segments())

    assert left_out == []
    size = catalog.pool().segment_size
    expected = [replace(row, sealed=True, size_bytes=size) for row in catalog.all_segments()]
    assert expected == again.segments_of_family(again.dataset("clone").family)


def test_unknown_datasets_and_older_twins_are_left_out_and_reported() -> None:
    again = Catalog.import_state(filled().export_state(), None, clock)
    stranger = SegmentRow(9, 500, 1, (1,), True, 4096)
    older, newer = (SegmentRow(7, 3, epoch, (1,), True, 4096) for epoch in (2, 6))

    assert [older, stranger] == sorted(again.register_found([older, newer, stranger]), key=lambda row: row.id)
    assert again.segment(7).epoch == 6
    assert again.acquire(3, "next") == 7, "beyond every epoch that was seen"


def test_no_id_is_handed_out_again_after_an_import() -> None:
    catalog = filled()
    data = catalog.export_state()
    again = Catalog.import_state(data, None, clock)
    again.register_found(
        [SegmentRow(10 * ID_GAP, 3, 1, (1,), True, 4096), SegmentRow(1, 9 * ID_GAP, 1, (1,), True, 1)]
    )
    row = again.create_dataset("new", "volume", 1)

    assert row.id > 9 * ID_GAP
    assert again.allocate_segment(row.id, again.acquire(row.id, "me"), (1,)) > 10 * ID_GAP
    assert again.reserve_snapshot_id() > 1000, "more than were used since the backup"


def test_every_flipped_byte_and_every_cut_is_noticed() -> None:
    data = filled().export_state()
    for position in range(0, len(data), 7):
        damaged = data[:position] + bytes([data[position] ^ 0x20]) + data[position + 1 :]
        for bad in (damaged, data[:position]):
            with pytest.raises(Corrupt):
                Catalog.import_state(bad, None, clock)


Change = Callable[[dict[str, Any]], object]


def cell(table: str, row: int, column: int, value: object) -> Change:
    def change(state: dict[str, Any]) -> None:
        state["tables"][table][row][column] = value

    return change


BAD: list[tuple[str, Change]] = [
    ("name", cell("dataset", 0, 1, "../etc")),
    ("family", cell("dataset", 0, 6, 99)),
    ("kind", cell("dataset", 0, 2, "tape")),
    ("size", cell("dataset", 0, 3, 1 << 63)),
    ("negative", cell("dataset", 0, 3, -1)),
    ("float", cell("dataset", 0, 3, 1.5)),
    ("bool", cell("dataset", 0, 3, True)),
    ("none", cell("dataset", 0, 3, None)),
    ("half a checkpoint", cell("dataset", 0, 10, None)),
    ("root", cell("dataset", 0, 10, 1 << 64)),
    ("segment beyond the counter", cell("dataset", 0, 12, 1 << 30)),
    ("properties no json", cell("dataset", 0, 8, "{")),
    ("properties deep", cell("dataset", 0, 8, "[" * 60000)),
    ("properties list", cell("dataset", 0, 8, "[]")),
    ("properties numbers", cell("dataset", 0, 8, '{"a": 1}')),
    ("uuid short", cell("pool", 0, 1, {"hex": "00"})),
    ("uuid text", cell("pool", 0, 1, "00" * 16)),
    ("uuid no hex", cell("pool", 0, 1, {"hex": "zz" * 16})),
    ("segment size", cell("pool", 0, 3, 12345)),
    ("copies", cell("pool", 0, 4, 0)),
    ("backend uuid", cell("backend", 0, 2, "x")),
    ("counter name", cell("counter", 0, 0, "other")),
    ("counter low", cell("counter", 2, 1, 0)),
    ("counter huge", cell("counter", 2, 1, 1 << 60)),
    ("text huge", cell("event", 0, 3, "x" * 70000)),
    ("no pool", lambda state: state["tables"]["pool"].clear()),
    ("twins", lambda state: state["tables"]["dataset"].append(state["tables"]["dataset"][0])),
    ("orphan snapshot", lambda state: state["tables"]["snapshot"].append([1, 99, "s", 1, 1, 1, 1, 1])),
    ("column missing", lambda state: state["tables"]["backend"][0].pop()),
    ("row no list", lambda state: state["tables"]["backend"].append({})),
    ("table no list", lambda state: state["tables"].update(backend={})),
    ("table missing", lambda state: state["tables"].pop("member")),
    ("table unknown", lambda state: state["tables"].update(evil=[])),
    ("key unknown", lambda state: state.update(evil=1)),
    ("other generation", lambda state: state.update(generation=77)),
    ("no members", lambda state: state["tables"]["member"].clear()),
]


@pytest.mark.parametrize(("what", "change"), BAD, ids=[what for what, _ in BAD])
def test_hostile_content_with_a_right_checksum_is_refused(what: str, change: Change) -> None:
    head, body = filled().export_state().split(b"\n", 1)
    state = json.loads(body)
    change(state)
    body = json.dumps(state).encode()

    with pytest.raises(Corrupt) as caught:
        Catalog.import_state(head[:-16] + b"%016x\n" % xxhash.xxh3_64_intdigest(body) + body, None, clock)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_untouched_content_passes_through_the_same_road() -> None:
    head, body = filled().export_state().split(b"\n", 1)
    body = json.dumps(json.loads(body)).encode()

    assert Catalog.import_state(
        head[:-16] + b"%016x\n" % xxhash.xxh3_64_intdigest(body) + body, None, clock
    ).datasets()
