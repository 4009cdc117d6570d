"""Directories, read through the kernel: each entry once, whatever the buffer and whatever changes meanwhile."""

import ctypes
import os
import shutil
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.mounting import Mounted, mounted

pytestmark = pytest.mark.real("fusermount3")

_SYS_GETDENTS64 = {"x86_64": 217, "aarch64": 61}
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Mounted]:
    with mounted(tmp_path) as served:
        yield served


def getdents(handle: int, size: int) -> list[tuple[str, int, int, int]]:
    """(name, inode, cookie behind it, type), as one system call returns them."""
    buffer = ctypes.create_string_buffer(size)
    length = _libc.syscall(_SYS_GETDENTS64[os.uname().machine], handle, buffer, size)
    assert length >= 0, os.strerror(ctypes.get_errno())
    found, at = [], 0
    while at < length:
        inode, cookie, record, kind = struct.unpack_from("<QqHB", buffer.raw, at)
        name = buffer.raw[at + 19 : at + record].split(b"\0")[0].decode()
        found.append((name, inode, cookie, kind))
        at += record
    return found


def all_names(handle: int, size: int) -> list[str]:
    names: list[str] = []
    while entries := getdents(handle, size):
        names += [entry[0] for entry in entries]
    return names


@pytest.mark.parametrize("size", [300, 4096, 32_768, 1 << 20])
def test_ten_thousand_entries_are_each_seen_once_whatever_the_buffer(served: Mounted, size: int) -> None:
    served.ask("fill", "entry-", 10_000)
    handle = os.open(served.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        names = all_names(handle, size)
    finally:
        os.close(handle)
    assert names == [".", "..", *(f"entry-{number:05d}" for number in range(10_000))]


def test_little_is_fetched_in_vain(served: Mounted) -> None:
    """A batch is as large as what fitted into the last reply."""
    served.ask("fill", "entry-", 10_000)
    assert len(os.listdir(served.path)) == 10_000
    assert sum(served.ask("limits")) < 13_000


def test_dots_lead_here_and_above(served: Mounted) -> None:
    (served.path / "dir").mkdir()
    handle = os.open(served.path / "dir", os.O_RDONLY | os.O_DIRECTORY)
    entries = getdents(handle, 4096)
    os.close(handle)
    directory = stat.S_IFDIR >> 12
    inode = (served.path / "dir").stat().st_ino
    assert [(name, number, kind) for name, number, _, kind in entries] == [
        (".", inode, directory),
        ("..", 1, directory),
    ]
    assert os.path.samefile(served.path / "dir" / "..", served.path)


def test_a_cookie_leads_back_to_its_place_while_entries_come_and_go(served: Mounted) -> None:
    served.ask("fill", "entry-", 300)
    handle = os.open(served.path, os.O_RDONLY | os.O_DIRECTORY)
    first = getdents(handle, 1024)
    cookie, seen = first[10][2], [entry[0] for entry in first[:11]]
    for number in (0, 5, 100, 200):
        (served.path / f"entry-{number:05d}").unlink()
    (served.path / "later").write_bytes(b"")
    for _ in range(2):  # telldir and seekdir as often as one likes
        os.lseek(handle, cookie, os.SEEK_SET)
        names = seen + all_names(handle, 700)
        expected = [".", "..", *(f"entry-{number:05d}" for number in range(300) if number not in (100, 200)), "later"]
        assert names == expected
    os.lseek(handle, 0, os.SEEK_SET)
    names = all_names(handle, 700)
    assert names == [".", "..", *(name for name in expected[2:] if name not in ("entry-00000", "entry-00005"))]
    os.close(handle)


def test_attributes_come_with_the_entries(served: Mounted) -> None:
    """ls -l of a directory asks nothing more, and believes nothing old."""
    served.ask("fill", "entry-", 100)
    with os.scandir(served.path) as entries:
        sizes = {entry.name: entry.stat(follow_symlinks=False).st_size for entry in entries}
    assert len(sizes) == 100
    counts = served.ask("counts")
    assert counts.get("lookup", 0) == 0
    assert counts["getattr"] <= 2
    (served.path / "entry-00050").write_bytes(b"12345")
    with os.scandir(served.path) as entries:
        assert {entry.name: entry.stat().st_size for entry in entries}["entry-00050"] == 5


def test_a_tree_is_walked_and_removed(served: Mounted) -> None:
    for name in ("a", "a/b", "a/b/c"):
        (served.path / name).mkdir()
        for number in range(60):
            (served.path / name / f"file{number}").write_bytes(b"x")
    assert sum(len(files) for _, _, files in os.walk(served.path)) == 180
    shutil.rmtree(served.path / "a")
    assert os.listdir(served.path) == []
