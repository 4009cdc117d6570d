"""`python -m bench open`: how long a volume is away after kill -9, and what an idle open one costs in memory.

Between the last checkpoint (a snapshot forces one) and the kill lie `log` bytes of 4k random writes. The time
runs from the start of the program to the first block read: interpreter, takeover, replay, handshake.
"""

import time
from pathlib import Path
from statistics import median

from bench.client import first_read_s
from bench.fio import FILL, SCATTERED_FILL, run_job
from bench.process import memory_mib
from bench.report import save, size_bytes, table
from bench.world import versions, world

IDLE_S = 15.0


def bench_open(size: str, log: str, rounds: int, directory: Path | None, json_path: Path | None) -> None:
    after_kill_s: list[float] = []
    after_close_s: list[float] = []
    with world(directory) as place, place.sds_volume(size) as volume:
        run_job(volume.uri, FILL, size_bytes(size))
        for number in range(1, rounds + 1):
            volume.sds("snapshot", f"{volume.dataset}@round-{number}")
            log_bytes = size_bytes(log)
            run_job(volume.uri, SCATTERED_FILL, size_bytes(size), seed=number, io_bytes=log_bytes)
            volume.kill()
            after_kill_s.append(volume.start() + first_read_s(volume.uri))
            volume.stop()
            after_close_s.append(volume.start() + first_read_s(volume.uri))
        time.sleep(IDLE_S)
        memory = memory_mib(volume.pid)
        found = versions(place.directory)
    rows = [
        [f"open after kill -9 with {log} of log, s", *_median_and_worst(after_kill_s)],
        ["open after a clean close, s", *_median_and_worst(after_close_s)],
        *([f"memory when idle, {kind}, MiB", f"{value:.0f}", ""] for kind, value in memory.items()),
    ]
    print(table([f"{size} volume", "median", "worst"], rows))
    samples = {"after_kill_s": after_kill_s, "after_close_s": after_close_s, "idle_memory_mib": memory}
    save(json_path, {"size": size, "log": log, **samples, "versions": found})


def _median_and_worst(seconds: list[float]) -> tuple[str, str]:
    return f"{median(seconds):.2f}", f"{max(seconds):.2f}"
