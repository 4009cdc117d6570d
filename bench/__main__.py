"""`python -m bench`: one subcommand per promise that has a number."""

import argparse
from pathlib import Path

from bench.amplification import bench_amplification
from bench.clean import AIMS, bench_clean
from bench.clean import Plan as CleanPlan
from bench.cleaning_policy import bench_policy
from bench.copies import Plan as CopiesPlan
from bench.copies import bench_copies
from bench.fio import SIX_JOBS
from bench.fs_snapshot import bench_fs_snapshot
from bench.fuse import DEFAULT, bench_fuse, jobs_named
from bench.fuse import Plan as FusePlan
from bench.fuse_jobs import JOBS
from bench.nbd import Plan, bench_nbd, cases
from bench.reopen import bench_open
from bench.s3 import SERVERS, bench_s3
from bench.s3 import Plan as S3Plan
from bench.scan import bench_scan
from bench.scrubbing import Plan as ScrubPlan
from bench.scrubbing import bench_scrub
from bench.snapshot import bench_snapshot
from bench.trim import bench_trim
from bench.world import can_drop_caches


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--directory", type=Path, help="where to measure (default: here; not in memory)")
    common.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    verbs = top.add_subparsers(dest="verb", required=True)
    nbd = verbs.add_parser("nbd", parents=[common], help="six fio jobs against qemu-nbd and nbdkit")
    nbd.add_argument("--size", default="1G", help="size of the volumes (1G)")
    nbd.add_argument("--runtime", type=float, default=5.0, metavar="SECONDS", help="of one sample (5)")
    nbd.add_argument("--rounds", type=int, default=3, help="samples per job and side (3)")
    nbd.add_argument("--jobs", nargs="+", choices=[job.name for job in SIX_JOBS], help="only these")
    fuse = verbs.add_parser("fuse", parents=[common], help="a mounted filesystem beside the ceiling and its peers")
    fuse.add_argument("--rounds", type=int, default=3, help="samples per job and side (3)")
    fuse.add_argument("--runtime", type=float, default=5.0, metavar="SECONDS", help="of one sample, at most (5)")
    fuse.add_argument("--size", default="1G", help="of the file of the data jobs (1G)")
    fuse.add_argument("--files", type=int, default=3000, help="of the metadata jobs (3000)")
    fuse.add_argument("--tree", type=int, default=10_000, metavar="FILES", help="in the tarball (10000)")
    fuse.add_argument("--only", metavar="JOB,...", help=", ".join(job.name for job in JOBS))
    fuse.add_argument("--peers", metavar="NAME,...", help=f"beside sds and null (of {', '.join(DEFAULT[2:])})")
    fuse.add_argument("--sides", metavar="NAME,...", help="exactly these; null:writeback=on, sds:OPTION are others")
    fuse.add_argument("--s3ql-dir", type=Path, help="where mount.s3ql is (default: PATH)")
    kept = verbs.add_parser("fs-snapshot", parents=[common], help="snapshots of a filesystem with a million files")
    kept.add_argument("--files", type=int, default=1_000_000)
    kept.add_argument("--rounds", type=int, default=5)
    scan = verbs.add_parser("scan", parents=[common], help="cold end-to-end read after random writes")
    scan.add_argument("--size", default="4G")
    scan.add_argument("--rounds", type=int, default=3)
    snapshot = verbs.add_parser("snapshot", parents=[common], help="time of a snapshot and a clone")
    snapshot.add_argument("--rounds", type=int, default=5)
    reopen = verbs.add_parser("open", parents=[common], help="opening after kill -9, memory when idle")
    reopen.add_argument("--size", default="2G")
    reopen.add_argument("--log", default="256M", help="written since the last checkpoint (256M)")
    reopen.add_argument("--rounds", type=int, default=3)
    amplification = verbs.add_parser("amplification", parents=[common], help="bytes on disks per user byte")
    amplification.add_argument("--size", default="10G")
    amplification.add_argument("--written", default="2G", help="4k random writes in all (2G)")
    trim = verbs.add_parser("trim", parents=[common], help="whole-device TRIM")
    trim.add_argument("--size", default="2T")
    trim.add_argument("--rounds", type=int, default=3)
    policy = verbs.add_parser("policy", parents=[common], help="which files the cleaner should rewrite, simulated")
    policy.add_argument("--segments", type=int, default=256, help="that the volume fills (256)")
    _storage_verbs(verbs, common)
    return top


