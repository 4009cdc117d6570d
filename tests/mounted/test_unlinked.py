"""Files that are open and have no name any more."""

import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from tests.filesystem.profile import fresh
from tests.mounted.harness import Mounted, mounted

pytestmark = pytest.mark.real("mkfs.ext4", "fusermount3")
MIB = 1 << 20


def test_an_unlinked_file_lives_on_for_who_has_it_open(place: Path) -> None:
    path = place / "f"
    with path.open("w+b", buffering=0) as file:
        file.write(b"before")
        path.unlink()
        assert not path.exists() and os.listdir(place) == []
        file.write(b" and after")
        os.ftruncate(file.fileno(), MIB)
        os.fchmod(file.fileno(), 0o600)
        os.setxattr(file.fileno(), "user.a", b"1")
        os.fsync(file.fileno())
        assert os.pread(file.fileno(), 16, 0) == b"before and after"
        status = os.fstat(file.fileno())
        assert (status.st_nlink, status.st_size, status.st_mode & 0o777) == (0, MIB, 0o600)
        path.write_bytes(b"another")
        assert os.pread(file.fileno(), 6, 0) == b"before"
    assert path.read_bytes() == b"another"


def test_a_second_opener_keeps_it_too(place: Path) -> None:
    path = place / "f"
    path.write_bytes(b"content")
    one, two = os.open(path, os.O_RDWR), os.open(path, os.O_RDONLY)
    path.unlink()
    os.write(one, b"CONTENT")
    os.close(one)
    assert os.pread(two, 10, 0) == b"CONTENT"
    again = os.open(f"/proc/self/fd/{two}", os.O_RDONLY)
    os.close(two)
    assert os.pread(again, 10, 0) == b"CONTENT"
    os.close(again)


def test_an_unlinked_fifo_lives_on_too(place: Path) -> None:
    """The kernel opens it by itself: the filesystem is never told that it is open."""
    os.mkfifo(place / "fifo")
    fifo = os.open(place / "fifo", os.O_RDWR)
    try:
        (place / "fifo").unlink()
        os.write(fifo, b"through")
        assert os.read(fifo, 10) == b"through"
        assert os.fstat(fifo).st_nlink == 0
        os.fchmod(fifo, 0o600)
        assert stat.S_IMODE(os.fstat(fifo).st_mode) == 0o600
    finally:
        os.close(fifo)


@pytest.mark.parametrize("size", [0, 10, 100_000])
def test_what_is_known_and_not_open_can_be_opened_after_it_was_unlinked(place: Path, size: int) -> None:
    path = place / "f"
    path.write_bytes(b"x" * size)
    known = os.open(path, os.O_PATH)
    try:
        path.unlink()
        assert os.fstat(known).st_nlink == 0
        with open(f"/proc/self/fd/{known}", "rb") as file:
            assert file.read() == b"x" * size
        with open(f"/proc/self/fd/{known}", "r+b") as file:
            assert file.write(b"yy") == 2
    finally:
        os.close(known)


def test_an_unlinked_symbolic_link_can_be_read_by_who_knows_it(place: Path) -> None:
    (place / "link").symlink_to("target")
    known = os.open(place / "link", os.O_PATH | os.O_NOFOLLOW)
    try:
        (place / "link").unlink()
        assert os.readlink("", dir_fd=known) == "target"
        assert os.fstat(known).st_nlink == 0
    finally:
        os.close(known)


def free_bytes(mount: Mounted) -> int:
    status = os.statvfs(mount.path)
    return status.f_bfree * status.f_frsize


def inodes_used(mount: Mounted) -> int:
    status = os.statvfs(mount.path)
    return status.f_files - status.f_ffree


def test_room_of_an_unlinked_file_comes_back_when_it_is_closed() -> None:
    """Seen through a quota, which counts what the files of this filesystem take and nothing else."""
    with mounted() as mount:
        mount.sds("set", "tank/home", "quota=64M")
        before = free_bytes(mount)
        path = mount.path / "f"
        with path.open("wb") as file:
            file.write(os.urandom(16 * MIB))
            file.flush()
            os.fsync(file.fileno())
            path.unlink()
            assert before - free_bytes(mount) >= 16 * MIB
        for _ in range(1000):
            if before - free_bytes(mount) < MIB:
                break
        assert before - free_bytes(mount) < MIB


def test_unlinked_files_that_were_open_are_gone_after_a_kill() -> None:
    with mounted() as mount:
        mount.sds("set", "tank/home", "quota=64M")
        before, inodes = free_bytes(mount), inodes_used(mount)
        directory = fresh(mount.path)
        files = []
        for number in range(10):
            path = directory / str(number)
            files.append(path.open("wb", buffering=0))
            files[-1].write(os.urandom(MIB))
            if number % 2:
                path.unlink()
            else:
                path.rename(directory / "same")
        os.fsync(files[0].fileno())
        assert before - free_bytes(mount) >= 10 * MIB
        mount.kill()
        for file in files:
            with suppress(OSError):  # the mount is dead
                file.close()
        mount.start()
        assert os.listdir(directory) == ["same"]
        assert (directory / "same").stat().st_size == MIB
        assert MIB <= before - free_bytes(mount) < 2 * MIB
        assert inodes_used(mount) == inodes + 2


def test_a_removed_directory_that_was_a_working_directory_is_gone_after_a_kill() -> None:
    with mounted() as mount:
        inodes = inodes_used(mount)
        (mount.path / "d").mkdir()
        handle = os.open(mount.path / "d", os.O_RDONLY)
        (mount.path / "d").rmdir()
        mount.kill()
        os.close(handle)
        mount.start()
        assert os.listdir(mount.path) == []
        assert inodes_used(mount) == inodes
