"""`python -m bench nbd`: six fio jobs on our server, on qemu-nbd with qcow2 and on nbdkit's file plugin.

  N1  Every side lives on the same file system, is written once from end to end before anything is measured,
      and keeps the defaults its users have: qemu-nbd the page cache and threads, sds lz4 and checksums.
  N2  Interleaved: within a round each job runs on one side after the other, in an order that turns with the
      rounds. Ratios are medians over the rounds of neighbouring samples.
  N3  Warm reads follow one full read of the same side. Cold reads start with the server restarted and the
      kernel's caches dropped, and end where they would read something for the second time.
  N4  What earlier jobs left dirty is written back before each sample.
"""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.fio import FILL, FULL_READ, SIX_JOBS, Job, run_job
from bench.report import amount, ratio_of_pairs, save, size_bytes, table
from bench.world import World, can_drop_caches, drop_caches, settle, versions, world
from tools.sds import Sds, run
from tools.servers import Nbdkit, QemuNbd, Server

OURS = "sds"


@dataclass(frozen=True, slots=True)
class Case:
    """A job and the state of the caches it starts with."""

    job: Job
    cold: bool

    @property
    def name(self) -> str:
        return self.job.name + (" cold" if self.cold else " warm" if self.job.reads else "")


@dataclass(frozen=True, slots=True)
class Plan:
    size: str
    runtime_s: float
    rounds: int
    cases: tuple[Case, ...]

    @property
    def size_bytes(self) -> int:
        return size_bytes(self.size)


Samples = dict[str, dict[str, list[float]]]


def cases(names: list[str] | None, with_cold: bool) -> tuple[Case, ...]:
    """The jobs asked for (all by default) in their order, each read job warm and then cold."""
    jobs = [job for job in SIX_JOBS if names is None or job.name in names]
    wanted = [(job, cold) for job in jobs for cold in (False, True)]
    return tuple(Case(job, cold) for job, cold in wanted if not cold or (job.reads and with_cold))


def sides(place: World, plan: Plan) -> list[Server]:
    """Every server that this machine has, none of them started."""
    found: list[Server] = []
    if Sds(place.directory / "probe").works():
        found.append(place.sds_volume(plan.size))
    else:
        print("sds is left out: its command line does not answer")
    if shutil.which("qemu-nbd"):
        image = place.directory / "peer.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", image, plan.size)
        found.append(QemuNbd(image, "qcow2", place.directory / "qemu.s"))
    if shutil.which("nbdkit"):
        raw = place.directory / "peer.raw"
        with raw.open("wb") as file:
            file.truncate(plan.size_bytes)
        found.append(Nbdkit(raw, place.directory / "nbdkit.s"))
    return found


def sample(server: Server, case: Case, plan: Plan, number: int) -> float:
    """One number for one side."""
    if case.cold:
        server.stop()
        drop_caches()
        server.start()
    else:
        settle()
        if case.job.reads:
            run_job(server.uri, FULL_READ, plan.size_bytes)
    loop = not case.cold
    return run_job(server.uri, case.job, plan.size_bytes, plan.runtime_s, loop, seed=number + 1).value


def measure(servers: list[Server], plan: Plan, say: Callable[[str], None]) -> Samples:
    samples: Samples = {case.name: {server.label: [] for server in servers} for case in plan.cases}
    for server in servers:
        say(f"filling {server.label}")
        run_job(server.uri, FILL, plan.size_bytes)
    for number in range(plan.rounds):
        turned = servers[number % len(servers) :] + servers[: number % len(servers)]
        for case in plan.cases:
            for server in turned:
                samples[case.name][server.label].append(sample(server, case, plan, number))
            last = ", ".join(f"{label} {amount(all_[-1])}" for label, all_ in samples[case.name].items())
            say(f"round {number + 1}/{plan.rounds}  {case.name}: {last}")
    return samples


def summary(samples: Samples, plan: Plan) -> tuple[str, dict[str, Any]]:
    """The table and the same as data: medians per side, ratios of ours to each peer."""
    labels = list(next(iter(samples.values())))
    peers = [label for label in labels if label != OURS] if OURS in labels else []
    rows: list[list[str]] = []
    data: dict[str, Any] = {}
    for case in plan.cases:
        values = samples[case.name]
        medians = {label: median(values[label]) for label in labels}
        ratios = {peer: ratio_of_pairs(values[OURS], values[peer]) for peer in peers}
        rows.append(
            [case.name, case.job.unit, *(amount(medians[label]) for label in labels)]
            + [f"{ratios[peer]:.2f} x" for peer in peers]
        )
        data[case.name] = {"unit": case.job.unit, "median": medians, "ratio": ratios, "samples": values}
    return table(["job", "unit", *labels, *(f"{OURS}/{peer}" for peer in peers)], rows), data


def bench_nbd(plan: Plan, directory: Path | None, json_path: Path | None) -> None:
    with world(directory) as place, ExitStack() as running:
        servers = sides(place, plan)
        for server in servers:
            running.enter_context(server)
        samples = measure(servers, plan, print)
        text, data = summary(samples, plan)
        found = versions(place.directory)
    print(f"\n{text}\n\nmedians of {plan.rounds} rounds, {plan.size} volume")
    print("\n".join(f"{name}: {version}" for name, version in found.items()))
    if not can_drop_caches():
        print("cold reads left out: dropping the caches needs root")
    save(json_path, {"plan": asdict(plan), "versions": found, "jobs": data})
