"""Deleted files kept as room for new ones: each is used once, by one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.spares import PREFIX, SIZE_MIN_BYTES, Spares


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def make(path: Path, byte: bytes) -> None:
    path.write_bytes(byte * SIZE_MIN_BYTES)


def hidden(path: Path) -> list[str]:
    return [name for name in os.listdir(path) if name.startswith(PREFIX)]


def test_two_owners_with_the_same_process_id_do_not_share_a_spare(tmp_path: Path, root: int) -> None:
    """As in two containers: a file with two names would be two segments."""
    one, two = Spares(root), Spares(root)
    make(tmp_path / "a", b"a")
    make(tmp_path / "b", b"b")
    assert one.keep(root, "a")
    assert two.keep(root, "b")
    assert len(hidden(tmp_path)) == 2
    assert one.use(root, "c", SIZE_MIN_BYTES)
    assert two.use(root, "d", SIZE_MIN_BYTES)
    assert (tmp_path / "c").read_bytes()[:1] == b"a"
    assert (tmp_path / "d").read_bytes()[:1] == b"b"
    assert hidden(tmp_path) == []


def test_what_a_killed_process_left_behind_is_removed_even_if_we_have_its_id_now(tmp_path: Path, root: int) -> None:
    make(tmp_path / f"{PREFIX}{os.getpid()}-00000000-1", b"x")
    make(tmp_path / f"{PREFIX}{os.getpid()}-1", b"y")
    make(tmp_path / f"{PREFIX}{1 << 30}-00000000-1", b"z")
    Spares(root)
    assert hidden(tmp_path) == []


def test_spares_of_others_in_this_process_are_left_to_them(tmp_path: Path, root: int) -> None:
    one = Spares(root)
    make(tmp_path / "a", b"a")
    assert one.keep(root, "a")
    Spares(root)
    assert len(hidden(tmp_path)) == 1


def test_a_spare_that_somebody_deleted_is_not_counted_for_ever(tmp_path: Path, root: int) -> None:
    one = Spares(root)
    make(tmp_path / "a", b"a")
    assert one.keep(root, "a")
    (tmp_path / hidden(tmp_path)[0]).unlink()
    assert not one.use(root, "b", SIZE_MIN_BYTES)
    assert one.size_bytes == 0
