"""Fencing: a worker whose epoch is old changes nothing. Publish is atomic, also under kill -9."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sds.core.errors import Fenced, Missing
from sds.pool.catalog import MEMORY_POOL, Catalog
from sds.pool.rows import CheckpointRef, Sealed

CHECKPOINT = CheckpointRef(64, 5, 1, 4096, 1 << 30, 1, 4096)


def test_every_call_of_a_fenced_worker_raises_and_changes_nothing() -> None:
    catalog = Catalog.in_memory(clock=lambda: 1.0)
    row = catalog.create_dataset("vm1", "volume", 1 << 30)
    old = catalog.acquire(row.id, "old")
    segment = catalog.allocate_segment(row.id, old, (1,))
    catalog.add_snapshot(row.id, old, catalog.reserve_snapshot_id(), "s1", 1, 1)
    new = catalog.acquire(row.id, "new")
    image = catalog.serialize()
    calls: list[Callable[[], object]] = [
        lambda: catalog.allocate_segment(row.id, old, (1,)),
        lambda: catalog.set_segment_copies(row.id, old, segment, (2,)),
        lambda: catalog.seal_segment(row.id, old, segment, 4096),
        lambda: catalog.publish(row.id, old, CHECKPOINT, {1: 64}, [segment], {segment: Sealed(4096, 1)}),
        lambda: catalog.add_snapshot(row.id, old, 99, "s2", 1, 1),
        lambda: catalog.rolled_back(row.id, old),
        lambda: catalog.publish(row.id, new + 1, CHECKPOINT),
    ]
    for call in calls:
        with pytest.raises(Fenced):
            call()

    assert image == catalog.serialize()
    catalog.publish(row.id, new, CHECKPOINT)


def test_a_worker_whose_dataset_was_destroyed_is_fenced() -> None:
    catalog = Catalog.in_memory()
    row = catalog.create_dataset("vm1", "volume", 1 << 30)
    epoch = catalog.acquire(row.id, "me")
    catalog.destroy_dataset(row.id)

    with pytest.raises(Fenced, match="destroyed"):
        catalog.publish(row.id, epoch, CHECKPOINT)


def test_publish_sets_all_of_it_at_once() -> None:
    catalog = Catalog.in_memory()
    row = catalog.create_dataset("vm1", "volume", 1 << 30)
    epoch = catalog.acquire(row.id, "me")
    keep, drop = (catalog.allocate_segment(row.id, epoch, (1, 2)) for _ in range(2))
    one, two = (
        catalog.add_snapshot(row.id, epoch, catalog.reserve_snapshot_id(), n, 1, 1) for n in ("a", "b")
    )
    catalog.publish(row.id, epoch, CHECKPOINT, {one.id: 96, 12345: 1}, [drop], {keep: Sealed(8192, 2)}, {one.id: 77})

    assert catalog.dataset("vm1").checkpoint == CHECKPOINT
    assert (catalog.snapshot(row.id, "a").root, catalog.snapshot(row.id, "a").mapped_blocks) == (96, 77)
    assert catalog.snapshot(row.id, "b").root is None
    assert [(keep, True, 8192)] == [(s.id, s.sealed, s.size_bytes) for s in catalog.segments(row.id)]
    assert two.root is None


def test_a_segment_of_another_dataset_is_out_of_reach() -> None:
    catalog = Catalog.in_memory()
    mine, theirs = (catalog.create_dataset(name, "volume", 1) for name in ("a", "b"))
    epoch = catalog.acquire(mine.id, "me")
    segment = catalog.allocate_segment(theirs.id, catalog.acquire(theirs.id, "them"), (1,))

    with pytest.raises(Missing):
        catalog.seal_segment(mine.id, epoch, segment, 4096)
    with pytest.raises(Missing):
        catalog.set_segment_copies(mine.id, epoch, segment, (3,))


WORKER = """
import sys
from pathlib import Path
from sds.pool.catalog import Catalog
from sds.pool.rows import CheckpointRef, Sealed
catalog = Catalog.open(Path(sys.argv[1]))
row = catalog.dataset("vm1")
epoch = catalog.acquire(row.id, "victim")
previous = ()
for n in range(1, 1 << 30):
    segment = catalog.allocate_segment(row.id, epoch, (1,))
    catalog.publish(row.id, epoch, CheckpointRef(n, n, segment, 0, n, n, n), {}, previous, {segment: Sealed(n, 1)})
    previous = (segment,)
    print(n, flush=True)
"""


def test_kill_9_amid_writes_loses_no_commit_and_tears_none(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    catalog = Catalog.create(path, MEMORY_POOL)
    row = catalog.create_dataset("vm1", "volume", 1)
    for round_number in range(1, 4):
        with subprocess.Popen([sys.executable, "-c", WORKER, path], stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            printed = [int(worker.stdout.readline()) for _ in range(7 * round_number)]
            os.kill(worker.pid, signal.SIGKILL)
            printed += [int(line) for line in worker.stdout.read().split(b"\n")[:-1]]
        checkpoint = catalog.dataset_by_id(row.id).checkpoint

        assert checkpoint is not None
        assert checkpoint.sequence in (printed[-1], printed[-1] + 1)
        assert (
            len({checkpoint.root, checkpoint.sequence, checkpoint.size_bytes, checkpoint.mapped_blocks}) == 1
        )
        sealed = [s for s in catalog.segments(row.id) if s.sealed and s.epoch == catalog.holder(row.id)[0]]
        assert [(checkpoint.segment, checkpoint.sequence)] == [(s.id, s.size_bytes) for s in sealed]
        everything = [s.id for s in catalog.segments(row.id)]
        catalog.publish(row.id, catalog.acquire(row.id, "next"), checkpoint, forget=everything)
    catalog.close()
