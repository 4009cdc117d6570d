"""`python -m bench`: one subcommand per promise that has a number."""

import argparse
from pathlib import Path

from bench.amplification import bench_amplification
from bench.fio import SIX_JOBS
from bench.fs_snapshot import bench_fs_snapshot
from bench.fuse import DEFAULT, bench_fuse, jobs_named
from bench.fuse import Plan as FusePlan
from bench.fuse_jobs import JOBS
from bench.nbd import Plan, bench_nbd, cases
from bench.reopen import bench_open
from bench.scan import bench_scan
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
    return top


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


if __name__ == "__main__":
    main()
