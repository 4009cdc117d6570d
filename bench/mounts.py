"""Mounted filesystems as child processes: ours, the empty one in memory, and peers; and plain directories.

  M1  A mount is ready when the kernel lists it, and ours when it says so; `start` returns then. `stop` unmounts
      it, as a user does, and waits for the process, which has written everything back by then. `kill` is kill -9,
      and clears the mountpoint that it leaves behind.
  M2  What a filesystem stores lies on the same disk as everything else that is compared with it.
  M3  Peers have the settings their own documentation suggests for general use, with the page cache on.
  M4  Only processes started here are ended, by their own process id.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tools.sds import CommandFailed, Sds, run

POLL_S = 0.005
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 300.0
BUSY_S = 5.0
POOL = "bench"


class MountFailed(Exception):
    """A filesystem did not appear, or did not go away."""


class Target:
    """A directory that jobs run in. A plain one needs nothing to be started and is emptied at the end."""

    def __init__(self, label: str, directory: Path) -> None:
        self.label = label
        self.directory = directory

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)

    def stop(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


class Mount(Target):
    """A program in the foreground that serves a mount."""

    def __init__(self, label: str, directory: Path, command: list[str], announcement: str = "") -> None:
        super().__init__(label, directory)
        self.command = command
        self.announcement = announcement
        self.log_path = directory.with_name(f"{directory.name}.log")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the filesystem is not mounted"
        return self._process.pid

    def start(self) -> None:
        assert self._process is None, "the filesystem is already mounted"
        super().start()
        begin_s = time.monotonic()
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )
        while not (is_mounted(self.directory) and self.announcement in self.log_path.read_text(errors="replace")):
            if self._process.poll() is not None or time.monotonic() - begin_s > START_TIMEOUT_S:
                self.kill()
                raise MountFailed(f"{self.label} did not mount: {self._last_words()}")
            time.sleep(POLL_S)

    def stop(self) -> None:
        deadline_s = time.monotonic() + BUSY_S
        while is_mounted(self.directory):
            try:
                run("fusermount3", "-u", self.directory, timeout_s=STOP_TIMEOUT_S)
            except CommandFailed:  # somebody looks at it just now
                if time.monotonic() > deadline_s:
                    self.kill()
                    raise
                time.sleep(0.1)
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise MountFailed(f"{self.label} did not end after the unmount: {self._last_words()}") from None

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if is_mounted(self.directory):
            run("fusermount3", "-u", "-z", self.directory)

    def _last_words(self) -> str:
        lines = self.log_path.read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-5:]) or "(it said nothing)"


def is_mounted(directory: Path) -> bool:
    """Asks the kernel's list and not the filesystem, which may hang or be dead."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split(" ")[4] == str(directory) for line in lines)


def null_mount(label: str, place: Path, hold_bytes: int) -> Mount:
    """`null`, or `null:writeback=on:readahead=128` and the like: the options of bench.nullfs."""
    words = [f"--hold={hold_bytes >> 20}", *(f"--{option}" for option in label.split(":")[1:])]
    directory = place / label.replace(":", "-").replace("=", "-")
    return Mount(label, directory, [sys.executable, "-m", "bench.nullfs", str(directory), *words])


def sds_mount(label: str, place: Path) -> Mount:
    """`sds`, or `sds:writeback` and the like: what follows are mount options. Each has a pool of its own."""
    options = label.split(":")[1:]
    name = label.replace(":", "-").replace("=", "-")
    sds, pool, directory = Sds(place / f"{name}-home"), place / f"{name}-pool", place / name
    pool.mkdir()
    sds("pool", "create", POOL, pool)
    sds("fs", "create", f"{POOL}/fs")
    words = ["-o", ",".join(options)] if options else []
    return Mount(label, directory, sds.command("mount", f"{POOL}/fs", directory, "-f", *words), f"mounted {POOL}/fs")


def s3ql_mount(label: str, place: Path, programs: Path | None) -> Mount | None:
    """`s3ql`, or `s3ql:lz4` and the like: its local backend, no encryption, without compression by default."""
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', '')}" if programs else None
    mkfs, mount = shutil.which("mkfs.s3ql", path=path), shutil.which("mount.s3ql", path=path)
    if mkfs is None or mount is None:
        return None
    compression = label.partition(":")[2] or "none"
    stored, directory = place / f"s3ql-{compression}-stored", place / f"s3ql-{compression}"
    stored.mkdir()
    common = ["--cachedir", str(place / f"s3ql-{compression}-cache"), "--log", "none"]
    run(mkfs, "--plain", *common, f"local://{stored}")
    serve = [mount, *common, "--fg", "--compress", compression, f"local://{stored}", str(directory)]
    return Mount(label, directory, serve)


def passing_mount(label: str, place: Path) -> Mount | None:
    """mergerfs or bindfs over a plain directory: what a filesystem in C costs that stores nothing itself."""
    if shutil.which(label) is None:
        return None
    stored, directory = place / f"{label}-stored", place / label
    stored.mkdir()
    options = {"mergerfs": ["-f", "-o", "cache.files=auto-full,category.create=mfs"], "bindfs": ["-f"]}
    return Mount(label, directory, [label, *options[label], str(stored), str(directory)])
