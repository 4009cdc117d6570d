"""Pools over real directories: all-or-nothing creation, labels, backups, export and import, destroy."""

import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from backends.base import Backend
from backends.directory import DirectoryBackend
from sds.core.errors import BackendError, BadInput, Busy, Corrupt, Exists, Missing, SdsError
from sds.core.names import segment_name
from sds.pool.backup import KEPT, generations
from sds.pool.create import add_backend, create_pool, remove_backend
from sds.pool.home import Home
from sds.pool.label import LABEL
from sds.pool.lease import Holder
from sds.pool.pool import Pool, open_pool
from sds.pool.transfer import destroy_pool, export_pool, import_pool

ME = Holder.me("test")
SEGMENT_SIZE = 64 << 10


def clock() -> float:
    return 1000.0


def connect(url: str, local: Path | None) -> Backend:
    return DirectoryBackend(url)


class BrokenBackend(DirectoryBackend):
    """Takes no file whose name begins with `refuse`."""

    refuse = LABEL

    async def put(self, name: str, data: bytes) -> None:
        if name.startswith(self.refuse):
            raise BackendError(f"{self.url}: {name}: write failed")
        await super().put(name, data)


class House:
    """A home and three directories for backends."""

    def __init__(self, tmp_path: Path) -> None:
        self.home = Home(tmp_path / "home")
        self.disks = [tmp_path / f"disk{n}" for n in range(3)]
        for disk in self.disks:
            disk.mkdir()
        (self.disks[0] / "lost+found").mkdir()
        self.urls = [str(disk) for disk in self.disks]

    async def create(self, count: int = 2, copies: int = 1) -> Pool:
        return await create_pool(self.home, "tank", self.urls[:count], connect, clock, copies, SEGMENT_SIZE)

    def content(self) -> list[str]:
        return sorted(
            str(path) for disk in self.disks for path in disk.rglob("*") if path.name != "lost+found"
        )


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def run(work: Callable[[], Awaitable[None]]) -> None:
    trio.run(work)


def test_a_created_pool_opens_again(house: House) -> None:
    async def work() -> None:
        first = await house.create(copies=2)
        row = first.row
        await first.close()
        pool = await open_pool(house.home, "tank", connect)
        assert row == pool.row
        assert house.urls[:2] == [backend.url for backend in pool.backends.values()]
        assert {1, 2} == {candidate.backend for candidate in pool.candidates()}
        assert house.home.pool_names() == ["tank"]
        await pool.close()

    run(work)


def bad_creations(house: House, tmp_path: Path) -> list[tuple[str, str, list[str], int, int]]:
    full, file, labelled = tmp_path / "full", tmp_path / "file", tmp_path / "labelled"
    full.mkdir()
    (full / "photo").write_text("x")
    file.write_text("x")
    labelled.mkdir()
    (labelled / LABEL).write_text("x")
    link = tmp_path / "link"
    link.symlink_to(house.disks[0])
    inside = tmp_path / "outer" / "inner"
    inside.mkdir(parents=True)
    size, a, b = SEGMENT_SIZE, house.urls[0], house.urls[1]
    return [
        ("Tank", "pool name", [a], 1, size),
        ("tank", "1 to 256 backends", [], 1, size),
        ("tank", "not empty", [a, str(full)], 1, size),
        ("tank", "not a directory", [a, str(file)], 1, size),
        ("tank", "does not exist", [a, str(tmp_path / "none")], 1, size),
        ("tank", "belongs to a pool", [a, str(labelled)], 1, size),
        ("tank", "overlaps", [a, a], 1, size),
        ("tank", "overlaps", [a, a + "/"], 1, size),
        ("tank", "overlaps", [a, str(link)], 1, size),
        ("tank", "overlaps", [str(inside), str(inside.parent)], 1, size),
        ("tank", "overlaps", [str(inside.parent), str(inside)], 1, size),
        ("tank", "copies 3 needs", [a, b], 3, size),
        ("tank", "copies 0", [a], 0, size),
        ("tank", "power of two", [a], 1, 100_000),
        ("tank", "power of two", [a], 1, 64 << 20),
        ("tank", "power of two", [a], 1, 0),
        ("tank", "no backend", [""], 1, size),
    ]


