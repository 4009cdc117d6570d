"""Link counts, symbolic links and the limits of names."""

import os
from pathlib import Path

import pytest

from tests.mounted.people import outcome

pytestmark = pytest.mark.real("mkfs.ext4", "fusermount3")


def test_a_directory_counts_its_subdirectories(place: Path) -> None:
    def count() -> int:
        return place.stat().st_nlink

    assert count() == 2
    for name in "abc":
        (place / name).mkdir()
    (place / "file").touch()
    assert count() == 5
    (place / "a").rmdir()
    (place / "b").rename(place / "c" / "b")
    assert count() == 3
    assert (place / "c").stat().st_nlink == 3
    (place / "c" / "b").rename(place / "b")
    assert (count(), (place / "c").stat().st_nlink) == (4, 2)
    (place / "b").rename(place / "c")  # replaces it
    assert count() == 3


def test_a_removed_directory_that_is_open_is_empty_and_takes_nothing(place: Path) -> None:
    (place / "a").mkdir()
    handle = os.open(place / "a", os.O_RDONLY | os.O_DIRECTORY)
    try:
        (place / "a").rmdir()
        assert os.fstat(handle).st_nlink == 0
        assert os.listdir(handle) == []
        assert outcome(lambda: os.mkdir("b", dir_fd=handle)) == "ENOENT"
        assert outcome(lambda: os.close(os.open("c", os.O_CREAT | os.O_WRONLY, dir_fd=handle))) == "ENOENT"
    finally:
        os.close(handle)


def test_hard_links_share_everything(place: Path) -> None:
    (place / "a").write_text("one")
    (place / "d").mkdir()
    os.link(place / "a", place / "d" / "b")
    (place / "d" / "b").write_text("two")
    (place / "d" / "b").chmod(0o600)
    one, two = (place / "a").stat(), (place / "d" / "b").stat()
    assert (one.st_ino, one.st_mode, one.st_nlink) == (two.st_ino, two.st_mode, 2)
    assert (place / "a").read_text() == "two"
    (place / "a").unlink()
    assert (place / "d" / "b").stat().st_nlink == 1
    assert (place / "d" / "b").read_text() == "two"


def test_a_directory_has_one_name(place: Path) -> None:
    (place / "a").mkdir()
    assert outcome(lambda: os.link(place / "a", place / "b")) == "EPERM"


def test_a_symbolic_link_can_have_two_names(place: Path) -> None:
    (place / "a").symlink_to("nowhere")
    os.link(place / "a", place / "b", follow_symlinks=False)
    assert os.readlink(place / "b") == "nowhere"
    assert (place / "a").lstat().st_nlink == 2


def test_a_thousand_names_of_one_file(place: Path) -> None:
    (place / "0").write_text("x")
    for number in range(1, 1000):
        os.link(place / "0", place / str(number))
    assert (place / "999").stat().st_nlink == 1000
    for number in range(999):
        (place / str(number)).unlink()
    assert (place / "999").stat().st_nlink == 1
    assert (place / "999").read_text() == "x"


@pytest.mark.parametrize("length", [1, 59, 60, 255, 1000, 4095])
def test_targets_of_symbolic_links_come_back_whole(place: Path, length: int) -> None:
    target = (b"t/" * length)[:length]
    os.symlink(target, bytes(place / "link"))
    assert os.readlink(bytes(place / "link")) == target
    assert (place / "link").lstat().st_size == length


def test_too_long_targets_and_circles_are_refused(place: Path) -> None:
    assert outcome(lambda: os.symlink("t" * 4096, place / "long")) == "ENAMETOOLONG"
    (place / "self").symlink_to("self")
    (place / "one").symlink_to("two")
    (place / "two").symlink_to("one")
    for name in ("self", "one"):
        assert outcome((place / name).stat) == "ELOOP"
        assert outcome((place / name).read_bytes) == "ELOOP"
        assert outcome((place / name / "below").touch) == "ELOOP"
    assert outcome(lambda: os.close(os.open(place / "one", os.O_RDONLY | os.O_NOFOLLOW))) == "ELOOP"


def test_forty_symbolic_links_are_followed_and_not_one_more(place: Path) -> None:
    (place / "0").write_text("end")
    for number in range(1, 42):
        (place / str(number)).symlink_to(str(number - 1))
    assert (place / "40").read_text() == "end"
    assert outcome((place / "41").read_text) == "ELOOP"


def test_names_have_255_bytes_at_most(place: Path) -> None:
    longest = place / ("n" * 255)
    longest.write_text("fits")
    assert longest.read_text() == "fits"
    too_long = place / ("n" * 256)
    for action in (too_long.touch, too_long.mkdir, too_long.stat, too_long.unlink, too_long.rmdir):
        assert outcome(action) == "ENAMETOOLONG", action
    assert outcome(lambda: longest.rename(too_long)) == "ENAMETOOLONG"
    assert outcome(lambda: os.link(longest, too_long)) == "ENAMETOOLONG"
    assert outcome(lambda: too_long.symlink_to("x")) == "ENAMETOOLONG"
    assert outcome(lambda: os.mknod(too_long)) == "ENAMETOOLONG"
    assert os.listdir(place) == ["n" * 255]


def test_paths_have_4095_bytes_at_most_and_trees_may_be_deeper(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "d" * 250
    monkeypatch.chdir(place)
    for _ in range(20):
        os.mkdir(name)
        os.chdir(name)
    Path("deep").write_text("deep")
    assert Path("deep").read_text() == "deep"
    monkeypatch.chdir(place)
    assert outcome(lambda: os.stat("/".join([name] * 20))) == "ENAMETOOLONG"
    assert os.path.isdir("/".join([name] * 16))


ODD_NAMES = (
    b"\x01", b"\xff\xfe\x80", b" ", b"\n", b"...", b"-rf", "ä€".encode(), b"\\", b"*?[", b"n" * 255
)  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_bytes_but_slash_and_nul_are_a_name(place: Path, name: bytes) -> None:
    path = bytes(place) + b"/" + name
    with open(path, "wb") as file:
        file.write(name)
    assert os.listdir(bytes(place)) == [name]
    os.rename(path, path[:-1] + b"#")
    os.rename(path[:-1] + b"#", path)
    with open(path, "rb") as file:
        assert file.read() == name
    os.unlink(path)
