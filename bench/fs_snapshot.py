"""`python -m bench fs-snapshot`: a filesystem of a million files is kept, looked at and opened in moments.

Snapshots are timed inside the worker, from the request on its control socket to the answer; the whole command,
which also starts an interpreter, is told beside it. "Busy" is a process that creates small files without pause.
The first look into a snapshot is a listing of its root and of one directory in it, asked for the first time.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench.fuse_jobs import DRIVER
from bench.mounts import POOL, Mount, sds_mount
from bench.process import memory_mib
from bench.report import save, table
from bench.world import versions, world
from tools.sds import Sds, run

LIMIT_S = 0.050
LIMIT_MIB = 600.0
DATASET = f"{POOL}/fs"
Samples = dict[str, list[float]]


def bench_fs_snapshot(files: int, rounds: int, directory: Path | None, json_path: Path | None) -> None:
    seconds: Samples = {}
    memory: dict[str, float] = {}
    with world(directory) as place:
        mount = sds_mount("sds", place.directory)
        sds = Sds(place.directory / "sds-home")
        begin_s = time.monotonic()
        run(sys.executable, "-m", "bench.fs_fill", sds.home, DATASET, str(files), timeout_s=7200)
        print(f"{files} files made without a mount: {files / (time.monotonic() - begin_s):.0f}/s")
        try:
            seconds["mount"] = [_mounted_s(mount)]
            memory["after the mount"] = memory_mib(mount.pid)["VmRSS"]
            _sample(sds, mount, "idle", rounds, seconds)
            with load(mount.directory / "load"):
                _sample(sds, mount, "busy", rounds, seconds)
            memory["after snapshots"] = memory_mib(mount.pid)["VmRSS"]
            seconds["ls -lR | wc -l"] = [_list_everything_s(mount.directory, files)]
            memory["after ls -lR"] = memory_mib(mount.pid)["VmRSS"]
            mount.kill()
            seconds["mount after kill -9"] = [_mounted_s(mount)]
        finally:
            mount.stop()
        found = versions(place.directory)
    print(_tables(seconds, memory, files))
    save(json_path, {"files": files, "samples_s": seconds, "memory_mib": memory, "versions": found})


def _mounted_s(mount: Mount) -> float:
    """Until the first listing of the root: interpreter, recovery, mount."""
    begin_s = time.monotonic()
    mount.start()
    os.listdir(mount.directory)
    return time.monotonic() - begin_s


def _sample(sds: Sds, mount: Mount, state: str, rounds: int, seconds: Samples) -> None:
    names = [f"snapshot, {state}", f"whole command, {state}", f"first ls of its root, {state}"]
    names.append(f"first ls of a directory in it, {state}")
    for name in names:
        seconds[name] = []
    for number in range(rounds):
        label = f"{state}-{number}"
        begin_s = time.monotonic()
        made = sds.json("snapshot", f"{DATASET}@{label}")
        elapsed_s = time.monotonic() - begin_s
        root = mount.directory / ".snapshots" / label
        values = [made["elapsed_ms"] / 1000, elapsed_s, _list_s(root), _list_s(root / "d00000")]
        for name, value in zip(names, values, strict=True):
            seconds[name].append(value)


def _list_s(directory: Path) -> float:
    begin_s = time.monotonic()
    listed = os.listdir(directory)
    elapsed_s = time.monotonic() - begin_s
    assert listed, f"{directory} is empty"
    return elapsed_s


def _list_everything_s(directory: Path, files: int) -> float:
    begin_s = time.monotonic()
    with subprocess.Popen(["ls", "-lR", directory], stdout=subprocess.PIPE) as listing:
        counted = subprocess.run(["wc", "-l"], stdin=listing.stdout, capture_output=True, text=True, check=True)
    elapsed_s = time.monotonic() - begin_s
    assert int(counted.stdout) > files, f"ls -lR shows {counted.stdout.strip()} lines for {files} files"
    return elapsed_s


@contextmanager
def load(directory: Path) -> Iterator[None]:
    """Small files are created in this directory for as long as the context lasts."""
    directory.mkdir()
    words = [sys.executable, "-I", "-S", str(DRIVER), "create-1k", str(directory), "10000000", "3600"]
    driver = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        # The driver first makes its list of names; the load has to be there before it can disturb.
        while not os.listdir(directory):
            assert driver.poll() is None, "the load did not begin"
            time.sleep(0.1)
        yield
        assert driver.poll() is None, "the load ended early"
    finally:
        driver.terminate()
        driver.wait()


def _tables(seconds: Samples, memory: dict[str, float], files: int) -> str:
    rows = [
        [name, f"{median(values) * 1000:.1f}", f"{max(values) * 1000:.1f}", *_word(name, values)]
        for name, values in seconds.items()
    ]
    limit = f"< {LIMIT_MIB:.0f}"
    held = [[f"worker {name}", f"{mib:.0f}", limit, _met(mib < LIMIT_MIB)] for name, mib in memory.items()]
    times = table([f"{files} files", "median, ms", "worst, ms", "promise", ""], rows)
    return f"\n{times}\n\n{table(['resident memory', 'MiB', 'promise', ''], held)}"


def _word(name: str, values: list[float]) -> tuple[str, str]:
    if not name.startswith(("snapshot", "first ls")):
        return "", ""
    return f"< {LIMIT_S * 1000:.0f}", _met(median(values) < LIMIT_S)


def _met(is_met: bool) -> str:
    return "met" if is_met else "MISSED"
