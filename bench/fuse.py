"""`python -m bench fuse`: a mounted filesystem of ours beside the ceiling of pyfuse3, its peers and the disk.

  F1  Every filesystem is mounted for the whole run and stores on the same disk; `null` stores in memory. Within a
      round each job runs on one after the other, in an order that turns with the rounds, in directories that are
      new with each round. Ratios are medians over the rounds of neighbouring samples.
  F2  `tmpfs` shows how fast the programs that make the load are by themselves: what a job reaches there is the
      ceiling of the measurement. Nothing is subtracted from anything.
  F3  A target is met by the median. Where S3QL is not installed, it is compared with what was once measured on
      two cores, and marked: such a comparison is between different runs.
  F4  A job that fails on one side is reported, has no number there ("nan") and does not end the run. If it fails
      on ours, its target is missed.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from statistics import median
from typing import Any

from bench.fuse_jobs import JOBS, MIB, Job, Sizes
from bench.mounts import MountFailed, Target, null_mount, passing_mount, s3ql_mount, sds_mount
from bench.report import amount, ratio_of_pairs, save, size_bytes, table
from bench.tree import write_tarball
from bench.world import World, can_drop_caches, settle, versions, world
from tools.sds import CommandFailed

OURS, CEILING, DISK, PEER, PROGRAMS = "sds", "null", "dir", "s3ql", "tmpfs"
DEFAULT = (OURS, CEILING, PEER, "mergerfs", "bindfs", DISK, PROGRAMS)
MEMORY = Path("/dev/shm")
# S3QL 6.3 without compression on two cores, in an earlier run.
RECORDED = {
    "write-1m": 870.0, "read-1m-direct": 3200.0, "randread-4k-qd1": 12_000.0, "randwrite-4k-qd1": 6_200.0,
    "create": 1_450.0, "unlink": 2_400.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    jobs: tuple[Job, ...]
    rounds: int
    runtime_s: float
    size: str
    files: int
    tree_files: int
    targets: tuple[str, ...]
    s3ql_programs: Path | None


Samples = dict[str, dict[str, list[float]]]


def jobs_named(names: list[str] | None, with_root: bool) -> tuple[Job, ...]:
    known = {job.name: job for job in JOBS}
    unknown = sorted(set(names or ()) - set(known))
    if unknown:
        raise SystemExit(f"bench: no job is called {', '.join(unknown)}; there are: {', '.join(known)}")
    return tuple(job for job in JOBS if (not names or job.name in names) and (with_root or not job.needs_root))


def target(label: str, place: Path, plan: Plan) -> Target | None:
    """The target of that name, not yet started; None if this machine does not have it."""
    match label.partition(":")[0]:
        case "null":
            return null_mount(label, place, 2 * size_bytes(plan.size))
        case "sds":
            try:
                return sds_mount(label, place)
            except CommandFailed as error:
                raise MountFailed(str(error)) from None
        case "s3ql":
            return s3ql_mount(label, place, plan.s3ql_programs)
        case "mergerfs" | "bindfs":
            return passing_mount(label, place)
        case "dir":
            return Target(label, place / "dir")
        case "tmpfs":
            return Target(label, Path(tempfile.mkdtemp(prefix="bench-", dir=MEMORY)))
    raise SystemExit(f"bench: nothing is called {label}; there are: {', '.join(DEFAULT)}")


def started(place: World, plan: Plan, running: ExitStack) -> list[Target]:
    found = []
    for label in plan.targets:
        try:
            one = target(label, place.directory, plan)
            if one is None:
                print(f"{label} is left out: not installed")
                continue
            one.start()
        except MountFailed as error:
            print(f"{label} is left out: {error}")
            continue
        running.callback(one.stop)
        found.append(one)
    return found


def measure(targets: list[Target], plan: Plan, sizes: Sizes, say: Callable[[str], None]) -> Samples:
    samples: Samples = {job.name: {} for job in plan.jobs}
    for number in range(plan.rounds):
        turned = targets[number % len(targets) :] + targets[: number % len(targets)]
        for one in targets:
            (one.directory / f"round-{number}").mkdir()
        for job in plan.jobs:
            for one in turned:
                if one.label == PROGRAMS and not job.on_tmpfs:
                    continue
                settle()
                try:
                    value = job.run(one.directory / f"round-{number}", sizes)
                except (CommandFailed, subprocess.CalledProcessError, OSError) as error:
                    say(f"{job.name} failed on {one.label}: {str(error).splitlines()[-1][-200:]}")
                    value = nan
                samples[job.name].setdefault(one.label, []).append(value)
            last = ", ".join(f"{label} {amount(all_[-1])}" for label, all_ in samples[job.name].items())
            say(f"round {number + 1}/{plan.rounds}  {job.name}: {last}")
        for one in targets:
            shutil.rmtree(one.directory / f"round-{number}")
    return samples


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one job has to reach, and whether it does. `shares` are ours / theirs."""

    shares: dict[str, float]
    wanted: str
    met: bool | None

    @property
    def word(self) -> str:
        return {True: "met", False: "MISSED", None: "-"}[self.met]


