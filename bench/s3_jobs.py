"""What `python -m bench s3` does on each side, and the number that comes out. See bench/s3.py for the rules."""

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.fio import FILL, FULL_READ, MIB, Job, run_job
from bench.fuse_jobs import FILES, SMALL, Sizes, making, using, write_1m_fsync
from bench.mounts import POOL, Mount
from bench.s3_peers import Peer, plain_s
from bench.worker import ask, the_backend, wait_uploaded
from bench.world import can_drop_caches, drop_caches, settle
from tools.s3_running import S3Server
from tools.sds import Sds, run
from tools.servers import SdsServer

OBJECT_BYTES = 32 << 20
PARALLELISM = 16
"""The default of our object stores."""
BUCKET = "bench"
WARM_JOBS = (
    Job("randread-4k-qd32 warm", "randread", 4096, 32),
    Job("read-1m-qd4 warm", "read", MIB, 4),
    Job("randwrite-4k-qd32", "randwrite", 4096, 32),
)
FS_JOBS = {"fs write-1m-fsync": write_1m_fsync, "fs create-1k": making("create-1k", SMALL), "fs read-1k warm": None}
DEPTHS = (1, 16)
OURS, PLAIN, DISK = "sds", "boto3", "sds on disk"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run takes place, and how much it does."""

    directory: Path
    server: S3Server
    size_bytes: int
    runtime_s: float
    files: int
    parallelism: int = PARALLELISM

    @property
    def objects(self) -> int:
        return max(1, self.size_bytes // OBJECT_BYTES)


@dataclass(slots=True)
class Notes:
    """Numbers for the job names, by side, a list with one for each round."""

    units: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, job: str, unit: str, side: str, value: float) -> None:
        self.units[job] = unit
        self.values.setdefault(job, {}).setdefault(side, []).append(value)


def pool_on(place: Path, name: str, url: str | Path) -> Sds:
    sds = Sds(place / f"{name}-home")
    sds("pool", "create", POOL, url)
    return sds


def mount_of(sds: Sds, directory: Path) -> Mount:
    sds("fs", "create", f"{POOL}/fs")
    return Mount(directory.name, directory, sds.command("mount", f"{POOL}/fs", directory, "-f"), f"mounted {POOL}/fs")


def plain(place: Place, notes: Notes, verb: str) -> None:
    seconds = plain_s(verb, place.server, BUCKET, place.objects, OBJECT_BYTES, place.parallelism)
    job = "bulk write" if verb == "put" else "cold read"
    notes.add(job, "MB/s", PLAIN, place.objects * OBJECT_BYTES / seconds / 1e6)


def bulk_write(place: Place, notes: Notes, volume: SdsServer) -> None:
    """Into a new volume, until everything is in the store."""
    settle()
    before = the_backend(ask(volume.sds, "stats"))
    begin_s = time.perf_counter()
    run_job(volume.uri, FILL, place.size_bytes)
    after = the_backend(wait_uploaded(volume.sds))
    notes.add("bulk write", "MB/s", OURS, place.size_bytes / (time.perf_counter() - begin_s) / 1e6)
    requests, written = _difference(before, after)
    notes.add("requests per GiB, bulk write", "", OURS, requests * (1 << 30) / place.size_bytes)
    notes.add("bytes written / user, bulk write", "", OURS, written / place.size_bytes)


def _difference(before: dict[str, Any], after: dict[str, Any]) -> tuple[int, int]:
    """All requests, and the bytes of puts."""
    requests = sum(after["requests"].values()) - sum(before["requests"].values())
    return requests, after["bytes"]["put"] - before["bytes"]["put"]


def cold_read(place: Place, notes: Notes, volume: SdsServer) -> None:
    """Nothing of the volume's data is on this machine."""
    volume.stop()
    for cache in (volume.sds.home / "local").glob("*/cache"):
        shutil.rmtree(cache)
    if can_drop_caches():
        drop_caches()
    volume.start()
    result = run_job(volume.uri, FULL_READ, place.size_bytes, loop=False)
    notes.add("cold read", "MB/s", OURS, result.value)


