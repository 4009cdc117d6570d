"""The place a benchmark runs in: a directory on a disk, caches, a pool, the versions of the programs."""

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.sds import Sds
from tools.servers import SdsServer

DROP_CACHES = Path("/proc/sys/vm/drop_caches")
MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")


@dataclass(frozen=True, slots=True)
class World:
    """A fresh directory for everything that is measured; sockets live in it too, so its name is short."""

    directory: Path

    def sds_volume(self, size: str, name: str = "vol") -> SdsServer:
        """A server, not yet started, of a new volume; the pool is made with the first one."""
        sds = Sds(self.directory / "home")
        backend = self.directory / "pool"
        if not backend.exists():
            backend.mkdir()
            sds("pool", "create", "bench", backend)
        sds("volume", "create", f"bench/{name}", size)
        return SdsServer(sds, f"bench/{name}", self.directory / f"{name}.s")


@contextmanager
def world(parent: Path | None) -> Iterator[World]:
    """A directory under `parent` (default: the current one, if it is on a disk), removed at the end."""
    parent = parent or Path.cwd()
    if file_system(parent) in MEMORY_FILE_SYSTEMS:
        raise SystemExit(f"bench: {parent} is in memory; give a directory on a disk with --directory")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=parent) as name:
        yield World(Path(name))


def file_system(path: Path) -> str:
    """The type of the file system a path is on, by the longest mount point above it."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, mount_kind, *_ = line.split(" ")
        if path.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, mount_kind
    return kind


def settle() -> None:
    """Write back what earlier jobs left dirty, so that nobody pays for somebody else's writes."""
    os.sync()


def can_drop_caches() -> bool:
    return os.access(DROP_CACHES, os.W_OK)


def drop_caches() -> None:
    """Servers must be stopped before: what they hold in their own memory is not dropped."""
    os.sync()
    DROP_CACHES.write_text("3")


def versions(directory: Path) -> dict[str, str]:
    """What was measured, on what."""
    programs = [name for name in ("fio", "qemu-nbd", "nbdkit") if shutil.which(name)]
    first_lines = {name: _first_line(name, "--version") for name in programs}
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return first_lines | {
        "sds": _first_line("git", "rev-parse", "--short", "HEAD") or "unknown",
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpu": f"{os.cpu_count()} x {cpus[0].split(':')[1].strip() if cpus else platform.machine()}",
        "file system": file_system(directory),
    }


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]
