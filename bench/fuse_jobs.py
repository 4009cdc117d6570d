"""The jobs of `python -m bench fuse`: what is done in a fresh directory, and the one number that comes out.

  J1  A job may need what another one made (files to stat, a tree to list). It takes what is there, or makes it
      first, outside of its time.
  J2  Data are incompressible, sources in the tarball compress like text.
  J3  "cold" means that the kernel holds neither pages nor names of the directory; the filesystem's own memory
      is as it is. Before each sample the disk is given time to settle.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.world import DROP_CACHES, settle
from tools.sds import run

MIB = 1 << 20
DRIVER = Path(__file__).with_name("driver.py")
FORGET_S = 0.2
DATA, FILES, SMALL, TREE = "data", "files", "small", "tree"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done in one sample."""

    runtime_s: float
    data_bytes: int
    random_bytes: int
    files: int
    tarball: Path
    tree_entries: int


@dataclass(frozen=True, slots=True)
class Job:
    """`target` is the share of `null` that is promised, `peer` the share of S3QL. Where a job waits for the disk, which
    `null` does not, the same share of what a plain directory does will do."""

    name: str
    unit: str
    run: Callable[[Path, Sizes], float]
    target: float
    peer: float = 1.0
    waits_for_disk: bool = False
    needs_root: bool = False
    on_tmpfs: bool = True


def fio(directory: Path, sizes: Sizes, **options: str | int) -> float:
    """One fio job on one file; MB/s for large blocks, operations per second for small ones."""
    words = {"ioengine": "psync", "runtime": sizes.runtime_s, "size": sizes.data_bytes, "randseed": 1, **options}
    listed = [f"--{name}={value}" for name, value in words.items()]
    printed = run("fio", "--output-format=json", "--name=job", f"--directory={directory}", *listed, timeout_s=3600)
    result = json.loads(printed[printed.index("{") :])["jobs"][0]
    side = result["read" if str(words["rw"]).endswith("read") else "write"]
    if not side["runtime"]:
        raise RuntimeError(f"fio did nothing in {directory}")
    amount = side["io_bytes"] / 1e6 if words["bs"] == MIB else side["total_ios"]
    return float(amount / (side["runtime"] / 1000))


def write_1m(directory: Path, sizes: Sizes, end_fsync: int = 0) -> float:
    """A new file each time: pages and extents are new, too."""
    value = fio(directory, sizes, rw="write", bs=MIB, filename="written", end_fsync=end_fsync)
    (directory / "written").unlink()
    return value


def write_1m_fsync(directory: Path, sizes: Sizes) -> float:
    return write_1m(directory, sizes, end_fsync=1)


def data_file(directory: Path, sizes: Sizes) -> str:
    if not (directory / DATA).exists():
        fio(directory, sizes, rw="write", bs=MIB, filename=DATA, end_fsync=1, runtime=600)
        settle()
    return DATA


def read_1m_direct(directory: Path, sizes: Sizes) -> float:
    name = data_file(directory, sizes)
    return fio(directory, sizes, rw="read", bs=MIB, filename=name, direct=1, time_based=1)


def read_1m_cold(directory: Path, sizes: Sizes) -> float:
    name = data_file(directory, sizes)
    drop(3)
    return fio(directory, sizes, rw="read", bs=MIB, filename=name, invalidate=0)


def random_4k(rw: str, depth: int) -> Callable[[Path, Sizes], float]:
    engine = "psync" if depth == 1 else "libaio"

    def measure(directory: Path, sizes: Sizes) -> float:
        where: dict[str, str | int] = {"filename": data_file(directory, sizes), "size": sizes.random_bytes}
        how: dict[str, str | int] = {"rw": rw, "bs": 4096, "ioengine": engine, "iodepth": depth}
        return fio(directory, sizes, **where, **how, direct=1, time_based=1, norandommap=1)

    return measure


def drive(job: str, directory: Path, sizes: Sizes) -> float:
    limits = (str(sizes.files), str(sizes.runtime_s))
    printed = json.loads(run(sys.executable, "-I", "-S", DRIVER, job, directory, *limits, timeout_s=600))
    return float(printed["operations"] / printed["seconds"])


def making(job: str, name: str) -> Callable[[Path, Sizes], float]:
    """A job that makes files in a directory of its own, new each time."""

    def measure(directory: Path, sizes: Sizes) -> float:
        place = directory / name
        if place.exists():
            shutil.rmtree(place)
        place.mkdir()
        return drive(job, place, sizes)

    return measure


