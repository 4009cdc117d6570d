"""`sds mount` and `sds unmount` as programs: in the background and in the foreground, ended in every way."""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sds.daemon.mountinfo import mount_at
from sds.pool.home import Home
from sds.pool.lease import Holder, Lease
from tests.cli.mounting import POLL_S, PROGRAMS, Machine, await_end, is_alive, machine_at
from tools.sds import run

pytestmark = pytest.mark.real(*PROGRAMS)
TIMEOUT_S = 60.0


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with machine_at(tmp_path) as machine:
        yield machine


def mounted(directory: Path) -> str:
    """What is mounted there, or an empty string."""
    mount = mount_at(str(directory))
    return mount.source if mount is not None else ""


# -- in the background ------------------------------------------------------------------------------------------------


def test_mount_returns_when_the_directory_can_be_used_and_unmount_when_all_is_closed(machine: Machine) -> None:
    directory = machine.mount()
    assert mounted(directory) == "tank/home"
    (directory / "file").write_text("data")
    pid = machine.facts()["pid"]
    machine.unmount()
    assert not is_alive(pid)
    assert mounted(directory) == ""
    assert machine.facts()["state"] == "closed"
    assert list(Path("/dev/shm").glob(f"sds-{machine.cli.json('pool', 'status', 'tank')['uuid']}-*")) == []
    machine.mount()
    assert (directory / "file").read_text() == "data"


def test_the_worker_has_nothing_to_do_with_whoever_started_it(machine: Machine, tmp_path: Path) -> None:
    inherited = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    command = machine.sds.command("mount", "tank/home", machine.directory)
    done = subprocess.run(command, pass_fds=[inherited], capture_output=True, timeout=TIMEOUT_S, check=True)
    os.close(inherited)
    assert done.stdout + done.stderr == b""  # and the pipes were closed: run() waits for that
    pid = machine.facts()["pid"]
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    opened = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    assert str(tmp_path) not in opened
    standard = [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)]
    log = str(machine.sds.home / "run" / "tank:home.log")
    assert standard == ["/dev/null", log, log]


def test_a_mount_that_fails_in_the_background_says_why_and_leaves_nothing(machine: Machine) -> None:
    assert "is missing" in machine.refused("mount", "tank/home", machine.root / "none")
    assert "no dataset" in machine.refused("mount", "tank/none", machine.directory)
    assert "no snapshot" in machine.refused("mount", "tank/home@none", machine.directory)
    assert machine.facts()["state"] == "closed"
    assert mounted(machine.directory) == ""


def test_interrupted_before_it_is_mounted_the_background_ends_too(machine: Machine) -> None:
    """Somebody has the dataset for a moment, so the mount waits."""
    lock = Home(machine.cli.home).lock_path(bytes.fromhex(machine.cli.json("pool", "status", "tank")["uuid"]), 1)
    with Lease.take(lock, "tank/home", Holder.me("test")):
        started = subprocess.Popen(
            machine.sds.command("mount", "tank/home", machine.directory),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # who tests in the background ignores it
        )
        worker = child_of(started.pid)
        started.send_signal(signal.SIGINT)
        assert started.wait(TIMEOUT_S) == 130
        assert not is_alive(worker)
    machine.mount()


