"""`python -m bench scan`: reading end to end, cold, what was written at random and what was written in order.

A log puts blocks where the writer was, not where the reader will be; this is the price of that.
"""

from pathlib import Path
from statistics import median

from bench.fio import FILL, FULL_READ, SCATTERED_FILL, run_job
from bench.report import amount, ratio_of_pairs, save, size_bytes, table
from bench.world import drop_caches, versions, world
from tools.servers import SdsServer


def bench_scan(size: str, rounds: int, directory: Path | None, json_path: Path | None) -> None:
    with world(directory) as place:
        volumes = {name: place.sds_volume(size, name) for name in ("in-order", "at-random")}
        for (name, volume), fill in zip(volumes.items(), (FILL, SCATTERED_FILL), strict=True):
            with volume:
                result = run_job(volume.uri, fill, size_bytes(size))
            print(f"wrote {name}: {amount(result.data_bytes / result.seconds / 1e6)} MB/s")
        samples: dict[str, list[float]] = {name: [] for name in volumes}
        for _ in range(rounds):
            for name, volume in volumes.items():
                samples[name].append(_cold_read(volume, size_bytes(size)))
        found = versions(place.directory)
    ratio = ratio_of_pairs(samples["at-random"], samples["in-order"])
    rows = [[name, amount(median(values))] for name, values in samples.items()]
    print(f"\n{table(['written', 'cold read, MB/s'], [*rows, ['at-random / in-order', f'{ratio:.2f} x']])}")
    save(json_path, {"size": size, "samples_mb_per_s": samples, "ratio": ratio, "versions": found})


def _cold_read(volume: SdsServer, size: int) -> float:
    drop_caches()
    with volume:
        return run_job(volume.uri, FULL_READ, size).value