def verdict(job: Job, values: dict[str, list[float]]) -> Verdict:
    if OURS not in values:
        return Verdict({}, "", None)
    if any(map(isnan, values[OURS])):
        return Verdict({}, "to work", False)
    others = {name: theirs for name, theirs in values.items() if name != OURS and not any(map(isnan, theirs))}
    shares = {name: ratio_of_pairs(values[OURS], theirs) for name, theirs in others.items()}
    if PEER not in shares and job.name in RECORDED:
        shares[f"{PEER}*"] = median(values[OURS]) / RECORDED[job.name]
    wanted, met = [], []
    for names, limit in limits(job):
        known = [name for name in names if name in shares]
        if known:
            wanted.append(f"{' or '.join(known)} {limit:g}")
            met.append(any(shares[name] >= limit for name in known))
    return Verdict(shares, ", ".join(wanted), all(met) if met else None)


def limits(job: Job) -> tuple[tuple[tuple[str, ...], float], ...]:
    """Each is to be reached against one of the names."""
    ceilings = (CEILING, DISK) if job.waits_for_disk else (CEILING,)
    return (ceilings, job.target), ((PEER,), job.peer), ((f"{PEER}*",), job.peer)


def summary(samples: Samples, plan: Plan) -> tuple[str, dict[str, Any]]:
    """The table and the same as data: medians, ratios of ours to the others, targets."""
    verdicts = {job.name: verdict(job, samples[job.name]) for job in plan.jobs}
    labels = list(dict.fromkeys(label for values in samples.values() for label in values))
    others = list(dict.fromkeys(name for one in verdicts.values() for name in one.shares if name != PROGRAMS))
    rows, data = [], {}
    for job in plan.jobs:
        values, one = samples[job.name], verdicts[job.name]
        medians = {label: median(samples_) for label, samples_ in values.items()}
        cells = [amount(medians[label]) if label in medians else "" for label in labels]
        ratios = [f"{one.shares[name]:.2f} x" if name in one.shares else "" for name in others]
        rows.append([job.name, job.unit, *cells, *ratios, one.wanted, one.word])
        data[job.name] = {
            "unit": job.unit, "median": medians, "ratio": one.shares, "target": one.wanted, "met": one.met,
            "samples": values,
        }  # fmt: skip
    header = ["job", "unit", *labels, *(f"{OURS}/{name}" for name in others), "target", ""]
    text = table(header, rows)
    if f"{PEER}*" in others:
        text += f"\n{PEER}*: S3QL 6.3 as measured in an earlier run on two cores; not of this run"
    return text, data


def bench_fuse(plan: Plan, directory: Path | None, json_path: Path | None) -> None:
    with world(directory) as place, ExitStack() as running:
        tarball = place.directory / "tree.tar"
        entries = write_tarball(tarball, plan.tree_files)
        whole = size_bytes(plan.size)
        sizes = Sizes(plan.runtime_s, whole, min(whole, 256 * MIB), plan.files, tarball, entries)
        targets = started(place, plan, running)
        samples = measure(targets, plan, sizes, print)
        text, data = summary(samples, plan)
        found = versions(place.directory)
    print(f"\n{text}\n\nmedians of {plan.rounds} rounds; {plan.size} of data, {plan.files} files, {entries} entries")
    print("\n".join(f"{name}: {version}" for name, version in found.items()))
    if not can_drop_caches():
        print("cold jobs left out: dropping the caches needs root")
    counts = {"rounds": plan.rounds, "runtime_s": plan.runtime_s, "size": plan.size, "files": plan.files}
    save(json_path, {"plan": counts, "versions": found, "jobs": data})