def child_of(pid: int) -> int:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not (found := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        assert time.monotonic() < deadline_s
        time.sleep(POLL_S)
    return int(found[0])


def test_a_relative_directory_is_that_of_the_caller(machine: Machine) -> None:
    for words in (("mount", "tank/home", "mnt"), ("unmount", "mnt")):
        subprocess.run(machine.sds.command(*words), cwd=machine.root, timeout=TIMEOUT_S, check=True)
        assert (mounted(machine.directory) != "") == (words[0] == "mount")


# -- in the foreground ------------------------------------------------------------------------------------------------


class Foreground:
    def __init__(self, machine: Machine, *arguments: str | Path) -> None:
        self.popen = subprocess.Popen(
            machine.sds.command("mount", "-f", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.popen.stdout is not None
        self.line = self.popen.stdout.readline().strip()

    def end(self, number: int) -> tuple[int, str]:
        self.popen.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        """(exit code, what it said on stderr)"""
        _, said = self.popen.communicate(timeout=TIMEOUT_S)
        return self.popen.returncode, said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts_and_closes_in_order(machine: Machine, number: int) -> None:
    worker = Foreground(machine, "tank/home", machine.directory)
    assert worker.line == f"mounted tank/home on {machine.directory}"
    (machine.directory / "file").write_text("data")
    assert worker.end(number) == (0, "")
    assert mounted(machine.directory) == ""
    assert machine.facts()["state"] == "closed"
    assert [path.name for path in (machine.sds.home / "run").glob("*.sock")] == []


def test_a_signal_ends_it_even_if_the_mount_is_in_use_and_nothing_written_is_lost(machine: Machine) -> None:
    worker = Foreground(machine, "tank/home", machine.directory, "-o", "writeback")
    file = os.open(machine.directory / "file", os.O_WRONLY | os.O_CREAT)
    os.write(file, b"x" * 100_000)
    code, said = worker.end(signal.SIGTERM)
    assert code == 0
    assert "in use" in said
    assert mounted(machine.directory) == ""
    for call in (os.fsync, os.close):
        with pytest.raises(OSError) as caught:
            call(file)
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    machine.mount()
    assert (machine.directory / "file").read_bytes() == b"x" * 100_000


def test_unmounted_from_outside_it_closes_the_dataset_and_the_next_mount_waits_for_that(machine: Machine) -> None:
    worker = Foreground(machine, "tank/home", machine.directory)
    for number in range(200):
        (machine.directory / f"file{number}").write_bytes(os.urandom(10_000))
    run("umount", machine.directory)
    machine.mount()  # at once
    assert worker.ended() == (0, "")
    assert len(list(machine.directory.iterdir())) == 200


# -- in use -----------------------------------------------------------------------------------------------------------


def test_unmounting_what_is_in_use_is_refused_and_changes_nothing(machine: Machine) -> None:
    directory = machine.mount()
    with (directory / "file").open("w") as file:
        assert "in use" in machine.refused("unmount", directory)
        assert "in use" in machine.refused("unmount", "tank/home")
        file.write("more")
        file.flush()
        assert (directory / "file").read_text() == "more"
    machine.unmount()


def test_a_dataset_is_mounted_once_and_the_message_says_where(machine: Machine) -> None:
    directory, other = machine.mount(), machine.root / "other"
    other.mkdir()
    said = machine.refused("mount", "tank/home", other)
    assert f"in use by process {machine.facts()['pid']} (sds mount tank/home {directory})" in said
    said = machine.refused("mount", "tank/vm", directory)
    assert "tank/home (fuse.sds) is mounted there" in said
    assert "in use" in machine.refused("destroy", "tank/home")
    assert machine.facts("tank/vm")["state"] == "closed"


def test_destroying_with_force_ends_the_mount(machine: Machine) -> None:
    directory = machine.mount()
    (directory / "file").write_text("data")
    machine.cli("destroy", "tank/home", "--force")
    assert mounted(directory) == ""
    assert [one["name"] for one in machine.cli.json("list")] == ["tank/vm"]


def test_mounts_of_others_are_left_alone(machine: Machine) -> None:
    run("mount", "-t", "tmpfs", "none", machine.directory)
    assert "is in use: none (tmpfs)" in machine.refused("mount", "tank/home", machine.directory)
    assert "not a mount of sds" in machine.refused("unmount", machine.directory)
    assert mounted(machine.directory) == "none"


def test_what_is_not_mounted_cannot_be_unmounted(machine: Machine) -> None:
    assert "nothing is mounted" in machine.refused("unmount", machine.directory)
    assert "is not mounted" in machine.refused("unmount", "tank/home")
    assert "no dataset" in machine.refused("unmount", "tank/none")
    assert "nothing is mounted" in machine.refused("unmount", "nothing")


def test_a_mount_of_another_home_is_not_ours_to_end(machine: Machine, tmp_path: Path) -> None:
    directory = machine.mount()
    done = subprocess.run(
        [machine.sds.command()[0], "--home", str(tmp_path / "elsewhere"), "unmount", str(directory)],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "--home" in done.stderr
    assert mounted(directory) == "tank/home"


def test_a_dataset_that_was_renamed_while_mounted_is_unmounted_all_the_same(machine: Machine) -> None:
    directory = machine.mount()
    machine.cli("rename", "tank/home", "new")
    machine.sds("unmount", directory)
    assert machine.facts("tank/new")["state"] == "closed"


# -- after kill -9 ----------------------------------------------------------------------------------------------------


def test_a_dead_mount_is_cleaned_by_the_next_mount_and_fsynced_files_are_there(machine: Machine) -> None:
    directory = machine.mount()
    with (directory / "file").open("w") as file:
        file.write("precious")
        file.flush()
        os.fsync(file.fileno())
    machine.kill()
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        os.statvfs(directory)
    machine.mount()
    assert (directory / "file").read_text() == "precious"
    machine.unmount()
    assert mounted(directory) == "", "only one layer of mounts was there"


@pytest.mark.parametrize("by_name", [False, True])
def test_a_dead_mount_can_be_unmounted(machine: Machine, by_name: bool) -> None:
    directory = machine.mount()
    machine.kill()
    machine.sds("unmount", "tank/home" if by_name else directory)
    assert mounted(directory) == ""


def test_a_worker_that_hangs_is_not_taken_for_a_dead_one(machine: Machine) -> None:
    directory = machine.mount()
    pid = machine.facts()["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert "is in use" in machine.refused("mount", "tank/vm", directory)
    finally:
        os.kill(pid, signal.SIGCONT)
    machine.unmount()
    await_end(pid)
