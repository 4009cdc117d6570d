"""Contents: truncation, appending, holes, maps of memory, and offsets as large as they come."""

import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.people import outcome

pytestmark = pytest.mark.real("mkfs.ext4", "fusermount3")
BLOCK = 4096
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def test_o_trunc_empties_a_file_for_all_who_have_it_open(place: Path) -> None:
    (place / "f").write_bytes(b"x" * 100_000)
    with (place / "f").open("rb") as reading:
        assert len(reading.read(10)) == 10
        os.close(os.open(place / "f", os.O_WRONLY | os.O_TRUNC))
        assert os.fstat(reading.fileno()).st_size == 0
        assert os.pread(reading.fileno(), 10, 0) == b""
    assert (place / "f").stat().st_blocks == 0


def test_appends_of_two_openers_do_not_overwrite_each_other(place: Path) -> None:
    one = os.open(place / "f", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    two = os.open(place / "f", os.O_WRONLY | os.O_APPEND)
    try:
        for number in range(200):
            assert os.write(one, b"one %04d\n" % number) == 9
            assert os.write(two, b"two %04d\n" % number) == 9
            os.lseek(one, 0, os.SEEK_SET)
    finally:
        os.close(one)
        os.close(two)
    lines = (place / "f").read_bytes().splitlines()
    assert lines == [b"%s %04d" % (who, number) for number in range(200) for who in (b"one", b"two")]


def test_appends_of_two_processes_do_not_overwrite_each_other(place: Path) -> None:
    count, children = 300, []
    for who in (b"a", b"b"):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                file = os.open(place / "f", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
                for number in range(count):
                    os.write(file, who + b"%06d\n" % number)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    lines = (place / "f").read_bytes().splitlines()
    for who in (b"a", b"b"):
        assert [line for line in lines if line.startswith(who)] == [who + b"%06d" % number for number in range(count)]


@pytest.mark.parametrize("size", [1, 100, 2000, 4095, 4096, 4097, 100_000])
@pytest.mark.parametrize("cut", [0, 1, 50, 4095, 4096])
def test_what_was_cut_off_comes_back_as_zeros(place: Path, size: int, cut: int) -> None:
    path = place / "f"
    path.write_bytes(b"\xff" * size)
    os.truncate(path, min(cut, size))
    os.truncate(path, 200_000)
    assert path.read_bytes() == b"\xff" * min(cut, size) + bytes(200_000 - min(cut, size))
    with path.open("r+b") as file:
        file.seek(150_000)
        file.write(b"end")
    assert path.read_bytes() == b"\xff" * min(cut, size) + bytes(150_000 - min(cut, size)) + b"end" + bytes(49_997)


@pytest.mark.parametrize("size", [10, 3000, 4096, 50_000])
def test_a_write_behind_the_end_leaves_zeros_before_it(place: Path, size: int) -> None:
    path = place / "f"
    path.write_bytes(b"\xff" * size)
    with path.open("r+b") as file:
        file.seek(size + 10_000)
        file.write(b"end")
    assert path.read_bytes() == b"\xff" * size + bytes(10_000) + b"end"


def test_a_sparse_file_takes_the_room_of_its_data(place: Path) -> None:
    path = place / "f"
    with path.open("wb", buffering=0) as file:
        for at in (0, 100 * MIB, GIB):
            file.seek(at)
            file.write(os.urandom(BLOCK))
        os.fsync(file.fileno())
        status = os.fstat(file.fileno())
    assert status.st_size == GIB + BLOCK
    assert 3 * 8 <= status.st_blocks <= 40
    with path.open("rb") as file:
        file.seek(50 * MIB)
        assert file.read(MIB) == bytes(MIB)
    os.truncate(path, 10 * MIB)
    assert path.stat().st_blocks <= 16
    os.truncate(path, 0)
    assert path.stat().st_blocks == 0


@pytest.mark.parametrize("length", [1, 1000, BLOCK, BLOCK + 1, 3 * MIB + 5])
def test_reads_end_at_the_end(place: Path, length: int) -> None:
    data = random.Random(length).randbytes(length)
    (place / "f").write_bytes(data)
    with (place / "f").open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(file.fileno(), 8 * MIB, 0) == data
        assert os.pread(file.fileno(), 100, length) == b""
        assert os.pread(file.fileno(), 100, length - 1) == data[-1:]
        assert os.pread(file.fileno(), 100, length + 12345) == b""


LAST = (1 << 62) - 1


@pytest.mark.parametrize("offset", [(1 << 31) - 3, (1 << 32) - 1, (1 << 40) + 5, (1 << 61) + 77, LAST - 10])
def test_files_have_up_to_2_to_the_62_bytes(ours: Path, offset: int) -> None:
    with (ours / "f").open("w+b", buffering=0) as file:
        assert os.pwrite(file.fileno(), b"far away", offset) == 8
        assert os.fstat(file.fileno()).st_size == offset + 8
        assert os.fstat(file.fileno()).st_blocks <= 16
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(file.fileno(), 100, offset - 2) == b"\0\0far away"
        assert os.pread(file.fileno(), 10, offset // 2) == bytes(10)
        os.ftruncate(file.fileno(), offset + 3)
        assert os.pread(file.fileno(), 100, offset) == b"far"
        os.ftruncate(file.fileno(), 1)
        assert os.pread(file.fileno(), 10, 0) == b"\0"
        assert os.fstat(file.fileno()).st_blocks == 0


def test_beyond_that_is_efbig_and_changes_nothing(ours: Path) -> None:
    with (ours / "f").open("w+b", buffering=0) as file:
        assert outcome(lambda: os.pwrite(file.fileno(), b"xy", (1 << 62) - 1)) in (1, "EFBIG")
        assert outcome(lambda: os.pwrite(file.fileno(), b"x", 1 << 62)) == "EFBIG"
        assert outcome(lambda: os.ftruncate(file.fileno(), (1 << 62) + 1)) == "EFBIG"
        os.ftruncate(file.fileno(), 1 << 62)
        assert os.fstat(file.fileno()).st_size == 1 << 62


@pytest.mark.parametrize("share", [mmap.MAP_SHARED, mmap.MAP_PRIVATE], ids=["shared", "private"])
def test_a_map_and_the_file_agree(place: Path, share: int) -> None:
    path = place / "f"
    data = random.Random(1).randbytes(5 * BLOCK + 100)
    path.write_bytes(data)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, flags=share) as memory:
        assert memory[:] == data
        memory[BLOCK - 2 : BLOCK + 2] = b"maps"
        memory[-1:] = b"!"
        if share == mmap.MAP_SHARED:
            memory.flush()
            data = data[: BLOCK - 2] + b"maps" + data[BLOCK + 2 : -1] + b"!"
        assert path.read_bytes() == data
        os.pwrite(file.fileno(), b"write", 3 * BLOCK)
        assert memory[3 * BLOCK : 3 * BLOCK + 5] == b"write"


def test_a_shared_map_is_there_after_the_file_was_closed(place: Path) -> None:
    path = place / "f"
    path.write_bytes(bytes(3 * BLOCK))
    file = os.open(path, os.O_RDWR)
    memory = mmap.mmap(file, 3 * BLOCK)
    os.close(file)
    memory[BLOCK : BLOCK + 5] = b"later"
    memory.close()
    assert path.read_bytes()[BLOCK : BLOCK + 5] == b"later"


@pytest.mark.parametrize("make", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_a_file_can_be_made_with_a_mode_that_forbids_what_it_is_opened_for(place: Path, make: int) -> None:
    file = os.open(place / "f", os.O_CREAT | os.O_EXCL | make, 0o000)
    if make != os.O_RDONLY:
        assert os.write(file, b"x") == 1
    os.close(file)
    assert (place / "f").stat().st_mode & 0o777 == 0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (os.O_RDONLY | os.O_DIRECTORY, "ENOTDIR"), (os.O_CREAT | os.O_EXCL, "EEXIST"),
        (os.O_RDWR | os.O_NOFOLLOW, None),
    ],
)  # fmt: skip
def test_flags_of_open_are_kept(place: Path, flags: int, expected: str | None) -> None:
    (place / "f").touch()
    action: Callable[[], None] = lambda: os.close(os.open(place / "f", flags))  # noqa: E731
    assert outcome(action) == expected
    assert outcome(lambda: os.close(os.open(place, os.O_WRONLY))) == "EISDIR"
    assert outcome(lambda: os.close(os.open(place / "f" / "g", os.O_CREAT))) == "ENOTDIR"


def test_seek_data_finds_all_data(place: Path) -> None:
    """Holes may be told as data, but no data as a hole."""
    with (place / "f").open("w+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"x" * BLOCK, 10 * BLOCK)
        os.ftruncate(file.fileno(), 20 * BLOCK)
        start = os.lseek(file.fileno(), 0, os.SEEK_DATA)
        assert start <= 10 * BLOCK
        assert os.lseek(file.fileno(), 10 * BLOCK, os.SEEK_DATA) == 10 * BLOCK
        assert os.lseek(file.fileno(), 10 * BLOCK, os.SEEK_HOLE) >= 11 * BLOCK
        assert outcome(lambda: os.lseek(file.fileno(), 20 * BLOCK, os.SEEK_DATA)) == "ENXIO"
