"""The life of a mount: how it begins, how it is refused, and every way in which it ends."""

import errno
import mmap
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse.mountpoint import mounted_at, unmount
from tests.fuse.mounting import Mounted, mounted, started

pytestmark = pytest.mark.real("fusermount3")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Mounted]:
    with mounted(tmp_path) as served:
        yield served


def assert_gone(served: Mounted) -> None:
    assert served.ended().splitlines()[-1] == "ended", served.log()
    assert served.process.returncode == 0
    assert mounted_at(str(served.path)) is None
    assert os.listdir(served.path) == []


def refusal(path: Path, *arguments: str) -> str:
    """What a server says that cannot begin."""
    served = started(path, "tree", *arguments)
    with served.process:
        said = served.line().strip()
        assert said != "ready"
    assert served.process.returncode == 1, served.log()
    return said


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_unmounting_from_outside_ends_it(served: Mounted) -> None:
    (served.path / "file").write_bytes(b"x")
    assert unmount(str(served.path)) is None
    assert_gone(served)


def test_fusermount_from_outside_ends_it(served: Mounted) -> None:
    subprocess.run(["fusermount3", "-u", str(served.path)], check=True)
    assert_gone(served)


def test_stop_unmounts(served: Mounted) -> None:
    (served.path / "file").write_bytes(b"x")
    served.send("stop", False)
    assert_gone(served)


def test_stop_leaves_a_mount_in_use_alone_and_says_who_must_act(served: Mounted) -> None:
    with (served.path / "file").open("wb"):
        answer = served.ask("stop", False)
        assert "is in use" in answer["error"]
        assert str(served.path) in answer["error"]
        assert served.ask("counts")["create"] == 1
        assert os.listdir(served.path) == ["file"]
    served.send("stop", False)
    assert_gone(served)


def test_forced_stop_cuts_off_who_uses_it(served: Mounted) -> None:
    handle = os.open(served.path / "file", os.O_WRONLY | os.O_CREAT)
    served.send("stop", True)
    assert_gone(served)
    for use in (lambda: os.write(handle, b"x"), lambda: os.close(handle)):
        with pytest.raises(OSError) as caught:
            use()
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    assert "is in use and is cut off" in served.log()


def test_forced_stop_first_writes_back_what_the_kernel_holds(tmp_path: Path) -> None:
    with mounted(tmp_path, "tree", "-o", "writeback") as served:
        data = os.urandom(4 << 20)
        handle = os.open(served.path / "file", os.O_WRONLY | os.O_CREAT)
        os.write(handle, data)
        served.send("stop", True)
        assert_gone(served)
        assert f"written {len(data)}" in served.log()
        with pytest.raises(OSError):
            os.close(handle)


def test_unmounting_writes_back_what_the_kernel_holds(tmp_path: Path) -> None:
    with mounted(tmp_path, "tree", "-o", "writeback") as served:
        size = 4 << 20
        with (served.path / "file").open("w+b") as file:
            file.truncate(size)
            mapping = mmap.mmap(file.fileno(), size)
        mapping[:] = b"m" * size
        mapping.close()
        served.send("stop", False)
        assert_gone(served)
        assert f"written {size}" in served.log()


@needs_root
def test_an_aborted_connection_ends_it_and_leaves_no_dead_mountpoint(served: Mounted) -> None:
    with (served.path / "file").open("wb"):  # in use, so that it is aborted and not unmounted
        subprocess.run(["umount", "-f", str(served.path)], check=False, capture_output=True)
        assert_gone(served)


@needs_root
def test_a_mount_that_lives_on_in_another_namespace_is_ended_too(served: Mounted) -> None:
    """Where its unmounting does not arrive."""
    other = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE
    )
    try:
        assert other.stdout is not None
        other.stdout.readline()
        served.send("stop", True)
        assert_gone(served)
    finally:
        other.kill()
        other.communicate()


def test_a_cancelled_mount_is_unmounted(served: Mounted) -> None:
    (served.path / "file").write_bytes(b"x")
    served.send("cancel")
    assert_gone(served)