def warm(place: Place, notes: Notes, volumes: dict[str, SdsServer], number: int) -> None:
    """The same volume on a directory beside it."""
    sides = list(volumes.items())
    sides = sides[number % 2 :] + sides[: number % 2]
    for _, volume in sides:
        run_job(volume.uri, FULL_READ, place.size_bytes)
    for job in WARM_JOBS:
        for side, volume in sides:
            settle()
            result = run_job(volume.uri, job, place.size_bytes, place.runtime_s, seed=number + 1)
            notes.add(job.name, job.unit, side, result.value)


def flush_each(place: Place, notes: Notes, volume: SdsServer, number: int) -> None:
    """flush=backend: every 4k write is flushed, and so in the store before the next."""
    volume.sds("set", volume.dataset, "flush=backend")
    for depth in DEPTHS:
        job = Job(f"flush=backend, 4k QD{depth}", "randwrite", 4096, depth)
        before = the_backend(ask(volume.sds, "stats"))
        result = run_job(volume.uri, job, place.size_bytes, place.runtime_s, seed=number + 1, options=["--fsync=1"])
        requests, written = _difference(before, the_backend(ask(volume.sds, "stats")))
        notes.add(job.name, "flushes/s", OURS, result.value)
        notes.add(f"{job.name}: requests per flush", "", OURS, requests / result.operations)
        notes.add(f"{job.name}: bytes written / user", "", OURS, written / result.data_bytes)
    volume.sds("set", volume.dataset, "flush=journal")


def filesystems(place: Place, notes: Notes, mounts: dict[str, Mount], number: int) -> None:
    sizes = Sizes(place.runtime_s, place.size_bytes // 4, 0, place.files, place.directory / "none", 0)
    sides = list(mounts.items())
    sides = sides[number % 2 :] + sides[: number % 2]
    for name, measure in FS_JOBS.items():
        for side, mount in sides:
            settle()
            value = (measure or using("read-1k", SMALL))(mount.directory, sizes)
            notes.add(name, "MB/s" if "1m" in name else "/s", side, value)
    for mount in mounts.values():
        for made in (FILES, SMALL):
            shutil.rmtree(mount.directory / made, ignore_errors=True)


def peer_jobs(place: Place, notes: Notes, peer: Peer) -> None:
    """The same data through a mounted file."""
    before = peer.puts()
    begin_s = time.perf_counter()
    on_file(place, peer, rw="write", bs=MIB, end_fsync=1, buffer_compress_percentage=0, refill_buffers=1)
    puts = peer.puts()
    peer.sync_all()
    notes.add("bulk write", "MB/s", peer.label, place.size_bytes / (time.perf_counter() - begin_s) / 1e6)
    if before is not None and puts is not None:
        per_gib = (puts - before) * (1 << 30) / place.size_bytes
        notes.add("requests per GiB, bulk write", "", peer.label, per_gib)
    peer.restart_cold()
    if can_drop_caches():
        drop_caches()
    notes.add("cold read", "MB/s", peer.label, on_file(place, peer, rw="read", bs=MIB))
    random: dict[str, str | int] = {"bs": 4096, "ioengine": "libaio", "iodepth": 32, "runtime": int(place.runtime_s)}
    for job in WARM_JOBS[::2]:
        value = on_file(place, peer, rw=job.pattern, time_based=1, **random)
        notes.add(job.name, job.unit, peer.label, value)


def on_file(place: Place, peer: Peer, **options: str | int) -> float:
    words = {"filename": peer.file, "size": place.size_bytes, "ioengine": "psync", **options}
    listed = [f"--{name}={value}" for name, value in words.items()]
    printed = run("fio", "--output-format=json", "--name=job", *listed, timeout_s=600)
    side = json.loads(printed[printed.index("{") :])["jobs"][0]["read" if "read" in str(words["rw"]) else "write"]
    seconds = max(side["runtime"], 1) / 1000
    return float(side["io_bytes"] / 1e6 / seconds if words["bs"] == MIB else side["total_ios"] / seconds)
