"""NBD servers on a unix socket as child processes: ours and the peers it is compared with.

  V1  A server is ready when its socket takes a connection, and only then does `start` return.
  V2  Only processes started here are ended, by their own process id; leaving the context ends them, always.
      A server is the leader of its own process group, so `kill` reaches what it started, too.
  V3  `kill` is kill -9: the server gets no chance to write anything more.
  V4  What the server says goes to a log beside the socket; a failed start quotes its last lines.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NoReturn, Self

from tools.sds import Sds

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.005
SETTLE_S = 0.1


class ServerFailed(Exception):
    """A server did not start, or did not end when asked to."""


class Server:
    """One NBD server for one volume. Subclasses say which program with which arguments."""

    label: ClassVar[str] = "server"

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path
        self.log_path = socket_path.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    @property
    def uri(self) -> str:
        return f"nbd+unix:///?socket={self.socket_path}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> float:
        """Start the server and return how many seconds passed until it took a connection."""
        assert self._process is None, "the server is already running"
        begin_s = time.monotonic()
        with self.log_path.open("ab") as log:
            # In its own process group: an interrupt at the terminal reaches only us, and we end it in order.
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() - begin_s > START_TIMEOUT_S:
                self._give_up()
            time.sleep(POLL_S)
        taken_s = time.monotonic() - begin_s
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Some listen first and look at their image then: one that ends at once has not started.
            self._process.wait(SETTLE_S)
            self._give_up()
        return taken_s

    def _give_up(self) -> NoReturn:
        self.kill()
        raise ServerFailed(f"{self.label} did not start: {self.log_tail()}")

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            try:
                client.connect(str(self.socket_path))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
        return True

    def stop(self) -> None:
        """End the server in order (SIGTERM) and wait for it."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise ServerFailed(f"{self.label} did not end within {STOP_TIMEOUT_S:.0f} s of SIGTERM") from None

    def log_tail(self) -> str:
        lines = self.log_path.read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-5:]) or "(it said nothing)"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class SdsServer(Server):
    """`sds serve` of one dataset or snapshot."""

    label = "sds"

    def __init__(self, sds: Sds, dataset: str, socket_path: Path) -> None:
        super().__init__(socket_path)
        self.sds = sds
        self.dataset = dataset

    def command(self) -> list[str]:
        return self.sds.command("serve", self.dataset, "--socket", self.socket_path)


class QemuNbd(Server):
    """qemu-nbd on an image file: page cache (writeback), default threads, eight clients."""

    label = "qemu-nbd"

    def __init__(self, image: Path, image_format: str, socket_path: Path) -> None:
        super().__init__(socket_path)
        self.image = image
        self.image_format = image_format

    def command(self) -> list[str]:
        return [
            "qemu-nbd", "--persistent", "--shared=8", "--cache=writeback", "--aio=threads", "--discard=unmap",
            f"--format={self.image_format}", f"--socket={self.socket_path}", str(self.image),
        ]  # fmt: skip


class Nbdkit(Server):
    """nbdkit's file plugin with its defaults."""

    label = "nbdkit"

    def __init__(self, image: Path, socket_path: Path) -> None:
        super().__init__(socket_path)
        self.image = image

    def command(self) -> list[str]:
        return [
            "nbdkit", "--foreground", "--exit-with-parent",
            f"--unix={self.socket_path}", "file", str(self.image),
        ]  # fmt: skip

    def start(self) -> float:
        # nbdkit does not replace the socket that a killed one left behind.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket_path)
        return super().start()
