"""The catalog: rows round-trip, names are unique, ids never come back, clones share a family."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sds.core.errors import BadInput, Busy, Corrupt, Exists, Missing
from sds.pool.catalog import EVENTS_KEPT, MEMORY_POOL, Catalog
from sds.pool.rows import CheckpointRef, DatasetRow, SnapshotRow

TOP = (1 << 64) - 32
CHECKPOINT = CheckpointRef(TOP, (1 << 63) + 1, (1 << 40) - 1, 4096, 1 << 50, 7, 1 << 45)


@pytest.fixture(params=["memory", "file"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalog]:
    made = (
        Catalog.in_memory() if request.param == "memory" else Catalog.create(tmp_path / "c.db", MEMORY_POOL)
    )
    yield made
    made.close()


def volume(catalog: Catalog, name: str = "vm1") -> tuple[DatasetRow, int]:
    row = catalog.create_dataset(name, "volume", 1 << 30, {"compression": "lz4"})
    return row, catalog.acquire(row.id, "test")


def snapshot(
    catalog: Catalog, dataset: int, epoch: int, name: str = "s1", root: int | None = TOP
) -> SnapshotRow:
    row = catalog.add_snapshot(dataset, epoch, catalog.reserve_snapshot_id(), name, 9, 1 << 30)
    if root is not None:
        catalog.publish(dataset, epoch, CHECKPOINT, {row.id: root})
    return catalog.snapshot(dataset, name)


def test_64_bit_values_with_the_top_bit_set_come_back_as_they_went_in(catalog: Catalog) -> None:
    row, epoch = volume(catalog)
    catalog.publish(row.id, epoch, CHECKPOINT)
    kept = snapshot(catalog, row.id, epoch)

    assert catalog.dataset("vm1").checkpoint == CHECKPOINT
    assert (TOP, 9, CHECKPOINT.mapped_blocks) == (kept.root, kept.sequence, kept.mapped_blocks)


def test_publishing_makes_the_checkpoints_size_that_of_the_dataset(catalog: Catalog) -> None:
    row, epoch = volume(catalog)
    catalog.publish(row.id, epoch, CHECKPOINT)

    assert catalog.dataset_by_id(row.id).size_bytes == 1 << 50


def test_a_file_opens_again_with_everything_that_was_committed(tmp_path: Path) -> None:
    first = Catalog.create(tmp_path / "c.db", MEMORY_POOL)
    row, epoch = volume(first)
    segment = first.allocate_segment(row.id, epoch, (2, 1))
    first.add_backend("/a", "ab" * 16, "rack1")
    first.close()

    again = Catalog.open(tmp_path / "c.db")
    assert again.pool() == MEMORY_POOL
    assert (row.name, {"compression": "lz4"}) == (again.dataset("vm1").name, again.dataset("vm1").properties)
    assert again.segment(segment).copies == (2, 1)
    assert [backend.label for backend in again.backends()] == ["rack1"]
    again.close()


def test_a_deserialised_copy_lives_its_own_life(catalog: Catalog) -> None:
    row, epoch = volume(catalog)
    copy = Catalog.deserialize(catalog.serialize())
    copy.destroy_dataset(row.id)

    assert copy.datasets() == []
    assert catalog.allocate_segment(row.id, epoch, (1,)) == 1
    copy.close()


def test_names_of_datasets_are_unique_and_checked(catalog: Catalog) -> None:
    row, _ = volume(catalog)
    other, _ = volume(catalog, "vm2")
    for act in (lambda: volume(catalog), lambda: catalog.rename_dataset(other.id, "vm1")):
        with pytest.raises(Exists):
            act()
    with pytest.raises(BadInput):
        catalog.rename_dataset(row.id, "No")
    with pytest.raises(BadInput):
        catalog.create_dataset("x", "volume", -1)
    catalog.rename_dataset(row.id, "vm1")
    catalog.rename_dataset(row.id, "vm3")

    assert [one.name for one in catalog.datasets()] == ["vm2", "vm3"]


def test_names_of_snapshots_are_unique_within_a_dataset(catalog: Catalog) -> None:
    row, epoch = volume(catalog)
    one = snapshot(catalog, row.id, epoch)
    snapshot(catalog, row.id, epoch, "s2")
    with pytest.raises(Exists):
        catalog.add_snapshot(row.id, epoch, catalog.reserve_snapshot_id(), "s1", 1, 1)
    with pytest.raises(Exists):
        catalog.rename_snapshot(one.id, "s2")
    catalog.rename_snapshot(one.id, "s3")

    assert [kept.name for kept in catalog.snapshots(row.id)] == ["s3", "s2"]


def test_adding_a_snapshot_again_in_a_replay_changes_nothing(catalog: Catalog) -> None:
    row, epoch = volume(catalog)
    kept = snapshot(catalog, row.id, epoch)

    assert kept == catalog.add_snapshot(row.id, epoch, kept.id, "s1", 9, 1 << 30)


def test_what_is_not_there_is_missing(catalog: Catalog) -> None:
    acts: list[Callable[[], object]] = [
        lambda: catalog.dataset("x"),
        lambda: catalog.dataset_by_id(7),
        lambda: catalog.snapshot(7, "x"),
        lambda: catalog.segment(7),
        lambda: catalog.generation(7),
        lambda: catalog.destroy_dataset(7),
        lambda: catalog.destroy_snapshot(7),
        lambda: catalog.rename_snapshot(7, "x"),
        lambda: catalog.remove_backend(7),
        lambda: catalog.set_backend_state(7, "online"),
        lambda: catalog.acquire(7, "me"),
        lambda: catalog.holder(7),
    ]
    for act in acts:
        with pytest.raises(Missing):
            act()


def test_properties_are_set_and_taken_away(catalog: Catalog) -> None:
    row, _ = volume(catalog)
    catalog.set_property(row.id, "flush", "backend")
    catalog.set_property(row.id, "compression", None)

    assert catalog.dataset("vm1").properties == {"flush": "backend"}


def test_a_clone_is_of_the_family_and_starts_at_the_snapshots_root(catalog: Catalog) -> None:
    row, epoch = volume(catalog)
    kept = snapshot(catalog, row.id, epoch)
    clone = catalog.create_dataset("c", "volume", 1 << 30, origin=kept)

    assert CheckpointRef(TOP, 0, 0, 0, 1 << 30, CHECKPOINT.mapped_blocks, 0) == clone.checkpoint
    assert (row.family, kept.id) == (clone.family, clone.origin_snapshot)
    assert [one.name for one in catalog.datasets_of_family(row.family)] == ["vm1", "c"]


def test_a_snapshot_whose_checkpoint_is_under_way_cannot_be_cloned_yet(catalog: Catalog) -> None:
    row, epoch = volume(catalog)
    kept = snapshot(catalog, row.id, epoch, root=None)

    with pytest.raises(Busy):
        catalog.create_dataset("c", "volume", 1, origin=kept)
    assert [one.name for one in catalog.datasets()] == ["vm1"]


def test_a_destroyed_snapshot_cannot_be_cloned_but_its_clones_stay(catalog: Catalog) -> None:
    row, epoch = volume(catalog)
    kept = snapshot(catalog, row.id, epoch)
    clone = catalog.create_dataset("c", "volume", 1, origin=kept)
    catalog.destroy_snapshot(kept.id)
    with pytest.raises(Missing):
        catalog.create_dataset("d", "volume", 1, origin=kept)
    catalog.destroy_dataset(row.id)

    assert clone.checkpoint == catalog.dataset("c").checkpoint


def test_a_dataset_with_snapshots_is_not_destroyed(catalog: Catalog) -> None:
    row, epoch = volume(catalog)
    kept = snapshot(catalog, row.id, epoch)
    with pytest.raises(Busy, match="s1"):
        catalog.destroy_dataset(row.id)
    catalog.destroy_snapshot(kept.id)
    catalog.destroy_dataset(row.id)

    assert catalog.datasets() == []


def test_segments_of_a_destroyed_parent_stay_with_the_family_until_swept(catalog: Catalog) -> None:
    row, epoch = volume(catalog)
    segments = [catalog.allocate_segment(row.id, epoch, (1,)) for _ in range(3)]
    kept = snapshot(catalog, row.id, epoch)
    clone = catalog.create_dataset("c", "volume", 1, origin=kept)
    catalog.destroy_snapshot(kept.id)
    catalog.destroy_dataset(row.id)
    assert segments == [one.id for one in catalog.segments_of_family(row.family)]

    catalog.destroy_dataset(clone.id)
    assert [row.family] == catalog.families()
    catalog.delete_segments(segments)
    assert catalog.families() == []


def test_clone_rollback_and_destroy_make_an_older_mark_stale(catalog: Catalog) -> None:
    row, epoch = volume(catalog)
    segment = catalog.allocate_segment(row.id, epoch, (1,))
    kept = snapshot(catalog, row.id, epoch)
    changes: list[Callable[[], object]] = [
        lambda: catalog.create_dataset("c", "volume", 1, origin=kept),
        lambda: catalog.rolled_back(row.id, epoch),
        lambda: catalog.destroy_snapshot(kept.id),
        lambda: catalog.destroy_dataset(row.id),
    ]
    for change in changes:
        marked = catalog.generation(row.family)
        change()
        with pytest.raises(Busy):
            catalog.delete_dead([catalog.segment(segment)], (row.family, marked))
        assert segment == catalog.segment(segment).id
    now = (row.family, catalog.generation(row.family))
    with pytest.raises(Busy, match="changed by somebody else"):
        catalog.delete_dead([replace(catalog.segment(segment), pack=7)], now)
    catalog.delete_dead([catalog.segment(segment)], now)
    with pytest.raises(Missing):
        catalog.segment(segment)


def test_ids_are_never_reused(catalog: Catalog) -> None:
    row, epoch = volume(catalog)
    first = catalog.allocate_segment(row.id, epoch, (1,))
    catalog.delete_segments([first])
    assert first + 1 == catalog.allocate_segment(row.id, epoch, (1,))
    catalog.destroy_dataset(row.id)
    again, _ = volume(catalog)

    assert again.id > row.id


def test_segments_are_listed_by_id_from_the_first_wanted(catalog: Catalog) -> None:
    row, epoch = volume(catalog)
    other, other_epoch = volume(catalog, "vm2")
    mine = []
    for _ in range(3):
        mine.append(catalog.allocate_segment(row.id, epoch, (1,)))
        catalog.allocate_segment(other.id, other_epoch, (1,))

    assert mine[1:] == [one.id for one in catalog.segments(row.id, mine[1])]
    assert len(catalog.all_segments()) == 6


def test_a_backend_with_copies_is_not_removed(catalog: Catalog) -> None:
    ids = [catalog.add_backend(f"/{n}", f"{n:032x}", "").id for n in range(11)]
    row, epoch = volume(catalog)
    segment = catalog.allocate_segment(row.id, epoch, (ids[0], ids[10]))
    with pytest.raises(Busy):
        catalog.remove_backend(ids[10])
    catalog.set_segment_copies(row.id, epoch, segment, (ids[10],))
    catalog.remove_backend(ids[0])

    assert ids[1:] == [one.id for one in catalog.backends()]


def test_backends_may_swap_their_places(catalog: Catalog) -> None:
    a, b = (catalog.add_backend(url, url * 16, "") for url in ("/a", "/b"))
    with pytest.raises(Exists):
        catalog.add_backend("/a", "x", "")
    catalog.move_backends({a.id: "/b", b.id: "/a"})

    assert [one.url for one in catalog.backends()] == ["/b", "/a"]


def test_only_the_newest_events_are_kept(catalog: Catalog) -> None:
    for n in range(5):
        catalog.add_event("test", str(n))

    assert [event.text for event in catalog.events(2)] == ["4", "3"]
    assert len(catalog.events()) <= EVENTS_KEPT


def test_two_catalogs_on_one_file_see_each_other(tmp_path: Path) -> None:
    one = Catalog.create(tmp_path / "c.db", MEMORY_POOL)
    other = Catalog.open(tmp_path / "c.db")
    row, _ = volume(one)
    assert other.acquire(row.id, "other") == 2
    assert one.holder(row.id) == (2, "other")
    one.close()
    other.close()


def test_threads_and_processes_never_get_the_same_id(tmp_path: Path) -> None:
    catalogs = [Catalog.create(tmp_path / "c.db", MEMORY_POOL), Catalog.open(tmp_path / "c.db")]
    row, epoch = volume(catalogs[0])
    got: list[int] = []

    def work(catalog: Catalog) -> None:
        for _ in range(25):
            got.append(catalog.allocate_segment(row.id, epoch, (1,)))
            catalog.dataset("vm1")

    threads = [threading.Thread(target=work, args=(catalogs[n % 2],)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert list(range(1, 151)) == sorted(got)
    for catalog in catalogs:
        catalog.close()


def test_a_file_that_is_no_catalog_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Missing):
        Catalog.open(tmp_path / "none.db")
    (tmp_path / "text.db").write_bytes(b"not a database" * 1000)
    (tmp_path / "empty.db").write_bytes(b"")
    for name in ("text.db", "empty.db"):
        with pytest.raises(Corrupt):
            Catalog.open(tmp_path / name)
    Catalog.create(tmp_path / "c.db", MEMORY_POOL).close()
    with pytest.raises(Exists):
        Catalog.create(tmp_path / "c.db", MEMORY_POOL)


def test_a_damaged_catalog_is_corrupt_not_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    catalog = Catalog.create(path, MEMORY_POOL)
    volume(catalog)
    catalog.close()
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 60000)

    with pytest.raises(Corrupt, match="damaged"):
        Catalog.open(path).datasets()


def test_a_crash_copy_costs_about_a_millisecond() -> None:
    catalog = Catalog.in_memory()
    volume(catalog)
    image = catalog.serialize()
    best_s = 1.0
    for _ in range(20):
        start = time.perf_counter()
        Catalog.deserialize(image).close()
        best_s = min(best_s, time.perf_counter() - start)

    assert best_s < 0.005
