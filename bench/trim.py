"""`python -m bench trim`: whole-device TRIM costs what the extents cost, not what the size suggests."""

import os
from pathlib import Path

from bench.client import is_hole_everywhere, trim_everything_s, write_scattered
from bench.report import save, size_bytes, table
from bench.world import versions, world

EXTENTS = 1000
LIMIT_S = 1.0


def bench_trim(size: str, rounds: int, directory: Path | None, json_path: Path | None) -> None:
    step = size_bytes(size) // EXTENTS // 4096 * 4096
    offsets = range(0, step * EXTENTS, step)
    samples: dict[str, list[float]] = {"empty": [], f"{EXTENTS} extents": []}
    with world(directory) as place, place.sds_volume(size) as volume:
        for _ in range(rounds):
            samples["empty"].append(trim_everything_s(volume.uri))
            write_scattered(volume.uri, offsets, os.urandom(65536))
            samples[f"{EXTENTS} extents"].append(trim_everything_s(volume.uri))
            assert is_hole_everywhere(volume.uri, offsets), "trimmed blocks still hold data"
        found = versions(place.directory)
    rows = [[name, f"{max(values):.3f}", f"< {LIMIT_S:.0f}"] for name, values in samples.items()]
    print(table([f"TRIM of {size}", "worst, s", "promise"], rows))
    save(json_path, {"size": size, "samples_s": samples, "versions": found})
