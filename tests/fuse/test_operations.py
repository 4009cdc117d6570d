"""A mounted tree, used through the kernel."""

import ctypes
import errno
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.mounting import Mounted, mounted

pytestmark = pytest.mark.real("fusermount3")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Mounted]:
    with mounted(tmp_path) as served:
        yield served


@pytest.fixture(params=["nowriteback", "writeback"])
def either(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Mounted]:
    """With and without the writeback cache."""
    with mounted(tmp_path, "tree", "-o", request.param) as served:
        yield served


def number_of(call: pytest.ExceptionInfo[OSError]) -> int:
    assert call.value.errno is not None
    return call.value.errno


def test_what_is_written_is_read(either: Mounted) -> None:
    data = os.urandom(3_000_001)
    path = either.path / "file"
    path.write_bytes(data)
    assert path.read_bytes() == data
    with path.open("rb") as file:
        assert os.pread(file.fileno(), 10_000, 1_234_567) == data[1_234_567:1_244_567]
    assert either.ask("data", "file") == data.decode("latin-1")


def test_a_shared_mapping_reaches_the_tree(either: Mounted) -> None:
    path = either.path / "file"
    path.write_bytes(bytes(10_000))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[5000:5005] = b"hello"
        mapping.flush()
    assert either.ask("data", "file")[5000:5005] == "hello"


def test_appends_of_two_openers_follow_each_other(either: Mounted) -> None:
    path = either.path / "log"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    first, second = os.open(path, flags), os.open(path, flags)
    expected = b""
    for number in range(50):
        for handle, who in ((first, "a"), (second, "b")):
            line = f"{who}{number}\n".encode()
            os.write(handle, line)
            expected += line
    os.close(first)
    assert path.read_bytes() == expected
    os.close(second)
    assert either.ask("data", "log").encode() == expected


def test_open_honours_o_trunc(either: Mounted) -> None:
    path = either.path / "file"
    path.write_bytes(b"long contents")
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    assert path.stat().st_size == 0
    assert path.read_bytes() == b""
    assert either.ask("data", "file") == ""


def test_truncate_cuts_and_extends(either: Mounted) -> None:
    path = either.path / "file"
    path.write_bytes(b"0123456789")
    os.truncate(path, 4)
    assert path.read_bytes() == b"0123"
    os.truncate(path, 6)
    assert path.read_bytes() == b"0123\0\0"
    assert either.ask("data", "file") == "0123\0\0"


def test_times_are_kept_to_the_nanosecond_also_before_1970(either: Mounted) -> None:
    path = either.path / "file"
    path.write_bytes(b"")
    for times in ((1_700_000_000_123_456_789, 987_654_321), (-1, -1_000_000_001)):
        os.utime(path, ns=times)
        assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == times


def test_mode_and_owner_change_alone(served: Mounted) -> None:
    path = served.path / "file"
    path.write_bytes(b"x")
    before = path.stat()
    path.chmod(0o640)
    after = path.stat()
    assert stat.S_IMODE(after.st_mode) == 0o640
    assert (after.st_uid, after.st_gid, after.st_size, after.st_mtime_ns) == (
        before.st_uid,
        before.st_gid,
        before.st_size,
        before.st_mtime_ns,
    )
    if os.geteuid() == 0:
        os.chown(path, 1234, -1)
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, before.st_gid)


def test_links_symlinks_fifos_and_directories_are_made_and_removed(served: Mounted) -> None:
    top = served.path
    (top / "file").write_bytes(b"x")
    os.link(top / "file", top / "second")
    assert (top / "file").stat().st_nlink == 2
    (top / "symlink").symlink_to("some/where")
    assert (top / "symlink").readlink() == Path("some/where")
    os.mkfifo(top / "fifo")
    assert stat.S_ISFIFO((top / "fifo").stat().st_mode)
    (top / "dir").mkdir(mode=0o700)
    assert stat.S_IMODE((top / "dir").stat().st_mode) == 0o700
    assert top.stat().st_nlink == 3
    for name in ("file", "second", "symlink", "fifo"):
        (top / name).unlink()
    (top / "dir").rmdir()
    assert os.listdir(top) == []


def test_an_unlinked_file_can_be_used_until_it_is_closed(served: Mounted) -> None:
    path = served.path / "file"
    with path.open("w+b") as file:
        path.unlink()
        file.write(b"still here")
        file.flush()
        assert os.fstat(file.fileno()).st_nlink == 0
        assert os.pread(file.fileno(), 100, 0) == b"still here"
        assert served.ask("state")["nodes"] == 2
    while served.ask("state")["nodes"] != 1:  # RELEASE has no reply that anybody waits for
        pass
    assert served.ask("state")["opens"] == 0


def test_rename_has_all_its_flags(served: Mounted) -> None:
    top = served.path
    for name in ("a", "b"):
        (top / name).write_text(name)
    assert rename(top / "a", top / "b", 1) == errno.EEXIST
    assert rename(top / "a", top / "b", 2) == 0
    assert ((top / "a").read_text(), (top / "b").read_text()) == ("b", "a")
    assert rename(top / "a", top / "c", 1) == 0
    (top / "c").rename(top / "b")
    assert os.listdir(top) == ["b"]
    assert (top / "b").read_text() == "b"