def test_bad_input_is_refused_in_one_line_and_nothing_has_changed(house: House, tmp_path: Path) -> None:
    async def work() -> None:
        for name, says, urls, copies, size in bad_creations(house, tmp_path):
            before = house.content()
            with pytest.raises(BadInput, match=says) as caught:
                await create_pool(house.home, name, urls, connect, clock, copies, size)
            assert "\n" not in str(caught.value)
            assert before == house.content()
            assert house.home.pool_names() == []

    run(work)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_write_permission_is_refused(house: House) -> None:
    house.disks[0].chmod(0o500)
    with pytest.raises(BadInput, match="not writable"):
        trio.run(house.create)


@pytest.mark.parametrize("refuse", [LABEL, "catalog/"])
def test_a_creation_that_fails_half_way_leaves_nothing_behind(house: House, refuse: str) -> None:
    def breaking(url: str, local: Path | None) -> Backend:
        backend = BrokenBackend(url)
        backend.refuse = refuse if url == house.urls[1] else "never"
        return backend

    async def work() -> None:
        with pytest.raises(BackendError):
            await create_pool(house.home, "tank", house.urls, breaking, clock, 1, SEGMENT_SIZE)
        assert house.content() == []
        assert list(house.home.pools_dir.iterdir()) == []
        await (await house.create()).close()

    run(work)


def test_a_pool_name_and_a_backend_are_taken_once(house: House) -> None:
    async def work() -> None:
        pool = await house.create()
        with pytest.raises(Exists):
            await house.create()
        for disk in house.urls[:2]:
            with pytest.raises(BadInput):
                await create_pool(house.home, "other", [disk], connect, clock)
        await pool.close()
        with pytest.raises(Missing, match="tank"):
            await open_pool(house.home, "other", connect)

    run(work)


def test_a_foreign_or_swapped_backend_is_corrupt(house: House) -> None:
    async def work() -> None:
        await (await house.create()).close()
        await (await create_pool(house.home, "other", house.urls[2:], connect, clock)).close()
        a, b, foreign = (disk / LABEL for disk in house.disks)
        keep = a.read_bytes()
        a.write_bytes(foreign.read_bytes())
        with pytest.raises(Corrupt, match="belongs to pool other"):
            await open_pool(house.home, "tank", connect, allow_missing=True)
        a.write_bytes(b.read_bytes())
        with pytest.raises(Corrupt, match="swapped"):
            await open_pool(house.home, "tank", connect, allow_missing=True)
        for junk in (b"", b"{}", b"[1]", b"\xff", keep.replace(b'"format": 1', b'"format": 9'), b"x" * 9000):
            a.write_bytes(junk)
            with pytest.raises(Corrupt, match="disk0"):
                await open_pool(house.home, "tank", connect)
            pool = await open_pool(house.home, "tank", connect, allow_missing=True)  # damaged is as good as away
            assert list(pool.missing) == [1] and "disk0" in pool.missing[1]
            await pool.close()

    run(work)


def test_a_missing_backend_is_named_and_may_be_allowed(house: House) -> None:
    async def work() -> None:
        await (await house.create(copies=2)).close()
        shutil.rmtree(house.disks[1])
        with pytest.raises(SdsError, match="disk1 is missing"):
            await open_pool(house.home, "tank", connect)
        pool = await open_pool(house.home, "tank", connect, allow_missing=True)
        assert (list(pool.backends), list(pool.missing)) == ([1], [2])
        await pool.backup()
        await pool.close()

    run(work)


def test_the_newest_backups_are_kept_on_every_backend(house: House) -> None:
    async def work() -> None:
        pool = await house.create()
        made = [await pool.backup() for _ in range(5)]
        for backend in pool.backends.values():
            assert made[-KEPT:] == await generations(backend)
        await pool.close()

    run(work)


def test_backends_are_added_and_removed(house: House) -> None:
    async def work() -> None:
        pool = await house.create(copies=2)
        row = await add_backend(pool, house.urls[2], connect, clock)
        with pytest.raises(BadInput, match="overlaps"):
            await add_backend(pool, house.urls[2], connect, clock)
        await remove_backend(pool, 1)
        assert not (house.disks[0] / LABEL).exists()
        with pytest.raises(BadInput, match="add another"):
            await remove_backend(pool, row.id)
        await pool.close()
        again = await open_pool(house.home, "tank", connect)
        assert list(again.backends) == [2, 3]
        await again.close()

    run(work)


