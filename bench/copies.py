"""`python -m bench copies`: what two copies cost: the same jobs on a pool with copies=1 and on one with copies=2.

Both pools have two directories on the same disk, so that two copies write twice to one disk: the rate of large writes
can be half of that of one copy at best. Within a round each job runs on one and then on the other, in an order that
turns with the rounds; volumes are written once from end to end before; ratios are medians over the rounds of
neighbouring samples.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.fio import FILL, FULL_READ, SIX_JOBS, Job, run_job
from bench.report import amount, ratio_of_pairs, save, size_bytes, table
from bench.world import settle, versions, world
from tools.sds import Sds
from tools.servers import SdsServer

JOBS = SIX_JOBS[:5]
"""All but the large reads."""
SMALL_AIM, LARGE_AIM = 0.8, 0.45
COPIES = (1, 2)
Samples = dict[str, dict[int, list[float]]]


@dataclass(frozen=True, slots=True)
class Plan:
    size: str
    runtime_s: float
    rounds: int

    @property
    def size_bytes(self) -> int:
        return size_bytes(self.size)


def aim(job: Job) -> float:
    return LARGE_AIM if job.unit == "MB/s" else SMALL_AIM


def server(directory: Path, copies: int, size: str) -> SdsServer:
    sds = Sds(directory / f"home-{copies}")
    places = [directory / f"{copies}-{side}" for side in ("a", "b")]
    for place in places:
        place.mkdir()
    sds("pool", "create", "bench", *places, "--copies", str(copies))
    sds("volume", "create", "bench/vol", size)
    return SdsServer(sds, "bench/vol", directory / f"{copies}.s")


def measure(servers: dict[int, SdsServer], plan: Plan, say: Callable[[str], None]) -> Samples:
    samples: Samples = {job.name: {copies: [] for copies in servers} for job in JOBS}
    for one in servers.values():
        run_job(one.uri, FILL, plan.size_bytes)
    for number in range(plan.rounds):
        sides = list(servers.items())
        sides = sides[number % 2 :] + sides[: number % 2]
        for job in JOBS:
            for copies, one in sides:
                settle()
                if job.reads:
                    run_job(one.uri, FULL_READ, plan.size_bytes)
                value = run_job(one.uri, job, plan.size_bytes, plan.runtime_s, seed=number + 1).value
                samples[job.name][copies].append(value)
            last = ", ".join(f"copies={copies} {amount(all_[-1])}" for copies, all_ in samples[job.name].items())
            say(f"round {number + 1}/{plan.rounds}  {job.name}: {last}")
    return samples


def summary(samples: Samples) -> tuple[str, dict[str, Any]]:
    rows, data = [], {}
    for job in JOBS:
        values = samples[job.name]
        medians = {copies: median(values[copies]) for copies in COPIES}
        share = ratio_of_pairs(values[2], values[1])
        met = share >= aim(job)
        cells = [amount(medians[copies]) for copies in COPIES]
        rows.append([job.name, job.unit, *cells, f"{share:.2f} x", f">= {aim(job)}", "met" if met else "MISSED"])
        named = {str(copies): values[copies] for copies in COPIES}
        data[job.name] = {"unit": job.unit, "share": share, "aim": aim(job), "met": met, "samples": named}
    return table(["job", "unit", "copies=1", "copies=2", "share", "aim", ""], rows), data


def bench_copies(plan: Plan, directory: Path | None, json_path: Path | None) -> None:
    with world(directory) as place, ExitStack() as running:
        servers = {copies: server(place.directory, copies, plan.size) for copies in COPIES}
        for one in servers.values():
            running.enter_context(one)
        text, data = summary(measure(servers, plan, print))
        about = versions(place.directory)
    print(f"\n{text}\n\nmedians of {plan.rounds} rounds, {plan.size} volume, two directories on one disk")
    print("\n".join(f"{name}: {version}" for name, version in about.items()))
    kept = {"size": plan.size, "runtime_s": plan.runtime_s, "rounds": plan.rounds}
    save(json_path, {"plan": kept, "versions": about, "jobs": data})
