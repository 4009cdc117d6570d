"""The planner of the sweep: what is dead, and only that."""

from sds.maintenance.plan import dead_segments, replay_starts, stored_bytes
from sds.pool.rows import CheckpointRef, DatasetRow, SegmentRow


def segment(segment_id: int, dataset: int) -> SegmentRow:
    return SegmentRow(segment_id, dataset, 1, (1,), True, 4096, 1)


def dataset(dataset_id: int, replay_segment: int | None) -> DatasetRow:
    ref = None if replay_segment is None else CheckpointRef(0, 0, replay_segment, 0, 0, 0, 0)
    return DatasetRow(dataset_id, f"d{dataset_id}", "volume", 0, 1, ref, 1, None, 0)


def ids(rows: list[SegmentRow]) -> list[int]:
    return [row.id for row in rows]


def test_what_no_tree_refers_to_is_dead_before_the_replay_position_only() -> None:
    starts = replay_starts([dataset(1, 7)])
    rows = [segment(number, 1) for number in range(4, 10)]
    assert ids(dead_segments(rows, starts, marked={5})) == [4, 6]


def test_a_dataset_that_never_published_a_log_of_its_own_loses_nothing() -> None:
    starts = replay_starts([dataset(1, None), dataset(2, 0)])
    rows = [segment(4, 1), segment(5, 2)]
    assert dead_segments(rows, starts, marked=()) == []


def test_the_replay_position_of_one_dataset_does_not_protect_another() -> None:
    starts = replay_starts([dataset(1, 9), dataset(2, 3)])
    rows = [segment(4, 1), segment(5, 2)]
    assert ids(dead_segments(rows, starts, marked=())) == [4]


def test_segments_of_destroyed_datasets_live_by_marks_alone() -> None:
    rows = [segment(4, 3), segment(5, 3)]
    assert ids(dead_segments(rows, replay_starts([dataset(1, 2)]), marked={5})) == [4]


def test_stored_bytes_count_every_copy_and_open_segments_in_full() -> None:
    assert stored_bytes(SegmentRow(1, 1, 1, (1, 2), True, 4096), 1 << 20) == 8192
    assert stored_bytes(SegmentRow(1, 1, 1, (1,), False, 0), 1 << 20) == 1 << 20