def rename(old: Path, new: Path, flags: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    at_cwd = -100
    done = libc.renameat2(at_cwd, os.fsencode(old), at_cwd, os.fsencode(new), flags)
    return 0 if done == 0 else ctypes.get_errno()


def test_extended_attributes_with_their_flags(served: Mounted) -> None:
    path = served.path / "file"
    path.write_bytes(b"")
    value = bytes(range(256)) * 16
    os.setxattr(path, "user.a", value, os.XATTR_CREATE)
    os.setxattr(path, "user.b", b"")
    assert os.getxattr(path, "user.a") == value
    assert os.getxattr(path, "user.b") == b""
    assert sorted(os.listxattr(path)) == ["user.a", "user.b"]
    with pytest.raises(OSError) as caught:
        os.setxattr(path, "user.a", b"", os.XATTR_CREATE)
    assert number_of(caught) == errno.EEXIST
    with pytest.raises(OSError) as caught:
        os.setxattr(path, "user.c", b"", os.XATTR_REPLACE)
    assert number_of(caught) == errno.ENODATA
    os.removexattr(path, "user.a")
    with pytest.raises(OSError) as caught:
        os.getxattr(path, "user.a")
    assert number_of(caught) == errno.ENODATA


def test_statvfs_tells_what_the_tree_tells(served: Mounted) -> None:
    facts = os.statvfs(served.path)
    assert (facts.f_frsize, facts.f_blocks, facts.f_bfree, facts.f_bavail) == (4096, 1 << 20, 1 << 19, 1 << 18)
    assert (facts.f_files, facts.f_ffree, facts.f_namemax) == (1 << 30, 1 << 29, 255)


def test_fsync_of_files_and_directories_reaches_the_tree(either: Mounted) -> None:
    with (either.path / "file").open("wb") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
        assert either.ask("data", "file") == "x"
    handle = os.open(either.path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    assert either.ask("state")["syncs"] == 2


def test_names_are_any_bytes(served: Mounted) -> None:
    top = os.fsencode(served.path)
    names = [b"\xff\xfe", b"new\nline", "größe".encode(), b"x" * 255]
    for name in names:
        with open(top + b"/" + name, "wb"):
            pass
    assert sorted(os.listdir(top)) == sorted(names)
    with pytest.raises(OSError) as caught, open(top + b"/" + b"x" * 256, "wb"):
        pass
    assert number_of(caught) == errno.ENAMETOOLONG


@pytest.mark.parametrize(
    ("name", "number"),
    [("os", errno.EXDEV), ("full", errno.ENOSPC), ("corrupt", errno.EIO), ("bug", errno.EIO), ("failed", errno.EIO)],
)
def test_no_error_of_a_handler_ends_the_mount(served: Mounted, name: str, number: int) -> None:
    with pytest.raises(OSError) as caught:
        (served.path / f"boom-{name}").stat()
    assert number_of(caught) == number
    (served.path / "file").write_bytes(b"alive")
    assert (served.path / "file").read_bytes() == b"alive"
    assert served.process.poll() is None
    if name == "bug":
        assert "ZeroDivisionError: nobody expected this" in served.log()


# -- what the kernel keeps ---------------------------------------------------------------------------------------------


def test_attributes_names_and_their_absence_are_asked_for_once(served: Mounted) -> None:
    path = served.path / "dir"
    path.mkdir()
    before = served.ask("counts")
    for _ in range(20):
        path.stat()
        assert not (served.path / "absent").exists()
    after = served.ask("counts")
    assert after["lookup"] == before["lookup"] + 1
    assert after.get("getattr", 0) <= before.get("getattr", 0) + 2


def test_contents_stay_in_the_page_cache_when_a_file_is_opened_again(served: Mounted) -> None:
    path = served.path / "file"
    path.write_bytes(bytes(100_000))
    path.read_bytes()
    before = served.ask("counts").get("read", 0)
    path.read_bytes()
    assert served.ask("counts").get("read", 0) == before


def test_invalidation_makes_the_kernel_ask_again(either: Mounted) -> None:
    path = either.path / "file"
    path.write_bytes(b"old contents")
    assert path.read_bytes() == b"old contents"
    either.ask("poke", "file", "new contents")
    assert path.read_bytes() == b"old contents"
    either.ask("invalidate_inode", path.stat().st_ino)
    assert path.read_bytes() == b"new contents"


def test_invalidation_of_dirty_pages_does_not_deadlock(tmp_path: Path) -> None:
    with mounted(tmp_path, "tree", "-o", "writeback") as served, (served.path / "file").open("wb") as file:
        file.write(bytes(2 << 20))
        served.ask("invalidate_inode", os.fstat(file.fileno()).st_ino)
        assert len(served.ask("data", "file")) == 2 << 20


def test_a_name_appears_and_disappears_behind_the_kernel(served: Mounted) -> None:
    (served.path / "old").write_bytes(b"x")
    assert not (served.path / "new").exists()
    served.ask("rename", "old", "new")
    assert (served.path / "old").exists()
    assert not (served.path / "new").exists()
    for name in ("old", "new", "never-seen"):
        served.ask("invalidate_entry", 1, name)
    assert not (served.path / "old").exists()
    assert (served.path / "new").exists()


def test_nothing_is_kept_of_a_volatile_directory(served: Mounted) -> None:
    served.ask("volatile", 1)
    (served.path / "old").write_bytes(b"x")
    assert not (served.path / "new").exists()
    assert os.listdir(served.path) == ["old"]
    served.ask("rename", "old", "new")
    assert not (served.path / "old").exists()
    assert (served.path / "new").exists()


def test_a_node_the_kernel_lets_go_of_is_told(served: Mounted) -> None:
    (served.path / "file").write_bytes(b"x")
    (served.path / "file").unlink()
    while not served.ask("state")["forgotten"]:
        pass
    assert served.ask("state")["forgotten"] == 1
