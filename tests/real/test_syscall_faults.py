"""System calls of a running server that fail (strace injects the errors): no flush is answered wrongly, ever."""

import errno
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from sds.nbd import wire
from tests.nbd.client import Client
from tests.real.content import WRITE_BLOCKS_MAX, Content, block_of
from tests.real.places import no_stage_left
from tools.sds import Sds
from tools.servers import SdsServer

pytestmark = pytest.mark.real("strace")
# (backends, fault): strace counts the calls of each thread by itself, so an error may come several times.
FAULTS = (
    (1, "fdatasync:error=EIO:when=2"),
    (1, "pwrite64,pwritev,pwritev2:error=EIO:when=2"),
    (2, "fdatasync:error=EIO:when=1"),
    (2, "ftruncate:error=EIO:when=1"),
    (2, "fallocate:error=EIO:when=1"),
)
SIZE_BYTES = 64 << 20
ROUNDS = 12
STEP_BLOCKS = 96
ATTACH_S = 10.0


@contextmanager
def injected(pid: int, fault: str, log: Path) -> Iterator[None]:
    """Errors in the system calls of a process and its threads, until the end of the block."""
    calls = fault.partition(":")[0]
    with log.open("wb") as told:
        tracer = subprocess.Popen(
            ["strace", "-f", "-e", f"trace={calls}", "-e", f"inject={fault}", "-p", str(pid)],
            stdout=told, stderr=told,
        )  # fmt: skip
    deadline_s = time.monotonic() + ATTACH_S
    while b"attached" not in log.read_bytes():
        if tracer.poll() is not None or time.monotonic() > deadline_s:
            pytest.skip(f"strace cannot attach here: {log.read_text()}")
    try:
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait()


@dataclass(frozen=True, slots=True)
class Outcome:
    states: list[dict[int, int]]
    """What the volume held from the last answered flush on, after each write."""
    errors: set[int]


def work(content: Content, client: Client) -> Outcome:
    """Rounds of writes and a flush, all in turn; errors do not stop them."""
    states, errors = [dict(content.versions)], set[int]()
    for number in range(ROUNDS):
        for at in range(0, STEP_BLOCKS, WRITE_BLOCKS_MAX):
            first = (number * 296 + at) % (SIZE_BYTES // 4096 - WRITE_BLOCKS_MAX)
            errors.add(content.write(client, first, WRITE_BLOCKS_MAX).error)
            states.append(dict(content.versions))
        error = client.call(wire.FLUSH).error
        errors.add(error)
        if not error:
            del states[:-1]
    return Outcome(states, errors - {0})


def read_versions(content: Content, client: Client) -> dict[int, int]:
    """Which version of each block is there."""
    found = {}
    for number in content.versions:
        reply = client.call(wire.READ, number * 4096, 4096)
        assert not reply.error, reply.message
        if any(reply.data):
            found[number] = next(v for v in range(content.counter, -1, -1) if reply.data == block_of(number, v))
    return found


@pytest.mark.parametrize(("backends", "fault"), FAULTS)
def test_no_flush_is_answered_wrongly(
    sds: Sds, tmp_path: Path, socket_dir: Path, backends: int, fault: str
) -> None:
    paths = [tmp_path / f"disk{number}" for number in range(backends)]
    for path in paths:
        path.mkdir()
    sds("pool", "create", "tank", *paths, "--segment-size", "1M")
    sds("volume", "create", "tank/vm", str(SIZE_BYTES))
    content, server = Content(), SdsServer(sds, "tank/vm", socket_dir / "s")
    with no_stage_left(sds):
        try:
            server.start()
            with Client(str(server.socket_path)) as client:
                content.write(client, 0)
                assert not client.call(wire.FLUSH).error
                with injected(server.pid, fault, tmp_path / "strace"):
                    outcome = work(content, client)
                content.verify(client, "reads go on")
            assert "INJECTED" in (tmp_path / "strace").read_text(), "nothing was injected"
            assert outcome.errors <= {errno.EPERM, errno.ENOSPC}  # EROFS is EPERM in NBD
            if errno.EPERM in outcome.errors:
                assert sds.json("list")[0]["state"] == "failed"
        finally:
            server.kill()
    # The power fails: the stage in memory is gone. What is there is what was, at some time since the last flush.
    try:
        server.start()
        with Client(str(server.socket_path)) as client:
            assert read_versions(content, client) in outcome.states
            assert not content.write(client, 0).error
            assert not client.call(wire.FLUSH).error
        server.stop()
    finally:
        server.kill()
