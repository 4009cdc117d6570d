"""A dataset mounted by `sds mount`, as a user does it, and always unmounted again.

  DM1  Leaving the context unmounts, also after `kill`; what cannot be unmounted in order is detached and its worker
       killed, so that nothing is left behind.
  DM2  The worker is found as a user finds it, by `sds list`. `kill` is kill -9 and returns when it has ended.
"""

import contextlib
import importlib.util
import os
import select
import shutil
import signal
from pathlib import Path
from types import TracebackType
from typing import Self

from demo.stage import Stage
from tools.sds import CommandFailed, run

DEVICE = Path("/dev/fuse")


def lacking() -> str:
    """Why nothing can be mounted here; empty if it can."""
    if importlib.util.find_spec("pyfuse3") is None:
        return "the Python package pyfuse3 is not installed (make setup as root)"
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"{DEVICE} is missing or may not be used"
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        return "fusermount3 is not installed"
    return ""


class Mounted:
    """`target` on a directory of the stage."""

    def __init__(self, stage: Stage, target: str) -> None:
        self.target = target
        self._sds = stage.sds
        self.path = stage.directory / f"mnt-{target.replace('/', '-').replace('@', '-')}"
        self.path.mkdir(exist_ok=True)
        self._is_mounted = False

    def start(self) -> None:
        """DM1: over a dead mount, too."""
        self._sds("mount", self.target, self.path)
        self._is_mounted = True

    def stop(self) -> None:
        self._sds("unmount", self.path)
        self._is_mounted = False

    def pid(self) -> int:
        (found,) = [facts["pid"] for facts in self._sds.json("list") if facts["name"] == self.target]
        return int(found)

    def kill(self) -> None:
        """DM2."""
        pid = self.pid()
        end = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            poll = select.poll()
            poll.register(end, select.POLLIN)
            poll.poll()
        finally:
            os.close(end)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._is_mounted:
                self.stop()
        except CommandFailed:
            self._give_up()
            if error is None:
                raise

    def _give_up(self) -> None:
        """DM1."""
        detach = ("umount", "-l") if os.geteuid() == 0 else ("fusermount3", "-u", "-z")
        with contextlib.suppress(CommandFailed):
            run(*detach, self.path)
        with contextlib.suppress(TypeError, ValueError, ProcessLookupError):  # it has none any more
            self.kill()
