"""Mounting as somebody else than root: it works where the device is open to users, else it is refused in one line.

Each runs in a list of mounts of its own, in which /dev/fuse has the mode that the test wants.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import Command
from tests.cli.conftest import build, no_stage_left
from tools.sds import run

NOBODY = 65534
TIMEOUT_S = 60.0
PROGRAM = """
import os, sys
import sds.cli.main, sds.cli.mount, fuse.mount, trio, sqlalchemy.dialects.sqlite  # while we may read them
os.setgroups([])
os.setgid({uid})
os.setuid({uid})
sys.exit(sds.cli.main.main(sys.argv[1:]))
"""

pytestmark = [
    pytest.mark.real("fusermount3", "unshare", "nsenter", "mount"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]


@pytest.fixture
def theirs(socket_dir: Path) -> Iterator[Command]:
    """A pool with a filesystem, all of it theirs."""
    command = build(socket_dir)
    command("fs", "create", "tank/home")
    (socket_dir / "mnt").mkdir()
    for top, directories, files in os.walk(socket_dir):
        for name in (".", *directories, *files):
            os.chown(os.path.join(top, name), NOBODY, NOBODY)
    with no_stage_left(command):
        yield command


def as_user(command: Command, device_mode: str) -> subprocess.Popen[str]:
    root = command.home.parent
    device = root / "fuse"
    prepare = f"mknod -m {device_mode} {device} c 10 229 && mount --bind {device} /dev/fuse"
    words = ["--home", str(command.home), "mount", "-f", "tank/home", str(root / "mnt")]
    return subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", prepare + ' && exec "$@"', "sh",
         sys.executable, "-c", PROGRAM.format(uid=NOBODY), *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def refusal(process: "subprocess.Popen[str]") -> str:
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1, said
    assert said.startswith("sds: "), said
    assert said.count("\n") == 1, said
    return said


def test_a_user_mounts_what_is_his(theirs: Command) -> None:
    with as_user(theirs, "666") as process:
        assert process.stdout is not None
        line, directory = process.stdout.readline(), theirs.home.parent / "mnt"
        assert line == f"mounted tank/home on {directory}\n"
        user = ["nsenter", "--target", str(process.pid), "--mount", f"--setuid={NOBODY}", f"--setgid={NOBODY}"]
        run(*user, "sh", "-c", f"echo data > {directory}/file")
        assert run(*user, "cat", f"{directory}/file") == "data\n"
        assert f" {directory} rw,nosuid,nodev" in Path(f"/proc/{process.pid}/mountinfo").read_text()
        theirs("unmount", "tank/home")
        assert process.wait(TIMEOUT_S) == 0


def test_a_user_who_may_not_use_the_device_is_told_so(theirs: Command) -> None:
    assert "/dev/fuse cannot be opened" in refusal(as_user(theirs, "600"))


def test_a_home_of_somebody_else_is_refused(theirs: Command) -> None:
    os.chown(theirs.home, 0, 0)
    os.chmod(theirs.home, 0o700)
    refusal(as_user(theirs, "666"))


def test_a_directory_of_somebody_else_is_refused(theirs: Command) -> None:
    os.chown(theirs.home.parent / "mnt", 0, 0)
    assert "own" in refusal(as_user(theirs, "666"))
    assert theirs.json("list")[0]["state"] == "closed"
