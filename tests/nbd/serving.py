"""Helpers: a server in a thread of this process, with its device in reach of the test, or in another process."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from sds.nbd.listeners import listen_tcp, listen_unix
from sds.nbd.server import Server
from sds.nbd.state import Limits
from tests.nbd.memory_device import MemoryDevice

ROOT = Path(__file__).parents[2]


@dataclass
class Served:
    address: str
    device: MemoryDevice
    server: Server
    token: trio.lowlevel.TrioToken
    ended: threading.Event = field(default_factory=threading.Event)

    def in_loop(self, function: Callable[[], Any]) -> Any:
        """Call a function in the event loop of the server."""
        return trio.from_thread.run_sync(function, trio_token=self.token)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait in the event loop until a condition holds; 10 s at most."""

        async def wait() -> None:
            with trio.fail_after(10):
                while not condition():  # noqa: ASYNC110 - conditions of any kind, from another thread
                    await trio.sleep(0.001)

        trio.from_thread.run(wait, trio_token=self.token)

    def end(self) -> None:
        if self.device.gate is not None:
            self.device.gate.set()
        self.server.stop()

    def uri(self, name: str = "memory") -> str:
        return f"nbd+unix:///{name}?socket={self.address}"


@contextlib.contextmanager
def serving(
    device: MemoryDevice, directory: Path, *, limits: Limits | None = None, tcp: bool = False
) -> Iterator[Served]:
    ready = threading.Event()
    box: list[Served] = []
    path = str(directory / "nbd.sock")

    async def main() -> None:
        server = Server(device, export_name="memory", description="in memory", limits=limits)
        listener = listen_tcp("127.0.0.1", 0) if tcp else listen_unix(path)
        address = f"127.0.0.1:{listener.port}" if tcp else path
        box.append(Served(address, device, server, trio.lowlevel.current_trio_token()))
        async with trio.open_nursery() as nursery:
            await nursery.start(server_task, server, listener)
            ready.set()

    async def server_task(server: Server, listener: Any, task_status: trio.TaskStatus[None]) -> None:
        await server.serve([listener], task_status=task_status)
        box[0].ended.set()

    thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
    thread.start()
    assert ready.wait(10)
    served = box[0]
    try:
        yield served
    finally:
        if not served.ended.is_set():
            served.in_loop(served.end)
        thread.join(20)
        assert not thread.is_alive(), "the server does not stop"


@contextlib.contextmanager
def serving_process(directory: Path, *arguments: str) -> Iterator[tuple[str, int]]:
    """Socket path and pid of `tests.nbd.serve_memory`."""
    path = str(directory / "process.sock")
    command = [sys.executable, "-m", "tests.nbd.serve_memory", "--socket", path, *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "serving" in line, line
        yield path, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 0, told
    assert "Traceback" not in told, told


def need(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def run(*command: str, timeout_s: float = 60) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=os.environ)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def libnbd() -> Any:
    """The libnbd module of the system's Python; skips where it cannot be loaded."""
    system = "/usr/lib/python3/dist-packages"
    if system not in sys.path:
        sys.path.append(system)
    try:
        import nbd
    except ImportError as exc:
        pytest.skip(f"python3-libnbd cannot be loaded: {exc}")
    return nbd
