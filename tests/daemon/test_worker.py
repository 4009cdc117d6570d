"""The worker as a process: it says when it is ready, ends in order, and tells when something is wrong."""

import os
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sds.daemon.control_client import NoWorker, call
from sds.nbd import wire
from sds.pool.home import Home
from sds.pool.lease import holders
from tests.cli.command import Command
from tests.cli.conftest import build, no_stage_left
from tests.nbd.client import Client
from tools.sds import Sds

TIMEOUT_S = 30.0


class Process:
    """`sds serve`, with its output at hand."""

    def __init__(self, sds: Sds, *arguments: str | Path) -> None:
        self.popen = subprocess.Popen(
            sds.command("serve", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().strip()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """(exit code, what it said on stderr)."""
        self.popen.send_signal(number)
        _, said = self.popen.communicate(timeout=TIMEOUT_S)
        return self.popen.returncode, said


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Command]:
    command = build(tmp_path)
    command("volume", "create", "tank/vm", "64M")
    with no_stage_left(command):
        yield command


@pytest.fixture
def served(cli: Command, sds: Sds, socket_dir: Path) -> Iterator[Process]:
    process = Process(sds, "tank/vm", "--socket", socket_dir / "s")
    assert process.line() == f"serving tank/vm on nbd+unix:///vm?socket={socket_dir / 's'}"
    with process.popen:
        yield process
        process.popen.kill()


def control_socket(cli: Command) -> Path:
    pool = bytes.fromhex(cli.json("pool", "status", "tank")["uuid"])
    (holder,) = holders(Home(cli.home).lock_path(pool, 1))
    return Path(holder.socket)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_closes_in_order_and_leaves_nothing_behind(
    cli: Command, served: Process, socket_dir: Path, number: int
) -> None:
    uuid = cli.json("pool", "status", "tank")["uuid"]
    with Client(str(socket_dir / "s")) as client:
        assert not client.call(wire.WRITE, 0, payload=b"x" * 4096).error
        control = control_socket(cli)
        assert served.end(number) == (0, "")
    assert list(Path("/dev/shm").glob(f"sds-{uuid}-*")) == []
    assert list(socket_dir.iterdir()) == []
    assert not control.exists()
    (facts,) = cli.json("list")
    assert (facts["state"], facts["used_bytes"]) == ("closed", 4096)


def test_the_worker_answers_who_it_is_and_what_it_does(cli: Command, served: Process, socket_dir: Path) -> None:
    control = control_socket(cli)
    assert call(control, "ping") == {"pid": served.popen.pid, "failed": None}
    with Client(str(socket_dir / "s")) as client:
        assert not client.call(wire.WRITE, 0, payload=os.urandom(8192)).error
    stats = call(control, "stats")
    assert isinstance(stats, dict)
    assert stats["used_bytes"] == 8192
    assert stats["nbd"]["ops"][wire.COMMAND_NAMES[wire.WRITE]] == 1
    assert stats["written_bytes"] > 8192
    assert stats["durable_sequence"] < stats["sequence"]
    after = call(control, "checkpoint")
    assert isinstance(after, dict)
    assert after["sequence"] > stats["sequence"]
    call(control, "stop")
    assert served.popen.wait(TIMEOUT_S) == 0
    with pytest.raises(NoWorker):
        call(control, "ping")


def test_a_tcp_port_may_be_left_to_the_system(cli: Command, sds: Sds) -> None:
    process = Process(sds, "tank/vm", "--listen", "127.0.0.1:0", "--export-name", "disk")
    line = process.line()
    try:
        assert line.startswith("serving tank/vm on nbd://127.0.0.1:")
        address, _, name = line.rpartition("/")
        assert name == "disk"
        with Client(address.rpartition("/")[2]) as client:
            assert client.size_bytes == 64 << 20
    finally:
        assert process.end() == (0, "")


def test_backends_that_take_no_more_make_it_fail_loudly_and_reads_go_on(
    cli: Command, served: Process, socket_dir: Path
) -> None:
    """No file of the worker may grow any more: to it, that is a disk with errors."""
    with Client(str(socket_dir / "s")) as client:
        assert not client.call(wire.WRITE, 0, payload=b"x" * 4096).error
        resource.prlimit(served.popen.pid, resource.RLIMIT_FSIZE, (4096, 4096))
        assert client.call(wire.FLUSH).error
        assert client.call(wire.WRITE, 0, payload=b"y" * 4096).error
        assert client.call(wire.READ, 0, 4096).data == b"x" * 4096
        (facts,) = cli.json("list")
        assert facts["state"] == "failed"
        code, said = served.end()
    assert code == 1
    assert all(line.startswith("sds: ") for line in said.splitlines()), said


def test_a_socket_that_is_taken_is_refused_and_the_volume_is_closed_again(
    cli: Command, sds: Sds, socket_dir: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(socket_dir / "s"))
        other.listen()
        process = Process(sds, "tank/vm", "--socket", socket_dir / "s")
        _, said = process.popen.communicate(timeout=TIMEOUT_S)
    assert process.popen.returncode == 1
    assert "a server listens on" in said
    assert cli.json("list")[0]["state"] == "closed"
