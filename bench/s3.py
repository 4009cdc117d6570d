"""`python -m bench s3`: an object store below us, beside plain boto3, the same on a disk, and peers.

  SB1  All against one server on this machine, which competes with us for its cores. Within a round the sides take
       turns, in an order that turns with the rounds; ratios are medians over the rounds of neighbouring samples.
  SB2  boto3 moves as many objects of the size of our segments, with as many requests at once: that is 100 %.
  SB3  Bulk write ends when everything is in the store, not when it was acknowledged. The cold read begins with a
       worker started anew on an empty cache. Warm jobs follow that read, beside the same volume on a directory.
  SB4  Requests and bytes are those that our worker sent, as it counts them: catalog and checkpoints included.
  SB5  A peer that is not installed is named as such. One that fails is reported and has no numbers.
"""

import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.fio import FILL, run_job
from bench.mounts import Mount, MountFailed
from bench.report import amount, ratio_of_pairs, save, size_bytes, table
from bench.s3_jobs import (
    BUCKET,
    DISK,
    OURS,
    PLAIN,
    Notes,
    Place,
    bulk_write,
    cold_read,
    filesystems,
    flush_each,
    mount_of,
    peer_jobs,
    plain,
    pool_on,
    warm,
)
from bench.s3_peers import Peer, s3backer, s3ql
from bench.world import versions, world
from tools import rgw
from tools.moto import moto_server
from tools.s3_running import S3Server
from tools.sds import CommandFailed, Sds
from tools.servers import SdsServer

SERVERS = ("rgw", "moto")
AIMS = {(PLAIN, "bulk write"): 0.7, (PLAIN, "cold read"): 0.7}
WARM_AIM = 0.9


@dataclass(frozen=True, slots=True)
class Plan:
    server: str | None
    rounds: int
    size: str
    runtime_s: float
    files: int
    s3ql_programs: Path | None


def started(name: str | None, running: ExitStack) -> tuple[str, S3Server]:
    """RGW if it is installed, else moto."""
    missing = rgw.missing()
    if name == "rgw" and missing:
        raise SystemExit(f"bench: RGW is not installed (missing: {missing}); use --server moto")
    if name == "moto" or missing:
        return "moto", running.enter_context(moto_server())
    return "rgw", running.enter_context(rgw.rgw_server())


def peers(place: Place, plan: Plan, running: ExitStack, say: Callable[[str], None]) -> list[Peer]:
    found = []
    makers: dict[str, Callable[[], Peer | None]] = {
        "s3backer": lambda: s3backer(place.directory, place.server, BUCKET, place.size_bytes, place.parallelism),
        "s3ql": lambda: s3ql(place.directory, place.server, BUCKET, plan.s3ql_programs, place.parallelism),
    }
    for name, make in makers.items():
        try:
            peer = make()
            if peer is None:
                say(f"{name} is left out: not installed")
                continue
            peer.mount.start()
        except (MountFailed, CommandFailed) as error:
            say(f"{name} is left out: {error}")
            continue
        running.callback(peer.mount.stop)
        found.append(peer)
    return found


def one_round(place: Place, notes: Notes, sds: Sds, disk: SdsServer, number: int) -> None:
    dataset = f"bench/vol-{number}"
    sds("volume", "create", dataset, str(place.size_bytes))
    with SdsServer(sds, dataset, place.directory / "s3.s") as volume:
        for verb, ours in (("put", bulk_write), ("get", cold_read)):
            if number % 2 == 0:
                plain(place, notes, verb)
            ours(place, notes, volume)
            if number % 2:
                plain(place, notes, verb)
        warm(place, notes, {OURS: volume, DISK: disk}, number)
        flush_each(place, notes, volume, number)
    sds("destroy", dataset)


def measure(place: Place, plan: Plan, say: Callable[[str], None]) -> Notes:
    notes = Notes()
    with ExitStack() as running:
        place.server.make_bucket(BUCKET)
        sds = pool_on(place.directory, "s3", place.server.url(f"{BUCKET}/vol"))
        (place.directory / "disk").mkdir()
        local = pool_on(place.directory, "disk", place.directory / "disk")
        local("volume", "create", "bench/vol", str(place.size_bytes))
        disk = running.enter_context(SdsServer(local, "bench/vol", place.directory / "disk.s"))
        run_job(disk.uri, FILL, place.size_bytes)
        (place.directory / "fs-disk").mkdir()
        mounts: dict[str, Mount] = {
            OURS: mount_of(
                pool_on(place.directory, "fs-s3", place.server.url(f"{BUCKET}/fs")), place.directory / "on-s3"
            ),
            DISK: mount_of(
                pool_on(place.directory, "fs-dir", place.directory / "fs-disk"), place.directory / "on-disk"
            ),
        }
        for mount in mounts.values():
            mount.start()
            running.callback(mount.stop)
        others = peers(place, plan, running, say)
        for number in range(plan.rounds):
            one_round(place, notes, sds, disk, number)
            filesystems(place, notes, mounts, number)
            for peer in list(others):
                try:
                    peer_jobs(place, notes, peer)
                except (CommandFailed, MountFailed, OSError, subprocess.SubprocessError) as error:
                    say(f"{peer.label} failed: {str(error)[-300:]}")
                    others.remove(peer)
            say(f"round {number + 1}/{plan.rounds} done")
    return notes


def summary(notes: Notes) -> tuple[str, dict[str, Any]]:
    """The table and the same as data: medians, ratios of ours to what it is measured by, aims."""
    labels = list(dict.fromkeys(label for values in notes.values.values() for label in values))
    rows, data = [], {}
    for job, values in notes.values.items():
        medians = {label: median(samples) for label, samples in values.items()}
        ruler = next((label for label in (PLAIN, DISK) if label in values and OURS in values), None)
        ratio = ratio_of_pairs(values[OURS], values[ruler]) if ruler else None
        aim = AIMS.get((PLAIN, job)) if ruler == PLAIN else WARM_AIM if ruler else None
        met = None if ratio is None or aim is None else ratio >= aim
        rows.append([
            job, notes.units[job], *(amount(medians[label]) if label in medians else "" for label in labels),
            f"{ratio:.2f} x" if ratio is not None else "", f">= {aim}" if aim else "",
            {True: "met", False: "MISSED", None: ""}[met],
        ])  # fmt: skip
        data[job] = {
            "unit": notes.units[job], "median": medians, "ratio": ratio, "aim": aim, "met": met, "samples": values,
        }  # fmt: skip
    return table(["job", "unit", *labels, "share", "aim", ""], rows), data


def bench_s3(plan: Plan, directory: Path | None, json_path: Path | None) -> None:
    with world(directory) as there, ExitStack() as running:
        name, server = started(plan.server, running)
        place = Place(there.directory, server, size_bytes(plan.size), plan.runtime_s, plan.files)
        notes = measure(place, plan, print)
        about = versions(there.directory)
    text, data = summary(notes)
    print(f"\n{text}\n\nmedians of {plan.rounds} rounds, {plan.size}, against {name} on this machine")
    print("share: of plain boto3 for bulk write and cold read, of the same on a disk for the others")
    print("\n".join(f"{program}: {version}" for program, version in about.items()))
    kept = asdict(plan) | {"server": name, "s3ql_programs": None}
    save(json_path, {"plan": kept, "versions": about, "jobs": data})
