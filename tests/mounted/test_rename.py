"""rename, at the places where filesystems go wrong."""

import os
import stat
from pathlib import Path

import pytest

from tests.filesystem.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from tests.mounted.people import outcome

pytestmark = pytest.mark.real("mkfs.ext4", "fusermount3")


def rename(old: Path, new: Path, flags: int = 0) -> object:
    return outcome(lambda: renameat2(bytes(old), bytes(new), flags))


def nlink(path: Path) -> int:
    return path.lstat().st_nlink


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path))


def test_a_file_that_is_replaced_while_open_keeps_its_content_and_has_no_name(place: Path) -> None:
    (place / "old").write_bytes(b"old")
    (place / "new").write_bytes(b"new")
    with (place / "new").open("r+b") as file:
        assert rename(place / "old", place / "new") is None
        assert (place / "new").read_bytes() == b"old"
        assert os.fstat(file.fileno()).st_nlink == 0
        file.write(b"NEW and more")
        file.seek(0)
        assert file.read() == b"NEW and more"
    assert names(place) == ["new"]


def test_a_file_stays_itself_when_it_is_renamed_while_open(place: Path) -> None:
    with (place / "a").open("w+b") as file:
        file.write(b"before")
        file.flush()
        inode = os.fstat(file.fileno()).st_ino
        assert rename(place / "a", place / "b") is None
        file.write(b" after")
        file.flush()
        assert (place / "b").read_bytes() == b"before after"
        assert (place / "b").stat().st_ino == inode


@pytest.mark.parametrize("flags", [0, RENAME_NOREPLACE, RENAME_EXCHANGE])
def test_a_directory_does_not_go_into_itself(place: Path, flags: int) -> None:
    (place / "a" / "b").mkdir(parents=True)
    if flags == RENAME_EXCHANGE:
        (place / "a" / "b" / "c").mkdir()
    assert rename(place / "a", place / "a" / "b" / "c", flags) == "EINVAL"
    assert rename(place / "a", place / "a" / "c", 0) == "EINVAL"
    assert names(place) == ["a"] and names(place / "a") == ["b"]
    assert rename(place / "a" / "b", place / "a", flags) == (
        {0: "ENOTEMPTY", RENAME_NOREPLACE: "EEXIST", RENAME_EXCHANGE: "EINVAL"}[flags]
    )


def test_a_directory_replaces_an_empty_directory_only(place: Path) -> None:
    for name in ("from", "empty", "full/x"):
        (place / name).mkdir(parents=True)
    (place / "file").touch()
    (place / "from" / "mark").touch()
    assert rename(place / "from", place / "full") == "ENOTEMPTY"
    assert rename(place / "from", place / "file") == "ENOTDIR"
    assert rename(place / "file", place / "empty") == "EISDIR"
    assert rename(place / "from", place / "empty") is None
    assert names(place) == ["empty", "file", "full"]
    assert names(place / "empty") == ["mark"]
    assert nlink(place) == 4


def test_noreplace_replaces_nothing(place: Path) -> None:
    for name in "ab":
        (place / name).write_text(name)
    assert rename(place / "a", place / "b", RENAME_NOREPLACE) == "EEXIST"
    assert rename(place / "a", place / "c", RENAME_NOREPLACE) is None
    assert (place / "b").read_text() == "b" and (place / "c").read_text() == "a"
    assert rename(place / "c", place / "d", RENAME_NOREPLACE | RENAME_EXCHANGE) == "EINVAL"


def test_a_file_and_a_full_directory_of_different_parents_change_places(place: Path) -> None:
    (place / "left").mkdir()
    (place / "right" / "directory" / "below").mkdir(parents=True)
    (place / "left" / "file").write_text("content")
    assert (nlink(place / "left"), nlink(place / "right")) == (2, 3)
    assert rename(place / "left" / "file", place / "right" / "directory", RENAME_EXCHANGE) is None
    assert (place / "right" / "directory").read_text() == "content"
    assert names(place / "left" / "file") == ["below"]
    assert (nlink(place / "left"), nlink(place / "right")) == (3, 2)
    assert (place / "left" / "file" / "..").stat().st_ino == (place / "left").stat().st_ino
    assert rename(place / "left" / "file", place / "missing", RENAME_EXCHANGE) == "ENOENT"


def test_two_names_of_one_file_stay_two_names(place: Path) -> None:
    (place / "a").touch()
    os.link(place / "a", place / "b")
    assert rename(place / "a", place / "b") is None
    assert names(place) == ["a", "b"]
    assert nlink(place / "a") == 2
    assert rename(place / "a", place / "b", RENAME_EXCHANGE) is None
    assert names(place) == ["a", "b"]


def test_a_directory_that_moves_finds_its_new_parent(place: Path) -> None:
    (place / "a" / "moves" / "below").mkdir(parents=True)
    (place / "b").mkdir()
    (place / "a" / "moves" / "below" / "file").write_text("deep")
    assert rename(place / "a" / "moves", place / "b" / "moved") is None
    assert (place / "b" / "moved" / "..").stat().st_ino == (place / "b").stat().st_ino
    assert (nlink(place / "a"), nlink(place / "b")) == (2, 3)
    assert (place / "b" / "moved" / "below" / "file").read_text() == "deep"
    assert (place / "b" / "moved" / "below" / ".." / ".." / "..").stat().st_ino == place.stat().st_ino


def test_the_working_directory_may_be_renamed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(place / "a" / "b")
    assert rename(place / "a", place / "c") is None
    Path("file").write_text("here")
    assert (place / "c" / "b" / "file").read_text() == "here"
    assert os.getcwd() == str(place / "c" / "b")


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFLNK])
def test_everything_that_is_no_directory_can_be_replaced(place: Path, kind: int) -> None:
    if kind == stat.S_IFLNK:
        (place / "old").symlink_to("nowhere")
    else:
        os.mknod(place / "old", kind | 0o600, os.makedev(1, 3) if kind == stat.S_IFCHR else 0)
    (place / "file").touch()
    assert rename(place / "file", place / "old") is None
    assert rename(place / "old", place / "new") is None
    assert stat.S_ISREG((place / "new").lstat().st_mode)


def test_links_and_renames_do_not_leave_the_filesystem(place: Path, tmp_path: Path) -> None:
    (place / "file").touch()
    assert rename(place / "file", tmp_path / "file") == "EXDEV"
    assert rename(place / "file", tmp_path / "file", RENAME_NOREPLACE) == "EXDEV"
    assert outcome(lambda: os.link(place / "file", tmp_path / "file")) == "EXDEV"
    assert names(place) == ["file"] and not list(tmp_path.iterdir())
