"""Times: which operation moves which, whatever is set comes back to the nanosecond, also after a remount."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.filesystem.machine import CLOCK_REALTIME_COARSE
from tests.filesystem.syscalls import NS, RENAME_EXCHANGE, UTIME_NOW, UTIME_OMIT, renameat2, utimensat
from tests.mounted.harness import mounted
from tests.mounted.people import outcome

pytestmark = pytest.mark.real("mkfs.ext4", "fusermount3")
LONG_AGO_NS = 10**9 * 10**9 + 1


class Moved(NamedTuple):
    """Which of mtime and ctime."""

    mtime: bool
    ctime: bool


BOTH, CTIME, NONE = Moved(True, True), Moved(False, True), Moved(False, False)


def moves(path: Path, action: Callable[[], object]) -> Moved:
    """What an action does to the times of a path."""
    before = path.lstat()
    time.sleep(1.25 * time.clock_getres(CLOCK_REALTIME_COARSE))
    action()
    after = path.lstat()
    return Moved(after.st_mtime_ns != before.st_mtime_ns, after.st_ctime_ns != before.st_ctime_ns)


PARENT_MOVES: list[tuple[str, Callable[[Path], object]]] = [
    ("create", lambda d: (d / "new").touch()),
    ("mkdir", lambda d: (d / "new").mkdir()),
    ("symlink", lambda d: (d / "new").symlink_to("x")),
    ("mknod", lambda d: os.mkfifo(d / "new")),
    ("link", lambda d: os.link(d / "file", d / "new")),
    ("unlink", lambda d: (d / "file").unlink()),
    ("rmdir", lambda d: (d / "empty").rmdir()),
    ("rename within", lambda d: (d / "file").rename(d / "new")),
    ("rename over", lambda d: (d / "file").rename(d / "other")),
    ("rename out", lambda d: (d / "file").rename(d.parent / "elsewhere" / "file")),
    ("rename in", lambda d: (d.parent / "elsewhere" / "there").rename(d / "new")),
    ("exchange", lambda d: renameat2(bytes(d / "file"), bytes(d.parent / "elsewhere" / "there"), RENAME_EXCHANGE)),
]


@pytest.fixture
def directory(place: Path) -> Path:
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "there").touch()
    (place / "parent" / "empty").mkdir(parents=True)
    for name in ("file", "other"):
        (place / "parent" / name).touch()
    return place / "parent"


@pytest.mark.parametrize(("name", "action"), PARENT_MOVES, ids=[name for name, _ in PARENT_MOVES])
def test_a_directory_notes_when_its_entries_change(
    directory: Path, name: str, action: Callable[[Path], object]
) -> None:
    assert moves(directory, lambda: action(directory)) == BOTH


def test_a_directory_does_not_note_what_happens_inside_its_files(directory: Path) -> None:
    assert moves(directory, lambda: (directory / "file").write_text("x")) == NONE
    assert moves(directory, lambda: (directory / "file").chmod(0o600)) == NONE
    assert moves(directory, lambda: (directory / "empty" / "below").touch()) == NONE
    assert moves(directory, lambda: outcome(lambda: (directory / "file").mkdir())) == NONE
    assert moves(directory, lambda: outcome((directory / "missing").unlink)) == NONE


FILE_MOVES: list[tuple[str, Moved, Callable[[Path], object]]] = [
    ("write", BOTH, lambda f: f.write_text("x")),
    ("append", BOTH, lambda f: f.open("a").write("x")),
    ("O_TRUNC of an empty file", BOTH, lambda f: os.close(os.open(f, os.O_WRONLY | os.O_TRUNC))),
    ("truncate", BOTH, lambda f: os.truncate(f, 100)),
    ("chmod", CTIME, lambda f: f.chmod(0o600)),
    ("chmod to the same", CTIME, lambda f: f.chmod(f.stat().st_mode)),
    ("chown", CTIME, lambda f: os.chown(f, 1, 1)),
    ("link", CTIME, lambda f: os.link(f, f.with_name("new"))),
    ("setxattr", CTIME, lambda f: os.setxattr(f, "user.a", b"1")),
    ("utime of atime", CTIME, lambda f: utimensat(bytes(f), 1, UTIME_OMIT)),
    ("utime of mtime", BOTH, lambda f: utimensat(bytes(f), UTIME_OMIT, 1)),
    ("utime of nothing", NONE, lambda f: utimensat(bytes(f), UTIME_OMIT, UTIME_OMIT)),
    ("read", NONE, lambda f: f.read_bytes()),
    ("open for writing", NONE, lambda f: os.close(os.open(f, os.O_RDWR))),
    ("write of nothing", NONE, lambda f: os.write(os.open(f, os.O_RDWR), b"")),
]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(("name", "expected", "action"), FILE_MOVES, ids=[name for name, _, _ in FILE_MOVES])
def test_a_file_notes_when_it_changes(
    directory: Path, name: str, expected: Moved, action: Callable[[Path], object]
) -> None:
    assert moves(directory / "file", lambda: action(directory / "file")) == expected


def test_a_file_notes_when_its_name_changes(directory: Path) -> None:
    with (directory / "file").open() as file, (directory / "other").open() as other:

        def moved(number: int, action: Callable[[], object]) -> Moved:
            return moves(Path(f"/proc/self/fd/{number}").resolve(), action)

        before = os.fstat(file.fileno()), os.fstat(other.fileno())
        time.sleep(1.25 * time.clock_getres(CLOCK_REALTIME_COARSE))
        (directory / "file").rename(directory / "other")
        after = os.fstat(file.fileno()), os.fstat(other.fileno())
        for one, two in zip(before, after, strict=True):
            assert one.st_mtime_ns == two.st_mtime_ns
            assert one.st_ctime_ns < two.st_ctime_ns


def test_now_and_omit_are_told_apart(place: Path) -> None:
    file = place / "file"
    file.touch()
    utimensat(bytes(file), 111 * NS + 1, 222 * NS + 2)
    utimensat(bytes(file), UTIME_OMIT, 333 * NS + 3)
    assert (file.stat().st_atime_ns, file.stat().st_mtime_ns) == (111 * NS + 1, 333 * NS + 3)
    begin_ns = time.time_ns() - NS
    utimensat(bytes(file), UTIME_NOW, UTIME_OMIT)
    assert file.stat().st_atime_ns >= begin_ns and file.stat().st_mtime_ns == 333 * NS + 3
    utimensat(bytes(file), 444 * NS, UTIME_NOW)
    assert file.stat().st_atime_ns == 444 * NS and begin_ns <= file.stat().st_mtime_ns <= time.time_ns() + NS
    (place / "link").symlink_to("file")
    utimensat(bytes(place / "link"), 5, 6, follow=False)
    assert ((place / "link").lstat().st_atime_ns, (place / "link").lstat().st_mtime_ns) == (5, 6)
    assert file.stat().st_atime_ns == 444 * NS


@pytest.mark.parametrize("time_ns", [0, 1, -1, -(1 << 31) * NS, (1 << 33) * NS + 999_999_999, LONG_AGO_NS])
def test_times_are_kept_to_the_nanosecond(place: Path, time_ns: int) -> None:
    file = place / "file"
    file.write_text("x")
    utimensat(bytes(file), time_ns, time_ns)
    assert (file.stat().st_atime_ns, file.stat().st_mtime_ns) == (time_ns, time_ns)


def test_all_times_are_the_same_after_a_remount_and_after_a_kill() -> None:
    with mounted() as mount:
        directory = mount.path / "d"
        directory.mkdir()
        for number, name in enumerate(("file", "directory", "link", "fifo")):
            path = directory / name
            if name == "directory":
                path.mkdir()
            elif name == "link":
                path.symlink_to("file")
            else:
                os.mknod(path, 0o010644 if name == "fifo" else 0o100644)
            utimensat(bytes(path), LONG_AGO_NS + number, LONG_AGO_NS - number, follow=False)
        paths = sorted((directory, *directory.iterdir()))
        before = [without_device(path) for path in paths]
        for end in (mount.stop, mount.kill):
            end()
            mount.start()
            assert [without_device(path) for path in paths] == before


def without_device(path: Path) -> tuple[int, ...]:
    """A mount gets a new number each time."""
    s = path.lstat()
    return s.st_ino, s.st_mode, s.st_nlink, s.st_uid, s.st_gid, s.st_size, s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns


def test_a_read_moves_atime_if_it_is_older_than_mtime_or_a_day(place: Path) -> None:
    """relatime; ctime counts as mtime does. Only reads that the filesystem sees can count: the cache is emptied."""
    file = place / "file"
    file.write_text("x")
    now = time.time_ns()

    def atime_after_read(atime_ns: int, mtime_ns: int) -> int:
        utimensat(bytes(file), atime_ns, mtime_ns)
        with file.open("rb") as reading:
            os.fsync(reading.fileno())
            os.posix_fadvise(reading.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert reading.read() == b"x"
        return file.stat().st_atime_ns

    assert atime_after_read(now - 100 * NS, now - 50 * NS) >= now - NS
    assert atime_after_read(now + 50 * NS, now - 100 * NS) == now + 50 * NS, "newer than mtime and ctime"
    assert atime_after_read(now - 90_000 * NS, now - 100_000 * NS) >= now - NS
