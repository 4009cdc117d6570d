"""A pool with a filesystem, mounted for a test by `sds mount -f`, and always unmounted again.

  MH1  Whatever happens, leaving the context ends the worker, takes the mount off, and removes what a killed worker left
       in memory. Only processes started here are ended, by their own process group.
  MH2  A worker that hangs takes every process with it that touches the mount. So each has a watchdog, which kills it
       after LIFE_MAX_S: the kernel then fails all requests, and the test says what it waited for.
  MH3  What the worker says goes to a log; a failure in the context quotes its end. `check_log` fails on what a worker
       must never say.
  MH4  Everything lies in a short path of its own that other users may enter.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cli.command import Command
from tools.sds import Sds

LIFE_MAX_S = 600
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.005
LOG_LINES = 40
NEVER_SAID = ("Traceback", "internal error", "was never awaited", "never retrieved")
DATASET = "tank/home"
SHARED_OPTIONS = ("allow_other", "acl")
"""Of the mount that most tests share."""


class MountFailed(Exception):
    """A worker did not start, or did not end when asked to."""


class Mounted:
    """One filesystem and its mountpoint. Use `pool_with_filesystem` to make it."""

    def __init__(self, root: Path, sds: Sds) -> None:
        self.sds = sds
        self.path = root / "mnt"
        self.log_path = root / "log"
        self.path.mkdir()
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, target: str = DATASET) -> None:
        """MH2. `options`: words for -o. Returns when the mount can be used."""
        assert self._process is None, "the worker is already running"
        command = self.sds.command("mount", target, self.path, "-f")
        if options:
            command += ["-o", ",".join(options)]
        said = len(self.log())
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )
        self._watchdog = subprocess.Popen(
            ["sh", "-c", f"sleep {LIFE_MAX_S}; kill -9 -- -{self._process.pid}"], process_group=0
        )
        begin_s = time.monotonic()
        while "mounted " not in self.log()[said:]:
            if self._process.poll() is not None or time.monotonic() - begin_s > START_TIMEOUT_S:
                self.kill()
                raise MountFailed(f"sds mount did not start:\n{self.log_tail()}")
            time.sleep(POLL_S)

    def is_mounted(self) -> bool:
        """A live mount; a dead one is none."""
        try:
            return self.path.stat().st_dev != self.path.parent.stat().st_dev
        except OSError:
            return False

    def stop(self) -> None:
        """SIGTERM: everything is written and the mount is gone when this returns."""
        process = self._take()
        if process is None:
            return
        process.terminate()
        try:
            code = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise MountFailed(f"sds mount did not end within {STOP_TIMEOUT_S:.0f} s:\n{self.log_tail()}") from None
        if code:
            raise MountFailed(f"sds mount ended with {code}:\n{self.log_tail()}")
        assert not self.path.is_mount(), "sds mount ended and left its mount"

    def kill(self) -> None:
        """kill -9; the dead mount stays, as it does for a user."""
        process = self._take()
        if process is not None:
            _kill(process)

    def _take(self) -> "subprocess.Popen[bytes] | None":
        """Without its watchdog, which must not outlive it: its process id may be given to another."""
        process, self._process = self._process, None
        if self._watchdog is not None:
            _kill(self._watchdog)
            self._watchdog = None
        return process

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def clean_up(self) -> None:
        """MH1."""
        self.kill()
        # Lazily: a test that failed may have left files open.
        while subprocess.run(["umount", "-l", str(self.path)], capture_output=True, check=False).returncode == 0:
            pass

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self) -> str:
        return "\n".join(self.log().splitlines()[-LOG_LINES:]) or "(it said nothing)"

    def check_log(self) -> None:
        """MH3."""
        wrong = [line for line in self.log().splitlines() if any(words in line for words in NEVER_SAID)]
        assert not wrong, f"{wrong}\n{self.log_tail()}"


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def pool_with_filesystem(*, disk: Path | None = None, segment_size: str = "4M") -> Iterator[Mounted]:
    """MH1, MH4: a pool `tank` with a filesystem `home`, not mounted yet. `disk`: where its backend is."""
    with _short_directory() as root:
        command = Command(root / "state")  # in this process: quick
        backend = disk or root / "disk"
        backend.mkdir(exist_ok=True)
        command("pool", "create", "tank", backend, "--segment-size", segment_size)
        command("fs", "create", DATASET)
        uuid = command.json("pool", "status", "tank")["uuid"]
        mounted = Mounted(root, Sds(command.home))
        try:
            yield mounted
        except BaseException as error:
            error.add_note(f"the worker said:\n{mounted.log_tail()}")
            raise
        finally:
            mounted.clean_up()
            for stage in Path("/dev/shm").glob(f"sds-{uuid}-*"):
                stage.unlink(missing_ok=True)


@contextmanager
def _short_directory() -> Iterator[Path]:
    """Not TemporaryDirectory: it would descend into a mount that could not be taken off."""
    root = Path(tempfile.mkdtemp(prefix="sds-"))
    try:
        root.chmod(0o755)
        yield root
    finally:
        if not (root / "mnt").is_mount():
            shutil.rmtree(root, ignore_errors=True)


@contextmanager
def mounted(*options: str, disk: Path | None = None) -> Iterator[Mounted]:
    """A pool and a filesystem, mounted until the end, which must be an orderly one."""
    with pool_with_filesystem(disk=disk) as here:
        here.start(*options)
        yield here
        here.stop()
        here.check_log()
