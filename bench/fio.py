"""fio with its NBD engine as the load generator: one job on one export gives one number."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tools.sds import run

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Job:
    """A fio job. Small blocks are counted in operations, large ones in bytes."""

    name: str
    pattern: str
    block_bytes: int
    depth: int

    @property
    def reads(self) -> bool:
        return self.pattern.endswith("read")

    @property
    def unit(self) -> str:
        return "MB/s" if self.block_bytes >= MIB else "IOPS"


SIX_JOBS = (
    Job("randwrite-4k-qd32", "randwrite", 4096, 32),
    Job("randread-4k-qd32", "randread", 4096, 32),
    Job("randwrite-4k-qd1", "randwrite", 4096, 1),
    Job("randread-4k-qd1", "randread", 4096, 1),
    Job("write-1m-qd4", "write", MIB, 4),
    Job("read-1m-qd4", "read", MIB, 4),
)
FILL = Job("fill", "write", MIB, 4)
FULL_READ = Job("full-read", "read", MIB, 4)
SCATTERED_FILL = Job("scattered-fill", "randwrite", 4096, 32)


@dataclass(frozen=True, slots=True)
class Result:
    """What fio measured; `value` is in the unit of the job."""

    value: float
    operations: int
    data_bytes: int
    seconds: float
    latency_p99_us: float


def run_job(
    uri: str,
    job: Job,
    size_bytes: int,
    runtime_s: float | None = None,
    loop: bool = True,
    seed: int = 1,
    io_bytes: int | None = None,
    options: Sequence[str] = (),
) -> Result:
    """Run a job over `size_bytes`: once through, or for `runtime_s` (with `loop` it starts over at the end).

    Cold reads must not loop: the second pass would come from a cache that the first one filled.
    """
    command = [
        "fio", "--output-format=json", "--name=job", "--ioengine=nbd", f"--uri={uri}", f"--rw={job.pattern}",
        f"--bs={job.block_bytes}", f"--iodepth={job.depth}", f"--size={size_bytes}", f"--randseed={seed}",
    ]  # fmt: skip
    if runtime_s is not None:
        command += [f"--runtime={runtime_s}"] + (["--time_based"] if loop else [])
    if io_bytes is not None:
        command.append(f"--io_size={io_bytes}")
    command += options
    printed = run(*command, timeout_s=3600)
    # fio may print a note before the JSON.
    side = json.loads(printed[printed.index("{") :])["jobs"][0]["read" if job.reads else "write"]
    return _result(job, side)


def _result(job: Job, side: dict[str, Any]) -> Result:
    seconds = side["runtime"] / 1000
    data_bytes = int(side["io_bytes"])
    operations = int(side["total_ios"])
    if operations == 0 or seconds == 0:
        raise RuntimeError(f"fio did nothing in {job.name}")
    value = data_bytes / seconds / 1e6 if job.unit == "MB/s" else operations / seconds
    p99_ns = side["clat_ns"].get("percentile", {}).get("99.000000", 0)
    return Result(value, operations, data_bytes, seconds, p99_ns / 1000)
