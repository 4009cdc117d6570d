"""A volume mounted as one raw file, for programs that want a file: mkfs, e2fsck, loop devices."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.mounted import Mounted
from demo.original import Original
from demo.stage import Stage
from tools.sds import CommandFailed, run

LOOP_CONTROL = Path("/dev/loop-control")


def raw_file(stage: Stage, original: Original) -> None:
    stage.sds("volume", "create", "tank/raw", "512M")
    with Mounted(stage, "tank/raw") as mount:
        file = mount.path / "raw.img"
        with stage.report.step("a volume mounted as a raw file: mkfs.ext4 puts the tree in, e2fsck finds it clean"):
            run("mkfs.ext4", "-q", "-F", "-d", original.path, file)
            run("e2fsck", "-f", "-n", file)
        what = "a loop device on that file: ext4 is mounted, has the tree, takes more, and is clean afterwards"
        why_not = _no_loop(file)
        if why_not:
            stage.report.skip(what, why_not)
            return
        with stage.report.step(what):
            place = stage.directory / "ext4"
            place.mkdir()
            with _looped(file) as device, _mounted(device, place):
                run("diff", "-r", "--no-dereference", "--exclude=lost+found", original.path, place)
                (place / "more").mkdir()
                original.unpack(place / "more")
                original.check(place / "more")
            run("e2fsck", "-f", "-n", file)
    with stage.report.step("served over NBD instead, it is the same ext4, and clean"):
        with stage.server("tank/raw") as server:
            run("nbdcopy", server.uri, stage.directory / "copy.img")
        run("e2fsck", "-f", "-n", stage.directory / "copy.img")


def _no_loop(file: Path) -> str:
    """Why there is no loop device here; empty if there is."""
    if os.geteuid() != 0 or not LOOP_CONTROL.exists():
        return "only root may use loop devices" if LOOP_CONTROL.exists() else f"{LOOP_CONTROL} is missing"
    try:
        with _looped(file):
            return ""
    except CommandFailed as error:
        return str(error)


@contextmanager
def _looped(file: Path) -> Iterator[str]:
    device = run("losetup", "--find", "--show", file).strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


@contextmanager
def _mounted(device: str, place: Path) -> Iterator[None]:
    run("mount", "-t", "ext4", device, place)
    try:
        yield
    finally:
        run("umount", place)
