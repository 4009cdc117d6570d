"""Metadata operations in a tight loop: `python -I -S bench/driver.py JOB DIRECTORY COUNT SECONDS`, prints JSON.

A process of its own, with nothing imported but os, so that the loop costs next to nothing beside a request to a
filesystem; what it costs is shown by running it on tmpfs. It works on the files 0 .. COUNT-1 of the directory and
stops early when the time is up; `again` jobs start over until a fifth of a second has passed.
"""

import json
import os
import sys
import time
from collections.abc import Callable

SHORTEST_S = 0.2
CONTENT_BYTES = 1024


def create(name: str) -> None:
    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def create_1k(name: str) -> None:
    fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    os.write(fd, os.urandom(CONTENT_BYTES))
    os.close(fd)


def create_fsync(name: str) -> None:
    fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    os.write(fd, os.urandom(CONTENT_BYTES))
    os.fsync(fd)
    os.close(fd)


def read_1k(name: str) -> None:
    fd = os.open(name, os.O_RDONLY)
    os.read(fd, 4 * CONTENT_BYTES)
    os.close(fd)


JOBS: dict[str, tuple[Callable[[str], object], bool]] = {
    "create": (create, False),
    "create-1k": (create_1k, False),
    "create-fsync": (create_fsync, False),
    "read-1k": (read_1k, False),
    "stat": (os.stat, False),
    "stat-again": (os.stat, True),
    "unlink": (os.unlink, False),
}


def run(job: str, directory: str, count: int, limit_s: float) -> tuple[int, float]:
    """How many operations in how many seconds."""
    operation, again = JOBS[job]
    os.chdir(directory)
    names = [f"file-{number:07d}" for number in range(count)]
    done = 0
    begin_s = time.perf_counter()
    while True:
        for name in names:
            operation(name)
            done += 1
            if done % 16 == 0 and time.perf_counter() - begin_s > limit_s:
                return done, time.perf_counter() - begin_s
        elapsed_s = time.perf_counter() - begin_s
        if not again or elapsed_s > SHORTEST_S:
            return done, elapsed_s


if __name__ == "__main__":
    operations, seconds = run(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    json.dump({"operations": operations, "seconds": seconds}, sys.stdout)
