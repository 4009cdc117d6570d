"""Helper: something in memory, mounted by another process, with a line to that process."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuse.mountpoint import mounted_at, unmount

ROOT = Path(__file__).parents[2]
END_S = 20.0


@dataclass
class Mounted:
    path: Path
    process: subprocess.Popen[str]
    log_path: Path

    def ask(self, command: str, *arguments: Any) -> Any:
        self.send(command, *arguments)
        return json.loads(self.line())

    def send(self, command: str, *arguments: Any) -> None:
        """Without waiting for an answer: the command may be the last one."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([command, *arguments]) + "\n")
        self.process.stdin.flush()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def log(self) -> str:
        return self.log_path.read_text()

    def ended(self) -> str:
        """Waits for its end; what it printed last."""
        self.process.wait(END_S)
        assert self.process.stdout is not None
        return self.process.stdout.read().strip()


def started(path: Path, *arguments: str) -> Mounted:
    """A server that may or may not be ready: its first line tells."""
    what = arguments[0] if arguments else "tree"
    log_path = path.with_name(path.name + ".log")
    command = [sys.executable, "-m", "tests.fuse.serve", what, str(path), *arguments[1:]]
    with log_path.open("w") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT
        )
    return Mounted(path, process, log_path)


@contextlib.contextmanager
def mounted(directory: Path, *arguments: str, name: str = "mnt") -> Iterator[Mounted]:
    """`arguments` as of tests.fuse.serve without the mountpoint, "tree" by default."""
    path = directory / name
    path.mkdir(exist_ok=True)
    served = started(path, *arguments)
    try:
        first = served.line().strip()
        assert first == "ready", f"{first}\n{served.log()}"
        yield served
    finally:
        finish(served)


def finish(served: Mounted) -> None:
    """However the test left it."""
    if served.process.poll() is None and unmount(os.path.realpath(served.path), lazily=True) is not None:
        served.process.kill()
    try:
        served.process.wait(END_S)
    except subprocess.TimeoutExpired:
        served.process.kill()
        served.process.wait()
    while mounted_at(os.path.realpath(served.path)) is not None:
        assert unmount(os.path.realpath(served.path), lazily=True) is None
    for stream in (served.process.stdin, served.process.stdout):
        assert stream is not None
        with contextlib.suppress(BrokenPipeError):
            stream.close()
