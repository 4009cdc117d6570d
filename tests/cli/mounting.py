"""Mounts made by the command line as a program, and always taken away again."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sds.daemon.mountinfo import mounts
from sds.pool.home import Home
from sds.pool.lease import holders
from tests.cli.command import Command
from tests.cli.conftest import no_stage_left
from tools.sds import Sds, run

PROGRAMS = ("fusermount3", "mount", "umount")
TIMEOUT_S = 60.0
POLL_S = 0.01


class Machine:
    """A pool `tank` with a filesystem `home` and a volume `vm`; a directory to mount on."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sds = Sds(root / "home")
        """As a program, for what mounts."""
        self.cli = Command(root / "home")
        """In this process, for the rest: it is quicker."""
        self.directory = root / "mnt"

    def mount(self, target: str = "tank/home", *arguments: str | Path, directory: Path | None = None) -> Path:
        self.sds("mount", target, directory or self.directory, *arguments)
        return directory or self.directory

    def unmount(self) -> None:
        self.sds("unmount", self.directory)

    def facts(self, name: str = "tank/home") -> dict[str, Any]:
        (found,) = [one for one in self.cli.json("list") if one["name"] == name]
        return dict(found)

    def control_socket(self, dataset_id: int = 1) -> Path:
        pool = bytes.fromhex(self.cli.json("pool", "status", "tank")["uuid"])
        (holder,) = holders(Home(self.cli.home).lock_path(pool, dataset_id))
        return Path(holder.socket)

    def refused(self, *arguments: str | Path, code: int = 1) -> str:
        """The one line that says why."""
        done = subprocess.run(
            self.sds.command(*arguments), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
            timeout=TIMEOUT_S,
        )  # fmt: skip
        assert done.returncode == code, done
        if code == 1:
            assert done.stderr.startswith("sds: "), done.stderr
            assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    def kill(self, name: str = "tank/home") -> None:
        """kill -9 of its worker, whose child it was not."""
        pid = self.facts(name)["pid"]
        os.kill(pid, signal.SIGKILL)
        await_end(pid)

    def clean_up(self) -> None:
        """Whatever a test left, lazily: it may have files open."""
        for mount in reversed(mounts()):
            if mount.point.startswith(f"{self.root}/"):
                run("umount", "-l", mount.point)
        for facts in self.cli.json("list"):
            if facts["pid"]:
                os.kill(facts["pid"], signal.SIGKILL)
                await_end(facts["pid"])


def await_end(pid: int) -> None:
    """Of a process that may be nobody's child here; a zombie has ended."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while is_alive(pid):
        assert time.monotonic() < deadline_s, f"process {pid} does not end"
        time.sleep(POLL_S)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def machine_at(root: Path) -> Iterator[Machine]:
    machine = Machine(root)
    for name in ("a", "b", "mnt"):
        (root / name).mkdir()
    machine.cli("pool", "create", "tank", root / "a", root / "b", "--segment-size", "1M")
    machine.cli("fs", "create", "tank/home")
    machine.cli("volume", "create", "tank/vm", "64M")
    with no_stage_left(machine.cli):
        try:
            yield machine
        finally:
            machine.clean_up()