def test_export_then_import_from_the_backends_alone(house: House, tmp_path: Path) -> None:
    async def work() -> None:
        pool = await house.create()
        data = pool.catalog.create_dataset("vm1", "volume", 1 << 30)
        epoch = pool.catalog.acquire(data.id, "me")
        segment = pool.catalog.allocate_segment(data.id, epoch, (2, 1))
        for backend in pool.backends.values():
            await backend.create(segment_name(data.id, segment, epoch), SEGMENT_SIZE)
        await pool.backends[1].create(segment_name(77, 5, 1), SEGMENT_SIZE)
        uuid = pool.uuid
        with pool.lease(data, ME), pytest.raises(Busy, match="tank/vm1"):
            await export_pool(pool, ME)
        await export_pool(pool, ME)
        assert house.home.pool_names() == []

        fresh = Home(tmp_path / "fresh")
        with pytest.raises(Missing, match="disk1"):
            await import_pool(fresh, house.urls[:1], connect, clock)
        moved = tmp_path / "moved"
        house.disks[1].rename(moved)
        imported = await import_pool(fresh, [str(moved), house.urls[0]], connect, clock)
        again = imported.pool
        assert (uuid, ["vm1"]) == (again.uuid, [row.name for row in again.catalog.datasets()])
        assert [(segment, {1, 2})] == [(s.id, set(s.copies)) for s in again.catalog.all_segments()]
        assert [row.dataset for row in imported.left_out] == [77]
        assert again.catalog.allocate_segment(data.id, again.catalog.acquire(data.id, "me"), (1,)) > segment
        assert str(moved) == again.backends[2].url
        await again.close()

    run(work)


def test_an_import_passes_over_damaged_backups_and_says_when_none_is_left(
    house: House, tmp_path: Path
) -> None:
    async def work() -> None:
        pool = await house.create(count=1)
        pool.catalog.create_dataset("vm1", "volume", 1)
        await pool.backup()
        await export_pool(pool, ME)
        backups = sorted((house.disks[0] / "catalog").iterdir())
        backups[-1].write_bytes(b"\xff" * 100)
        imported = await import_pool(Home(tmp_path / "fresh"), house.urls[:1], connect, clock)
        assert [row.name for row in imported.pool.catalog.datasets()] == ["vm1"]
        await imported.pool.close()
        for path in (house.disks[0] / "catalog").iterdir():
            path.write_bytes(b"")
        fresher = Home(tmp_path / "fresher")
        with pytest.raises(Missing, match="no valid catalog backup"):
            await import_pool(fresher, house.urls[:1], connect, clock)
        assert list(fresher.pools_dir.iterdir()) == []

    run(work)


def test_backends_of_two_pools_are_not_imported_as_one(house: House, tmp_path: Path) -> None:
    async def work() -> None:
        await export_pool(await house.create(count=1), ME)
        await export_pool(await create_pool(house.home, "other", house.urls[1:2], connect, clock), ME)
        with pytest.raises(BadInput, match="one at a time"):
            await import_pool(house.home, house.urls[:2], connect, clock)
        with pytest.raises(Missing, match="belongs to no pool"):
            await import_pool(house.home, house.urls[2:], connect, clock)
        with pytest.raises(BadInput, match="name the backends"):
            await import_pool(house.home, [], connect, clock)

    run(work)


def test_destroy_removes_what_is_ours_and_only_that(house: House) -> None:
    async def work() -> None:
        pool = await house.create()
        data = pool.catalog.create_dataset("vm1", "volume", 1)
        await pool.backends[1].create(segment_name(data.id, 1, 1), SEGMENT_SIZE)
        (house.disks[0] / "photo").write_text("mine")
        with pytest.raises(Busy, match="vm1"):
            await destroy_pool(pool, ME)
        with pool.lease(data, ME), pytest.raises(Busy, match="in use"):
            await destroy_pool(pool, ME, force=True)
        await destroy_pool(pool, ME, force=True)
        assert [str(house.disks[0] / "photo")] == house.content()
        assert house.home.pool_names() == []
        (house.disks[0] / "photo").unlink()
        await (await house.create()).close()

    run(work)
