"""Which segments of a family are dead. Pure.

A segment is alive if a frame of it can still be reached: from a tree that is kept (SW1 of sds.maintenance.sweep), or
by a replay of a log. What a log may replay, or its writer may just be writing, are the dataset's own segments from
its replay position on.
"""

from collections.abc import Collection, Iterable, Mapping

from sds.pool.rows import DatasetRow, SegmentRow


def replay_starts(datasets: Iterable[DatasetRow], remote: bool = False) -> dict[int, int]:
    """Dataset id -> first segment that a replay of its log reads; 0: all it has. `remote`: the pool has object stores,
    so a machine that has only them replays from the uploaded checkpoint."""
    starts = {}
    for row in datasets:
        refs = [row.checkpoint, row.uploaded] if remote else [row.checkpoint]
        starts[row.id] = min(ref.segment if ref is not None else 0 for ref in refs)
    return starts


def dead_segments(
    segments: Iterable[SegmentRow], starts: Mapping[int, int], marked: Collection[int]
) -> list[SegmentRow]:
    """Segments of destroyed datasets have no start: only marks keep them. Those in a pack go with the whole pack, or
    when the cleaner gets to it."""
    dead, packs_alive = [], set()
    for row in segments:
        if row.id in marked or is_replayed(row, starts):
            packs_alive.add(row.pack)
        else:
            dead.append(row)
    return [row for row in dead if not row.pack or row.pack not in packs_alive]


def is_replayed(row: SegmentRow, starts: Mapping[int, int]) -> bool:
    return row.dataset in starts and row.id >= starts[row.dataset]


def stored_bytes(row: SegmentRow, segment_size: int) -> int:
    """What a segment occupies on the backends, all copies; an open one has its full size already."""
    return (row.size_bytes if row.sealed else segment_size) * len(row.copies)