def _storage_verbs(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser
) -> None:
    clean = verbs.add_parser("clean", parents=[common], help="random overwrites of a pool that is nearly full")
    clean.add_argument("--size", default="512M", help="of the volume (512M)")
    clean.add_argument("--use", type=float, default=0.8, help="part of the pool that its blocks take (0.8)")
    clean.add_argument("--rounds", type=int, default=5, help="each overwrites as many blocks as there are (5)")
    clean.add_argument("--pattern", choices=("uniform", "zipf", "both"), default="both")
    clean.add_argument("--segment-size", default="8M", help="of the pool, small as the pool is small (8M)")
    s3 = verbs.add_parser("s3", parents=[common], help="an object store beside plain boto3, a disk and peers")
    s3.add_argument("--server", choices=SERVERS, help="rgw if it is installed, else moto")
    s3.add_argument("--rounds", type=int, default=3)
    s3.add_argument("--size", default="1G", help="of the volume (1G)")
    s3.add_argument("--runtime", type=float, default=3.0, metavar="SECONDS", help="of one sample of small jobs (3)")
    s3.add_argument("--files", type=int, default=2000, help="of the filesystem (2000)")
    s3.add_argument("--s3ql-dir", type=Path, help="where mount.s3ql is (default: PATH)")
    for name, text in (("copies", "two copies beside one"), ("scrub", "a scrub alone, and beside users")):
        verb = verbs.add_parser(name, parents=[common], help=text)
        verb.add_argument("--size", default="1G", help="of the volumes (1G)")
        verb.add_argument("--runtime", type=float, default=4.0, metavar="SECONDS", help="of one sample (4)")
        verb.add_argument("--rounds", type=int, default=3)


def main() -> None:
    its = parser().parse_args()
    match its.verb:
        case "nbd":
            chosen = cases(its.jobs, with_cold=can_drop_caches())
            bench_nbd(Plan(its.size, its.runtime, its.rounds, chosen), its.directory, its.json)
        case "fuse":
            jobs = jobs_named(its.only.split(",") if its.only else None, can_drop_caches())
            peers = its.peers.split(",") if its.peers is not None else DEFAULT[2:]
            sides = its.sides.split(",") if its.sides else [*DEFAULT[:2], *filter(None, peers)]
            counts = (its.rounds, its.runtime, its.size, its.files, its.tree)
            bench_fuse(FusePlan(jobs, *counts, tuple(sides), its.s3ql_dir), its.directory, its.json)
        case "fs-snapshot":
            bench_fs_snapshot(its.files, its.rounds, its.directory, its.json)
        case "scan":
            bench_scan(its.size, its.rounds, its.directory, its.json)
        case "snapshot":
            bench_snapshot(its.rounds, its.directory, its.json)
        case "open":
            bench_open(its.size, its.log, its.rounds, its.directory, its.json)
        case "amplification":
            bench_amplification(its.size, its.written, its.directory, its.json)
        case "trim":
            bench_trim(its.size, its.rounds, its.directory, its.json)
        case "clean":
            patterns = tuple(AIMS) if its.pattern == "both" else (its.pattern,)
            bench_clean(
                CleanPlan(its.size, its.use, its.rounds, patterns, its.segment_size), its.directory, its.json
            )
        case "s3":
            plan = S3Plan(its.server, its.rounds, its.size, its.runtime, its.files, its.s3ql_dir)
            bench_s3(plan, its.directory, its.json)
        case "copies":
            bench_copies(CopiesPlan(its.size, its.runtime, its.rounds), its.directory, its.json)
        case "scrub":
            bench_scrub(ScrubPlan(its.size, its.runtime, its.rounds), its.directory, its.json)
        case "policy":
            bench_policy(its.segments, its.json)


if __name__ == "__main__":
    main()
