"""System calls of a running server that fail (strace injects the errors): no flush is answered wrongly, ever."""

import errno
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sds.nbd import wire
from tests.nbd.client import Client, Closed
from tests.real.content import WRITE_BLOCKS_MAX, Content
from tests.real.places import no_stage_left
from tools.sds import Sds
from tools.servers import SdsServer

pytestmark = pytest.mark.real("strace")
FAULTS = (
    "fdatasync:error=EIO:when=1",
    "fdatasync:error=EIO:when=2",
    "fdatasync:error=ENOSPC:when=1+",
    "pwrite64,pwritev,pwritev2:error=EIO:when=2",
    "pwrite64,pwritev,pwritev2:error=ENOSPC:when=3+",
    "fallocate:error=EIO:when=1",
    "ftruncate:error=EIO:when=1",
)
SIZE_BYTES = 64 << 20
ROUNDS = 24
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


def work(content: Content, client: Client) -> tuple[dict[int, int], int]:
    """Rounds of writes and a flush: (what the last answered flush covers, the first error)."""
    flushed: dict[int, int] = {}
    first_error = 0
    for number in range(ROUNDS):
        for at in range(0, STEP_BLOCKS, WRITE_BLOCKS_MAX):
            reply = content.write(client, (number * 37 * 8 + at) % (SIZE_BYTES // 4096 - 64), WRITE_BLOCKS_MAX)
            first_error = first_error or reply.error
        before = dict(content.versions)
        reply = client.call(wire.FLUSH)
        if not reply.error:
            flushed = before
        first_error = first_error or reply.error
    return flushed, first_error


def pool_of(sds: Sds, where: Path, backends: int) -> None:
    paths = [where / f"disk{number}" for number in range(backends)]
    for path in paths:
        path.mkdir()
    sds("pool", "create", "tank", *paths, "--segment-size", "1M")
    sds("volume", "create", "tank/vm", str(SIZE_BYTES))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("backends", [1, 2])
def test_no_flush_is_answered_wrongly(
    sds: Sds, tmp_path: Path, socket_dir: Path, fault: str, backends: int
) -> None:
    pool_of(sds, tmp_path, backends)
    with no_stage_left(sds):
        content = Content()
        server = SdsServer(sds, "tank/vm", socket_dir / "s")
        try:
            server.start()
            with Client(str(server.socket_path)) as client:
                content.write(client, 0)
                assert not client.call(wire.FLUSH).error
                with injected(server.pid, fault, tmp_path / "strace"):
                    flushed, error = work(content, client)
                content.verify(client, "while the server runs")
                print(fault, backends, "error", error, "flushed", len(flushed), len(content.versions),
                     (tmp_path / "strace").read_text().count("INJECTED"), sds.json("list")[0]["state"], sds.json("list")[0]["error"])
            server.kill()
            for s in Path("/dev/shm").glob(f"sds-{sds.json('pool','status','tank')['uuid']}-*.stage"): s.unlink()
            server.start()
            with Client(str(server.socket_path)) as client:
                older = Content()
                if error: 
                    pass
                else:
                    content.verify(client, "after power loss")
                print(server.log_tail())
        finally:
            server.kill()
