"""Extended attributes: names, sizes, flags, and who may have them."""

import os
from functools import partial
from pathlib import Path

import pytest

from tests.filesystem.profile import fresh
from tests.mounted.harness import SHARED_OPTIONS, Mounted
from tests.mounted.people import NOBODY, as_user, outcome

pytestmark = pytest.mark.real("mkfs.ext4", "fusermount3")
VALUE_MAX = 1 << 16


def user_names(path: Path) -> list[str]:
    return sorted(name for name in os.listxattr(path, follow_symlinks=False) if name.startswith("user."))


@pytest.fixture
def file(place: Path) -> Path:
    path = place / "file"
    path.touch()
    return path


@pytest.mark.parametrize("size", [0, 1, 255, 1000, 3000])
def test_a_value_comes_back_as_it_was_set(file: Path, size: int) -> None:
    value = os.urandom(size)
    os.setxattr(file, "user.a", value)
    assert os.getxattr(file, "user.a") == value
    os.setxattr(file, "user.a", b"short")
    assert os.getxattr(file, "user.a") == b"short"
    os.removexattr(file, "user.a")
    assert user_names(file) == []


@pytest.mark.parametrize("size", [4096, 10_000, VALUE_MAX - 1, VALUE_MAX])
def test_values_may_have_64_kib(ours: Path, mount: Mounted, size: int) -> None:
    file = ours / "file"
    file.touch()
    values = {f"user.{number}": os.urandom(size) for number in range(3)}
    for name, value in values.items():
        os.setxattr(file, name, value)
    assert {name: os.getxattr(file, name) for name in user_names(file)} == values
    os.setxattr(file, "user.1", b"")
    os.removexattr(file, "user.0")
    assert {name: os.getxattr(file, name) for name in user_names(file)} == {"user.1": b"", "user.2": values["user.2"]}


def test_larger_values_are_refused(file: Path) -> None:
    assert outcome(lambda: os.setxattr(file, "user.a", bytes(VALUE_MAX + 1))) in ("E2BIG", "ENOSPC")
    assert user_names(file) == []


def test_create_and_replace_are_told_apart(file: Path) -> None:
    assert outcome(lambda: os.setxattr(file, "user.a", b"1", os.XATTR_REPLACE)) == "ENODATA"
    assert outcome(lambda: os.setxattr(file, "user.a", b"1", os.XATTR_CREATE)) is None
    assert outcome(lambda: os.setxattr(file, "user.a", b"2", os.XATTR_CREATE)) == "EEXIST"
    assert os.getxattr(file, "user.a") == b"1"
    assert outcome(lambda: os.setxattr(file, "user.a", b"2", os.XATTR_REPLACE)) is None
    assert os.getxattr(file, "user.a") == b"2"


def test_what_is_not_there_is_said_to_be_missing(file: Path) -> None:
    assert outcome(lambda: os.getxattr(file, "user.none")) == "ENODATA"
    assert outcome(lambda: os.removexattr(file, "user.none")) == "ENODATA"
    assert outcome(lambda: os.setxattr(file, "nonsense.a", b"")) == "ENOTSUP"


def test_names_have_255_bytes_at_most_and_any_of_them(file: Path) -> None:
    names = [b"user." + b"n" * 250, b"user.\xff\xfe", b"user.a b", b"user.a", b"user.ab"]
    for name in names:
        os.setxattr(file, name, name)
    assert sorted(map(os.fsencode, user_names(file))) == sorted(names)
    for name in names:
        assert os.getxattr(file, name) == name
    assert outcome(lambda: os.setxattr(file, b"user." + b"n" * 251, b"")) == "ERANGE"


def test_a_hundred_names_are_listed(file: Path) -> None:
    names = [f"user.{number}" for number in range(100)]
    for name in names:
        os.setxattr(file, name, b"v")
    assert user_names(file) == sorted(names)


def test_they_belong_to_the_inode(place: Path) -> None:
    (place / "a").touch()
    os.link(place / "a", place / "b")
    os.setxattr(place / "a", "user.x", b"1")
    (place / "a").rename(place / "c")
    assert os.getxattr(place / "b", "user.x") == b"1"
    (place / "new").touch()
    (place / "new").rename(place / "b")
    assert outcome(lambda: os.getxattr(place / "b", "user.x")) == "ENODATA"
    assert os.getxattr(place / "c", "user.x") == b"1"


def test_directories_have_them_and_fifos_and_links_have_not(place: Path) -> None:
    (place / "directory").mkdir()
    os.mkfifo(place / "fifo")
    (place / "link").symlink_to("nowhere")
    os.setxattr(place / "directory", "user.a", b"1")
    assert os.getxattr(place / "directory", "user.a") == b"1"
    for name in ("fifo", "link"):
        refused = outcome(partial(os.setxattr, place / name, "user.a", b"1", follow_symlinks=False))
        assert refused == "EPERM"
        os.setxattr(place / name, "trusted.a", b"1", follow_symlinks=False)
        assert os.getxattr(place / name, "trusted.a", follow_symlinks=False) == b"1"


def test_trusted_is_for_root_and_user_for_who_may_write(place: Path) -> None:
    file = place / "file"
    file.touch()
    os.setxattr(file, "trusted.a", b"secret")
    os.setxattr(file, "user.a", b"open")
    assert as_user(NOBODY, lambda: os.getxattr(file, "user.a")) == b"open"
    assert as_user(NOBODY, lambda: os.setxattr(file, "user.a", b"x")) == "EACCES"
    assert as_user(NOBODY, lambda: os.getxattr(file, "trusted.a")) in ("EPERM", "ENODATA")
    assert as_user(NOBODY, lambda: os.setxattr(file, "trusted.a", b"x")) == "EPERM"


def test_a_security_capability_goes_with_the_first_write(place: Path) -> None:
    """The value is what setcap cap_net_raw+ep writes."""
    file = place / "program"
    file.write_bytes(b"#!")
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(file, "security.capability", capability)
    assert os.getxattr(file, "security.capability") == capability
    with file.open("ab") as writing:
        writing.write(b"more")
    assert outcome(lambda: os.getxattr(file, "security.capability")) == "ENODATA"


def test_they_survive_a_remount(mount: Mounted) -> None:
    directory = fresh(mount.path)
    value = os.urandom(VALUE_MAX)
    os.setxattr(directory, "user.big", value)
    os.setxattr(directory, "user.empty", b"")
    mount.stop()
    mount.start(*SHARED_OPTIONS)
    assert os.getxattr(directory, "user.big") == value
    assert os.getxattr(directory, "user.empty") == b""
