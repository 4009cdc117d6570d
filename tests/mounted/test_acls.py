"""POSIX ACLs, set and read with the programs that people use."""

import os
import stat
from pathlib import Path

import pytest

from tests.mounted.harness import SHARED_OPTIONS, Mounted
from tests.mounted.people import NOBODY, SOMEBODY, as_user
from tools.sds import run

pytestmark = pytest.mark.real("mkfs.ext4", "fusermount3", "setfacl", "getfacl")


def acl(path: Path) -> list[str]:
    return run("getfacl", "--omit-header", "--numeric", "--absolute-names", "--no-effective", path).split()


def setfacl(*words: str | Path) -> None:
    run("setfacl", *words)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def file(place: Path) -> Path:
    path = place / "file"
    path.write_text("content")
    path.chmod(0o640)
    place.chmod(0o755)
    return path


def test_an_entry_for_a_user_lets_this_user_in_and_shows_in_the_mode(file: Path) -> None:
    assert as_user(NOBODY, file.read_text) == "EACCES"
    setfacl("-m", f"u:{NOBODY}:rw", file)
    assert as_user(NOBODY, file.read_text) == "content"
    assert as_user(NOBODY, lambda: file.write_text("theirs")) == 6
    assert as_user(SOMEBODY, file.read_text) == "EACCES"
    assert acl(file) == ["user::rw-", f"user:{NOBODY}:rw-", "group::r--", "mask::rw-", "other::---"]
    assert mode(file) == 0o660, "the bits of the group are the mask"


def test_chmod_changes_the_mask(file: Path) -> None:
    setfacl("-m", f"u:{NOBODY}:rw", file)
    file.chmod(0o640)
    assert acl(file) == ["user::rw-", f"user:{NOBODY}:rw-", "group::r--", "mask::r--", "other::---"]
    assert as_user(NOBODY, file.read_text) == "content"
    assert as_user(NOBODY, lambda: file.write_text("theirs")) == "EACCES"
    file.chmod(0o604)
    assert "mask::---" in acl(file) and "other::r--" in acl(file)


def test_an_acl_that_says_no_more_than_a_mode_becomes_the_mode(file: Path) -> None:
    setfacl("-m", f"u:{NOBODY}:rw", file)
    setfacl("-b", file)
    assert acl(file) == ["user::rw-", "group::r--", "other::---"]
    setfacl("-m", "u::rwx,g::---,o::r--", file)
    assert mode(file) == 0o704
    assert not [name for name in os.listxattr(file) if name.startswith("system.posix_acl")]


def test_an_entry_for_a_group_lets_its_members_in(file: Path) -> None:
    setfacl("-m", f"g:{SOMEBODY}:r", file)
    assert as_user(NOBODY, file.read_text, gid=SOMEBODY) == "content"
    assert as_user(NOBODY, file.read_text) == "EACCES"


def test_a_default_acl_is_inherited(place: Path) -> None:
    place.chmod(0o777)
    setfacl("-d", "-m", f"u:{NOBODY}:rwx,g::r-x,o::---", place)
    assert mode(place) == 0o777, "a default ACL changes nothing here"

    def make() -> None:
        os.umask(0)
        (place / "file").touch()
        (place / "directory").mkdir()
        (place / "directory" / "deep").touch(0o600)
        os.close(os.open(place / "tight", os.O_CREAT | os.O_WRONLY, 0o600))

    assert as_user(SOMEBODY, make) is None
    access = ["user::rwx", f"user:{NOBODY}:rwx", "group::r-x", "mask::rwx", "other::---"]
    assert acl(place / "directory") == access + [f"default:{line}" for line in access]
    assert acl(place / "file") == ["user::rw-", f"user:{NOBODY}:rwx", "group::r-x", "mask::rw-", "other::---"]
    assert acl(place / "tight") == ["user::rw-", f"user:{NOBODY}:rwx", "group::r-x", "mask::---", "other::---"]
    assert acl(place / "directory" / "deep") == acl(place / "tight")
    assert as_user(NOBODY, (place / "file").read_bytes) == b""
    assert as_user(NOBODY, (place / "tight").read_bytes) == "EACCES"


def test_beside_a_default_acl_the_umask_counts_too(ours: Path) -> None:
    """Unlike on ext4: the kernel has applied it before we are asked. It makes a file less open, never more."""
    setfacl("-d", "-m", f"u:{NOBODY}:rwx,g::r-x,o::r-x", ours)
    os.umask(0o077)
    (ours / "file").touch()
    assert acl(ours / "file") == ["user::rw-", f"user:{NOBODY}:rwx", "group::r-x", "mask::---", "other::---"]
    assert as_user(NOBODY, (ours / "file").read_bytes) == "EACCES"


def test_a_default_acl_can_be_taken_away(place: Path) -> None:
    setfacl("-d", "-m", f"u:{NOBODY}:rwx", place)
    setfacl("-k", place)
    (place / "file").touch()
    assert acl(place / "file") == ["user::rw-", "group::r--", "other::r--"]
    assert mode(place / "file") == 0o644


def test_a_file_cannot_have_a_default_acl(file: Path) -> None:
    with pytest.raises(Exception, match="exit 1"):
        setfacl("-d", "-m", f"u:{NOBODY}:r", file)
    assert len(acl(file)) == 3


def test_only_the_owner_changes_an_acl(place: Path, file: Path) -> None:
    (place / "other").touch()
    file.chmod(0o666)
    setfacl("-m", f"u:{NOBODY}:rwx", place / "other")
    value = os.getxattr(place / "other", "system.posix_acl_access")
    assert as_user(NOBODY, lambda: os.setxattr(file, "system.posix_acl_access", value)) == "EPERM"
    assert as_user(NOBODY, lambda: os.removexattr(file, "system.posix_acl_access")) == "EPERM"


def test_acls_survive_a_copy_a_rename_and_a_remount(mount: Mounted, ours: Path) -> None:
    (ours / "file").touch()
    setfacl("-m", f"u:{NOBODY}:rw,g:{SOMEBODY}:r", ours / "file")
    setfacl("-d", "-m", f"u:{NOBODY}:rx", ours)
    before, default = acl(ours / "file"), acl(ours)
    (ours / "file").rename(ours / "renamed")
    run("cp", "-a", ours / "renamed", ours / "copy")
    mount.stop()
    mount.start(*SHARED_OPTIONS)
    assert acl(ours / "renamed") == acl(ours / "copy") == before
    assert acl(ours) == default