def made(directory: Path, sizes: Sizes, name: str = FILES, job: str = "create") -> Path:
    """The files that an earlier job made, completed if it ran out of time."""
    place = directory / name
    place.mkdir(exist_ok=True)
    if sum(1 for _ in place.iterdir()) < sizes.files:
        shutil.rmtree(place)
        place.mkdir()
        run(sys.executable, "-I", "-S", DRIVER, job, place, str(sizes.files), "600", timeout_s=600)
    return place


def using(job: str, name: str, level: int = 0) -> Callable[[Path, Sizes], float]:
    """A job on files that are there already; `level` is what the kernel forgets before it."""

    def measure(directory: Path, sizes: Sizes) -> float:
        place = made(directory, sizes, name, "create-1k" if name == SMALL else "create")
        if level:
            drop(level)
        return drive(job, place, sizes)

    return measure


def entries_per_s(sizes: Sizes, *command: str | Path) -> float:
    begin_s = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return sizes.tree_entries / (time.perf_counter() - begin_s)


def untar(directory: Path, sizes: Sizes) -> float:
    place = directory / TREE
    if place.exists():
        shutil.rmtree(place)
    place.mkdir()
    return entries_per_s(sizes, "tar", "-xf", sizes.tarball, "-C", place)


def tree(directory: Path, sizes: Sizes) -> Path:
    if not (directory / TREE).exists():
        untar(directory, sizes)
    return directory / TREE


def list_tree(directory: Path, sizes: Sizes) -> float:
    return entries_per_s(sizes, "ls", "-lR", tree(directory, sizes))


def list_tree_cold(directory: Path, sizes: Sizes) -> float:
    place = tree(directory, sizes)
    drop(2)
    return entries_per_s(sizes, "ls", "-lR", place)


def copy_tree(directory: Path, sizes: Sizes) -> float:
    place = tree(directory, sizes)
    copied = directory / "copied"
    value = entries_per_s(sizes, "cp", "-r", place, copied)
    shutil.rmtree(copied)
    return value


def remove_tree(directory: Path, sizes: Sizes) -> float:
    return entries_per_s(sizes, "rm", "-r", tree(directory, sizes))


def drop(level: int) -> None:
    """Let the kernel forget pages (1), names and inodes (2) or both (3) that are clean."""
    settle()
    DROP_CACHES.write_text(str(level))
    time.sleep(FORGET_S)  # a filesystem is told about forgotten inodes afterwards


DATA_TARGET, METADATA_TARGET, CLEARLY = 0.7, 0.6, 1.5
JOBS = (
    Job("write-1m", "MB/s", write_1m, DATA_TARGET, on_tmpfs=False),
    Job("write-1m-fsync", "MB/s", write_1m_fsync, DATA_TARGET, waits_for_disk=True, on_tmpfs=False),
    Job("read-1m-direct", "MB/s", read_1m_direct, DATA_TARGET, on_tmpfs=False),
    Job("read-1m-cold", "MB/s", read_1m_cold, DATA_TARGET, waits_for_disk=True, needs_root=True, on_tmpfs=False),
    Job("randread-4k-qd1", "IOPS", random_4k("randread", 1), DATA_TARGET, on_tmpfs=False),
    Job("randwrite-4k-qd1", "IOPS", random_4k("randwrite", 1), DATA_TARGET, CLEARLY, on_tmpfs=False),
    Job("randread-4k-qd16", "IOPS", random_4k("randread", 16), DATA_TARGET, on_tmpfs=False),
    Job("randwrite-4k-qd16", "IOPS", random_4k("randwrite", 16), DATA_TARGET, CLEARLY, on_tmpfs=False),
    Job("create", "/s", making("create", FILES), METADATA_TARGET, CLEARLY),
    Job("stat-warm", "/s", using("stat-again", FILES), METADATA_TARGET),
    Job("stat-cold", "/s", using("stat", FILES, 2), METADATA_TARGET, needs_root=True),
    Job("unlink", "/s", using("unlink", FILES), METADATA_TARGET, CLEARLY),
    Job("create-1k", "/s", making("create-1k", SMALL), METADATA_TARGET, CLEARLY),
    Job("read-1k-cold", "/s", using("read-1k", SMALL, 3), METADATA_TARGET, waits_for_disk=True, needs_root=True),
    Job("create-fsync", "/s", making("create-fsync", "synced"), METADATA_TARGET, waits_for_disk=True),
    Job("untar", "/s", untar, METADATA_TARGET),
    Job("ls-lR", "/s", list_tree, METADATA_TARGET),
    Job("ls-lR-cold", "/s", list_tree_cold, METADATA_TARGET, needs_root=True),
    Job("cp-r", "/s", copy_tree, METADATA_TARGET),
    Job("rm-r", "/s", remove_tree, METADATA_TARGET),
)