def test_a_cancellation_does_not_wait_for_a_handler_or_an_invalidation(served: Mounted) -> None:
    """A lookup hangs and holds the directory's lock in the kernel, which an invalidation waits for."""
    (served.path / "file").write_bytes(b"x")
    waiting = subprocess.Popen(["stat", str(served.path / "hang")], stderr=subprocess.DEVNULL)
    served.ask("wait-for-hang")
    served.send("invalidate_entry", 1, "hang")
    served.send("cancel")
    assert_gone(served)
    assert waiting.wait(10) != 0


def test_after_kill_9_it_can_be_mounted_again_once_the_dead_mountpoint_is_gone(tmp_path: Path) -> None:
    with mounted(tmp_path) as served:
        served.process.send_signal(signal.SIGKILL)
        served.process.wait()
        assert "whose server has died: unmount it first" in refusal(served.path)
        assert unmount(str(served.path), lazily=True) is None
    with mounted(tmp_path) as served:
        assert os.listdir(served.path) == []


# -- how it begins -----------------------------------------------------------------------------------------------------


def test_a_missing_mountpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none"
    assert refusal(path) == f"{path} is missing: make the directory first (mkdir -p {path})"


def test_a_mountpoint_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    assert refusal(path) == f"{path} is not a directory: choose a directory to mount on"


def test_a_mountpoint_in_use_is_refused(served: Mounted) -> None:
    (served.path / "file").write_bytes(b"x")
    path = served.path.parent / "link"
    path.symlink_to(served.path)
    assert refusal(path) == (
        f"something is mounted on {served.path} already: unmount it first (sds unmount {served.path})"
    )
    assert os.listdir(served.path) == ["file"]


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    assert "mount option 'sparkling' is unknown: choose from acl, allow_other" in refusal(tmp_path, "-o", "sparkling")


def test_a_process_has_one_mount(served: Mounted) -> None:
    other = served.path.parent / "other"
    other.mkdir()
    assert served.ask("second", str(other))["error"] == (
        f"this process serves {served.path} already: a process has one mount"
    )


def test_df_and_mount_show_its_name_and_kind(served: Mounted) -> None:
    shown = subprocess.run(
        ["findmnt", "-no", "SOURCE,FSTYPE", str(served.path)], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == ["memory/fs", "fuse.sds"]


def test_a_mountpoint_may_have_any_name(tmp_path: Path) -> None:
    with mounted(tmp_path, name="with space, größe\\and\nmore") as served:
        (served.path / "file").write_bytes(b"x")
        served.send("stop", False)
        assert_gone(served)


def test_read_only_refuses_every_change(tmp_path: Path) -> None:
    with mounted(tmp_path, "tree", "-o", "ro") as served:
        with pytest.raises(OSError) as caught:
            (served.path / "file").write_bytes(b"x")
        assert caught.value.errno == errno.EROFS
        assert "create" not in served.ask("counts")


@needs_root
def test_root_may_have_devices_and_suid_unless_told_otherwise(tmp_path: Path) -> None:
    def options(*arguments: str) -> set[str]:
        with mounted(tmp_path, "tree", *arguments) as served:
            shown = subprocess.run(
                ["findmnt", "-no", "VFS-OPTIONS", str(served.path)], capture_output=True, text=True, check=True
            )
            return set(shown.stdout.strip().split(","))

    assert not {"nosuid", "nodev", "noexec"} & options()
    assert options("-o", "nosuid,noexec", "-o", "nodev") >= {"nosuid", "nodev", "noexec"}


@needs_root
def test_read_ahead_is_raised_for_root(served: Mounted) -> None:
    found = mounted_at(str(served.path))
    assert found is not None
    assert Path(f"/sys/class/bdi/{found.device}/read_ahead_kb").read_text().strip() == "1024"


@needs_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is missing")
def test_a_user_without_rights_is_told_so_in_one_line(socket_dir: Path) -> None:
    """/dev/fuse may be for root only, or fusermount3 refuses a directory of somebody else: both say what to do."""
    socket_dir.chmod(0o755)
    command = [sys.executable, "-m", "tests.fuse.serve", "tree", str(socket_dir)]
    said = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={"PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"]},
    )
    if "Permission denied" in said.stderr and "python" in said.stderr:
        pytest.skip("nobody may not run this Python")
    assert said.returncode == 1, said.stderr
    assert len(said.stdout.splitlines()) == 1
    assert "allow this user to use it" in said.stdout or "may not be mounted on" in said.stdout
