"""stress-ng's class of filesystem stressors, one after the other, on a mount."""

import re
import subprocess

import pytest

from tests.filesystem.profile import fresh, is_long
from tests.mounted.harness import mounted

pytestmark = pytest.mark.real("stress-ng", "fusermount3")
STRESSOR_S = 1
LONG_STRESSOR_S = 20
NOT_HERE = (3, 4)
"""Exit codes: no resources for it, not implemented on this machine."""

EXCLUDED = {
    "bind-mount": "mounts in a namespace of its own",
    "binderfs": "mounts a filesystem of its own",
    "procfs": "reads all of /proc",
    "io": "syncs all disks of the machine",
    "fanotify": "marks all mounts of the machine",
    "getdent": "walks all directories of the machine",
    "dup": "descriptors, no files",
    "eventfd": "no files",
    "ioprio": "priorities, hardly any files",
}
"""With the reason. Those that use what FUSE does not pass on (fallocate, ioctl, fiemap) take part: it is refused."""
TOGETHER = 3
"""Stressors that run at the same time, in one directory."""


def stressors() -> list[str]:
    """Of this version of stress-ng."""
    said = subprocess.run(
        ["stress-ng", "--class", "filesystem?"], capture_output=True, text=True, check=False
    )  # it ends with 1 and means it
    names = re.search(r"stressors: (.*)", said.stdout + said.stderr)
    assert names is not None, said
    return [name for name in names[1].split() if name not in EXCLUDED]


def test_no_stressor_finds_an_error(request: pytest.FixtureRequest) -> None:
    names = stressors()
    assert len(names) > 20, names
    seconds = LONG_STRESSOR_S if is_long(request) else STRESSOR_S
    failures = []
    with mounted("allow_other") as mount:
        for at in range(0, len(names), TOGETHER):
            some = names[at : at + TOGETHER]
            directory = fresh(mount.path)
            words = ["--timeout", str(seconds), "--temp-path", str(directory), "--verify"]
            words += [word for name in some for word in (f"--{name}", "1")]
            done = subprocess.run(
                ["stress-ng", *words], capture_output=True, text=True, check=False, timeout=seconds + 60, cwd="/"
            )
            assert mount.is_running, f"{some} ended the worker"
            if done.returncode not in (0, *NOT_HERE):
                failures.append(f"{some}: exit {done.returncode}: {done.stdout + done.stderr}")
            left = list(directory.rglob("*"))
            assert not left, f"{some} left {left[:3]}"
    assert not failures, "\n".join(failures)
