"""What other users may do, and which bits a change of a file takes away."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.filesystem.syscalls import UTIME_NOW, UTIME_OMIT, utimensat
from tests.mounted.people import NOBODY, SOMEBODY, as_user, outcome

pytestmark = pytest.mark.real("mkfs.ext4", "fusermount3")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def made(path: Path, mode: int, uid: int = 0, gid: int = 0) -> Path:
    path.write_bytes(b"content")
    os.chown(path, uid, gid)
    path.chmod(mode)
    return path


def append(path: Path) -> Callable[[], object]:
    def act() -> int:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            return os.write(handle, b"+")
        finally:
            os.close(handle)

    return act


def test_what_the_mode_does_not_allow_is_refused(place: Path) -> None:
    file = made(place / "file", 0o640, gid=NOBODY)
    assert as_user(NOBODY, file.read_bytes) == b"content"
    assert as_user(NOBODY, append(file)) == "EACCES"
    assert as_user(SOMEBODY, file.read_bytes) == "EACCES"
    assert as_user(SOMEBODY, (place / "new").touch) == "EACCES"
    assert as_user(SOMEBODY, file.unlink) == "EACCES"
    place.chmod(0o711)
    assert as_user(SOMEBODY, lambda: os.listdir(place)) == "EACCES"
    assert as_user(SOMEBODY, lambda: file.stat().st_size) == 7
    place.chmod(0o700)
    assert as_user(SOMEBODY, file.stat) == "EACCES"


def test_new_files_belong_to_who_makes_them(place: Path) -> None:
    place.chmod(0o777)

    def make() -> None:
        os.umask(0o027)
        (place / "file").touch()
        (place / "directory").mkdir()
        (place / "link").symlink_to("x")
        os.mkfifo(place / "fifo")

    assert as_user(NOBODY, make, gid=SOMEBODY) is None
    for name in ("file", "directory", "link", "fifo"):
        status = (place / name).lstat()
        assert (status.st_uid, status.st_gid) == (NOBODY, SOMEBODY), name
    assert [mode(place / name) for name in ("file", "directory", "fifo")] == [0o640, 0o750, 0o640]


def test_in_a_sticky_directory_only_owners_rename_and_unlink(place: Path) -> None:
    place.chmod(0o1777)
    theirs = made(place / "theirs", 0o666, SOMEBODY, SOMEBODY)
    mine = made(place / "mine", 0o666, NOBODY, NOBODY)
    (place / "directory").mkdir()
    os.chown(place / "directory", SOMEBODY, SOMEBODY)
    assert as_user(NOBODY, theirs.unlink) == "EPERM"
    assert as_user(NOBODY, lambda: theirs.rename(place / "x")) == "EPERM"
    assert as_user(NOBODY, lambda: mine.rename(theirs)) == "EPERM"
    assert as_user(NOBODY, (place / "directory").rmdir) == "EPERM"
    assert as_user(NOBODY, lambda: os.rename(mine, place / "renamed")) is None
    assert as_user(NOBODY, (place / "renamed").unlink) is None
    os.chown(place, NOBODY, NOBODY)  # the owner of the directory may
    assert as_user(NOBODY, theirs.unlink) is None


def test_only_the_owner_changes_mode_and_times_and_only_root_the_owner(place: Path) -> None:
    file = made(place / "file", 0o666, SOMEBODY, SOMEBODY)
    assert as_user(NOBODY, lambda: file.chmod(0o600)) == "EPERM"
    assert as_user(NOBODY, lambda: os.chown(file, NOBODY, -1)) == "EPERM"
    assert as_user(SOMEBODY, lambda: os.chown(file, NOBODY, -1)) == "EPERM"
    assert as_user(SOMEBODY, lambda: os.chown(file, -1, NOBODY)) == "EPERM", "not in that group"
    assert as_user(SOMEBODY, lambda: os.chown(file, -1, NOBODY), gid=NOBODY) is None
    assert file.stat().st_gid == NOBODY
    assert as_user(SOMEBODY, lambda: file.chmod(0o640)) is None


def test_times_are_set_to_now_by_who_may_write_and_to_others_by_the_owner_only(place: Path) -> None:
    file = made(place / "file", 0o622, SOMEBODY, SOMEBODY)
    read_only = made(place / "read-only", 0o644, SOMEBODY, SOMEBODY)
    assert as_user(NOBODY, lambda: utimensat(bytes(file), UTIME_NOW, UTIME_NOW)) is None
    assert as_user(NOBODY, lambda: utimensat(bytes(file), 0, 0)) == "EPERM"
    assert as_user(NOBODY, lambda: utimensat(bytes(file), UTIME_NOW, UTIME_OMIT)) == "EPERM"
    assert as_user(NOBODY, lambda: utimensat(bytes(read_only), UTIME_NOW, UTIME_NOW)) == "EACCES"
    assert as_user(NOBODY, lambda: utimensat(bytes(read_only), UTIME_OMIT, UTIME_OMIT)) is None
    assert as_user(SOMEBODY, lambda: utimensat(bytes(read_only), 1, UTIME_OMIT)) is None


SET_ID = stat.S_ISUID | stat.S_ISGID


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(append, id="write"),
        pytest.param(lambda path: lambda: os.truncate(path, 3), id="truncate"),
        pytest.param(lambda path: lambda: os.truncate(path, 3000), id="grow"),
        pytest.param(lambda path: lambda: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)), id="O_TRUNC"),
    ],
)
def test_a_write_by_somebody_else_takes_suid_and_sgid_away(
    place: Path, change: Callable[[Path], Callable[[], object]]
) -> None:
    program = made(place / "program", 0o6777, SOMEBODY, SOMEBODY)
    plain = made(place / "plain", 0o1766, SOMEBODY, SOMEBODY)
    mandatory = made(place / "no-group-execution", 0o2766, SOMEBODY, SOMEBODY)
    for path in (program, plain, mandatory):
        outcome_of_it = as_user(NOBODY, change(path))
        assert outcome_of_it in (None, 1), outcome_of_it
    assert mode(program) & SET_ID == 0
    assert mode(program) & 0o777 == 0o777
    assert mode(plain) == 0o1766


def test_a_change_of_the_owner_takes_suid_and_sgid_away_from_files(place: Path) -> None:
    program = made(place / "program", 0o6755)
    os.chown(program, NOBODY, -1)
    assert mode(program) == 0o755
    program.chmod(0o6755)
    os.chown(program, -1, NOBODY)
    assert mode(program) == 0o755
    program.chmod(0o2745)  # without group execution it is not a sgid program
    os.chown(program, SOMEBODY, -1)
    assert mode(program) == 0o2745
    directory = place / "directory"
    directory.mkdir()
    directory.chmod(0o6755)
    os.chown(directory, NOBODY, NOBODY)
    assert mode(directory) == 0o6755


def test_chmod_by_who_is_not_in_the_group_drops_sgid(place: Path) -> None:
    file = made(place / "file", 0o755, SOMEBODY, NOBODY)
    assert as_user(SOMEBODY, lambda: file.chmod(0o2755)) is None
    assert mode(file) == 0o755
    assert as_user(SOMEBODY, lambda: file.chmod(0o2755), gid=NOBODY) is None
    assert mode(file) == 0o2755


def test_a_setgid_directory_gives_its_group_on_and_its_bit_to_directories(place: Path) -> None:
    place.chmod(0o777)
    shared = place / "shared"
    shared.mkdir()
    os.chown(shared, 0, SOMEBODY)
    shared.chmod(0o2777)

    def make() -> None:
        (shared / "file").touch()
        (shared / "directory" / "below").mkdir(parents=True)
        (shared / "link").symlink_to("x")
        os.mkfifo(shared / "fifo")

    assert as_user(NOBODY, make) is None
    for name in ("file", "directory", "directory/below", "link", "fifo"):
        status = (shared / name).lstat()
        assert (status.st_uid, status.st_gid) == (NOBODY, SOMEBODY), name
    assert mode(shared / "directory") == mode(shared / "directory" / "below") == 0o2755
    assert mode(shared / "file") == 0o644


def test_a_program_on_the_mount_runs_with_suid(place: Path) -> None:
    """Root's mounts honour suid, like any filesystem of the kernel without nosuid."""
    program = place / "id"
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o4755)
    said = as_user(NOBODY, lambda: os.popen(f"{program} -u").read())
    assert said == "0\n"


def test_root_may_do_everything(place: Path) -> None:
    file = made(place / "file", 0o000, SOMEBODY, SOMEBODY)
    file.write_bytes(b"root")
    assert file.read_bytes() == b"root"
    assert outcome(file.unlink) is None
