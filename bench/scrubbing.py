"""`python -m bench scrub`: how fast a scrub reads when it is alone, and how much it takes from users.

  SC1  Alone: `sds pool scrub --all --rate 0` on a pool that nobody uses, from the start of the program to its end,
       against one reader in the program `cat` of the same files. Both begin with the kernel's caches dropped; without
       root they begin as they are, which is told.
  SC2  Beside users: each job runs once undisturbed and once while scrubs with the default limit run one after another.
       Ratios are medians over the rounds of neighbouring samples.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.fio import FILL, FULL_READ, SIX_JOBS, run_job
from bench.report import amount, ratio_of_pairs, save, size_bytes, table
from bench.world import can_drop_caches, drop_caches, settle, versions, world
from tools.sds import Sds
from tools.servers import SdsServer

ALONE_AIM, BESIDE_AIM = 0.7, 0.8
JOBS = SIX_JOBS[:2]
SCRUB = ("pool", "scrub", "bench", "--all")


@dataclass(frozen=True, slots=True)
class Plan:
    size: str
    runtime_s: float
    rounds: int

    @property
    def size_bytes(self) -> int:
        return size_bytes(self.size)


def files(pool: Path) -> list[Path]:
    return sorted(path for part in ("segments", "packs") for path in (pool / part).rglob("*") if path.is_file())


def timed(command: list[str]) -> float:
    if can_drop_caches():
        drop_caches()
    begin_s = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin_s


def alone(sds: Sds, pool: Path, number: int) -> dict[str, float]:
    """MB/s of the scrub and of cat."""
    found = files(pool)
    total = sum(path.stat().st_size for path in found)
    sides = {"scrub": sds.command(*SCRUB, "--rate", "0"), "cat": ["cat", *map(str, found)]}
    order = ("scrub", "cat") if number % 2 else ("cat", "scrub")
    return {name: total / timed(sides[name]) / 1e6 for name in order}


@contextmanager
def scrubbing(sds: Sds) -> Iterator[None]:
    """Scrubs with the default limit, one after another, until the block ends."""
    command = f"while {' '.join(sds.command(*SCRUB))}; do :; done"
    child = subprocess.Popen(
        ["sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0
    )
    try:
        yield
        if child.poll() is not None:
            raise RuntimeError(f"the scrub ended with exit {child.returncode}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGINT)
            os.killpg(child.pid, signal.SIGTERM)
        child.wait()


Samples = dict[str, dict[str, list[float]]]


def measure(place: Path, plan: Plan, say: Callable[[str], None]) -> Samples:
    sds, pool = Sds(place / "home"), place / "pool"
    pool.mkdir()
    sds("pool", "create", "bench", pool)
    sds("volume", "create", "bench/vol", plan.size)
    server = SdsServer(sds, "bench/vol", place / "vol.s")
    with server:
        run_job(server.uri, FILL, plan.size_bytes)
    samples: Samples = {"scrub": {"scrub": [], "cat": []}}
    samples |= {job.name: {"alone": [], "beside": []} for job in JOBS}
    for number in range(plan.rounds):
        for name, value in alone(sds, pool, number).items():
            samples["scrub"][name].append(value)
        with server:
            for job in JOBS:
                for side in ("alone", "beside") if number % 2 else ("beside", "alone"):
                    settle()
                    run_job(server.uri, FULL_READ, plan.size_bytes)
                    with scrubbing(sds) if side == "beside" else contextlib.nullcontext():
                        value = run_job(server.uri, job, plan.size_bytes, plan.runtime_s, seed=number + 1).value
                    samples[job.name][side].append(value)
        say(f"round {number + 1}/{plan.rounds}: {amount(samples['scrub']['scrub'][-1])} MB/s alone")
    return samples


def summary(samples: Samples) -> tuple[str, dict[str, Any]]:
    cases = [("scrub", "MB/s", "scrub", "cat", ALONE_AIM)]
    cases += [(job.name, job.unit, "beside", "alone", BESIDE_AIM) for job in JOBS]
    rows, data = [], {}
    for name, unit, ours, ruler, aim in cases:
        values = samples[name]
        share = ratio_of_pairs(values[ours], values[ruler])
        medians = [f"{ours} {amount(median(values[ours]))}", f"{ruler} {amount(median(values[ruler]))}"]
        rows.append([name, unit, *medians, f"{share:.2f} x", f">= {aim}", "met" if share >= aim else "MISSED"])
        data[name] = {"unit": unit, "share": share, "aim": aim, "met": share >= aim, "samples": values}
    return table(["job", "unit", "with scrub", "without", "share", "aim", ""], rows), data


def bench_scrub(plan: Plan, directory: Path | None, json_path: Path | None) -> None:
    with world(directory) as place:
        text, data = summary(measure(place.directory, plan, print))
        about = versions(place.directory)
    print(f"\n{text}\n\nmedians of {plan.rounds} rounds, {plan.size} volume; 4k: beside a scrub with its default limit")
    print("\n".join(f"{name}: {version}" for name, version in about.items()))
    if not can_drop_caches():
        print("without root the caches stay: the scrub alone and cat read what may be in memory")
    kept = {"size": plan.size, "runtime_s": plan.runtime_s, "rounds": plan.rounds}
    save(json_path, {"plan": kept, "versions": about, "jobs": data})
