"""D1: what a directory backend has handed to fsync when it returns. A power cut takes whatever has not been."""

import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from backends.directory import DirectoryBackend
from backends.directory_files import WRITE_FILES_MAX
from sds.core.errors import BackendError
from tests.backends.places import PAGE, pages
from tests.backends.test_directory import NAME, run_in

PARENT = "segments/000001"
OTHER = f"{PARENT}/2-1"
TOUCH: dict[str, Callable[[DirectoryBackend], Awaitable[None]]] = {
    "sync": lambda backend: backend.sync(NAME),
    "write with sync": lambda backend: backend.write(NAME, 0, pages(1), sync=True),
    "seal": lambda backend: backend.seal(NAME, PAGE),
}
every_touch = pytest.mark.parametrize("touch", TOUCH.values(), ids=TOUCH)


class Disk:
    """The kernel's syncs, seen and (of `failing`, once) refused like a disk that reports an error once."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[str] = []
        self.failing: list[str] = []
        self._root = root
        for call in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, call, self._watched(getattr(os, call)))

    def _watched(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(fd: int) -> None:
            path = os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), self._root)
            if path in self.failing:
                self.failing.remove(path)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real(fd)
            self.synced.append(path)

        return sync

    def taken(self) -> list[str]:
        """What has been synced since the last call, in order."""
        taken, self.synced = self.synced, []
        return taken


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path, monkeypatch)


def test_every_new_directory_is_synced_into_its_parent_and_no_new_file(tmp_path: Path, disk: Disk) -> None:
    """Also where another process made the directory a moment ago."""
    (tmp_path / "segments").mkdir()

    async def body(backend: DirectoryBackend) -> None:
        await backend.create(NAME, PAGE)
        assert disk.taken() == [".", "segments"]
        await backend.create(OTHER, PAGE)
        assert disk.taken() == []

    run_in(tmp_path, body)


@every_touch
def test_the_first_sync_of_a_file_syncs_its_name_once(
    tmp_path: Path, disk: Disk, touch: Callable[[DirectoryBackend], Awaitable[None]]
) -> None:
    """The data first: a name that is durable must not stand for a file that is not."""

    async def body(backend: DirectoryBackend) -> None:
        await backend.create(NAME, PAGE)
        await backend.write(NAME, 0, pages(1))
        disk.taken()
        await touch(backend)
        *data, name = disk.taken()
        assert (set(data), name) == ({NAME}, PARENT)

    run_in(tmp_path, body)


def test_later_syncs_of_a_file_leave_its_directory_alone(tmp_path: Path, disk: Disk) -> None:
    async def body(backend: DirectoryBackend) -> None:
        await backend.create(NAME, PAGE)
        await backend.sync(NAME)
        disk.taken()
        await backend.sync(NAME)
        await backend.write(NAME, 0, pages(1), sync=True)
        await backend.seal(NAME, PAGE)
        assert set(disk.taken()) == {NAME}

    run_in(tmp_path, body)


def test_each_file_of_a_directory_has_its_own_first_sync(tmp_path: Path, disk: Disk) -> None:
    """Created after the directory was synced for another file, it is not in what was synced."""

    async def body(backend: DirectoryBackend) -> None:
        await backend.create(NAME, PAGE)
        await backend.sync(NAME)
        await backend.create(OTHER, PAGE)
        disk.taken()
        await backend.sync(OTHER)
        assert disk.taken() == [OTHER, PARENT]

    run_in(tmp_path, body)


def test_a_file_made_anew_under_an_old_name_has_its_own_first_sync(tmp_path: Path, disk: Disk) -> None:
    async def body(backend: DirectoryBackend) -> None:
        for size_bytes in (PAGE, 1 << 20, 1 << 20):  # The last one is made from a deleted file.
            await backend.create(NAME, size_bytes)
            disk.taken()
            await backend.sync(NAME)
            assert disk.taken() == [NAME, PARENT]
            await backend.delete(NAME)

    run_in(tmp_path, body)


@every_touch
def test_a_file_of_another_process_that_may_never_have_synced_it_is_synced_into_its_directory(
    tmp_path: Path, disk: Disk, touch: Callable[[DirectoryBackend], Awaitable[None]]
) -> None:
    async def first(backend: DirectoryBackend) -> None:
        await backend.create(NAME, PAGE)

    async def second(backend: DirectoryBackend) -> None:
        disk.taken()
        await touch(backend)
        *data, name = disk.taken()
        assert (set(data), name) == ({NAME}, PARENT)

    run_in(tmp_path, first)
    run_in(tmp_path, second)


def test_a_file_whose_descriptor_was_needed_elsewhere_still_gets_its_name_synced(tmp_path: Path, disk: Disk) -> None:
    """Closed early, its data is synced (D3) but nobody was told so: the name waits for the sync that is asked for."""

    async def body(backend: DirectoryBackend) -> None:
        await backend.create(NAME, PAGE)
        await backend.write(NAME, 0, pages(1))
        disk.taken()
        for index in range(WRITE_FILES_MAX):
            await backend.create(f"others/{index}", PAGE)
            await backend.write(f"others/{index}", 0, pages(1))
        assert NAME in disk.taken()
        await backend.sync(NAME)
        assert disk.taken()[-2:] == [NAME, PARENT]

    run_in(tmp_path, body)


@every_touch
def test_b4_an_error_of_the_directory_in_the_first_sync_is_final_for_the_file(
    tmp_path: Path, disk: Disk, touch: Callable[[DirectoryBackend], Awaitable[None]]
) -> None:
    async def body(backend: DirectoryBackend) -> None:
        await backend.create(NAME, PAGE)
        disk.failing.append(PARENT)
        with pytest.raises(BackendError, match=NAME):
            await touch(backend)
        assert not disk.failing
        for later in (backend.write(NAME, 0, pages(1)), backend.sync(NAME), backend.seal(NAME, 0)):
            with pytest.raises(BackendError, match="failed earlier"):
                await later

    run_in(tmp_path, body)
