"""`python -m bench snapshot`: snapshots and clones take the same few milliseconds at any size, idle or busy.

Measured inside the worker, from the request on its control socket to the answer; the whole command, which also
starts an interpreter, is told beside it.
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench.client import write_scattered
from bench.report import save, size_bytes, table
from bench.world import versions, world
from tools.servers import SdsServer

EXTENTS = 2000
SIZES = ("1G", "64G")


def bench_snapshot(rounds: int, directory: Path | None, json_path: Path | None) -> None:
    samples: dict[str, list[float]] = {}
    with world(directory) as place:
        for size in SIZES:
            with place.sds_volume(size, f"vol-{size.lower()}") as volume:
                step = size_bytes(size) // EXTENTS // 4096 * 4096
                write_scattered(volume.uri, range(0, step * EXTENTS, step), bytes(range(256)) * 256)
                _sample(volume, f"{size} idle", rounds, samples)
                with load(volume):
                    _sample(volume, f"{size} busy", rounds, samples)
        found = versions(place.directory)
    rows = [
        [name, f"{median(values) * 1000:.1f}", f"{max(values) * 1000:.1f}", f"{min(values) * 1000:.1f}"]
        for name, values in samples.items()
    ]
    print(table(["", "median, ms", "worst, ms", "best, ms"], rows))
    save(json_path, {"samples_s": samples, "versions": found})


def _sample(volume: SdsServer, name: str, rounds: int, samples: dict[str, list[float]]) -> None:
    tag = name.lower().replace(" ", "-")
    for kind in ("whole command", "snapshot", "clone"):
        samples[f"{kind}, {name}"] = []
    for number in range(rounds):
        snapshot = f"{volume.dataset}@{tag}-{number}"
        begin_s = time.monotonic()
        made = volume.sds.json("snapshot", snapshot)
        samples[f"whole command, {name}"].append(time.monotonic() - begin_s)
        samples[f"snapshot, {name}"].append(made["elapsed_ms"] / 1000)
        cloned = volume.sds.json("clone", snapshot, f"bench/clone-{tag}-{number}")
        samples[f"clone, {name}"].append(cloned["elapsed_ms"] / 1000)


@contextmanager
def load(volume: SdsServer) -> Iterator[None]:
    """4k random writes from another process for as long as the context lasts."""
    fio = subprocess.Popen(
        [
            "fio", "--name=load", "--ioengine=nbd", f"--uri={volume.uri}", "--rw=randwrite", "--bs=4096",
            "--iodepth=8", "--size=1G", "--time_based", "--runtime=3600",
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        time.sleep(1.0)  # the load has to be there before it can disturb
        yield
        assert fio.poll() is None, "the load ended early"
    finally:
        fio.terminate()
        fio.wait()
