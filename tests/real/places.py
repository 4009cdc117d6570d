"""Small file systems of our own to put pools on (needs root), and what tests here share.

Names are short: sockets lie beside the pools, and the path of a unix socket has at most 107 bytes.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tools.sds import Sds


@contextmanager
def small_file_system(kind: str, size_bytes: int) -> Iterator[Path]:
    """An empty `ext4` (on a loop device) or `tmpfs`. Skips where mounting is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    with tempfile.TemporaryDirectory(prefix="sds-") as root:
        where, image = Path(root, "fs"), Path(root, "image")
        where.mkdir()
        if kind == "tmpfs":
            command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "none", str(where)]
        else:
            with image.open("wb") as file:
                file.truncate(size_bytes)
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
            command = ["mount", "-o", "loop", str(image), str(where)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount here: {done.stderr.strip()}")
        try:
            yield where
        finally:
            # Lazily: a test that failed may have left files open, and the mount must go nevertheless.
            subprocess.run(["umount", "-l", str(where)], check=True)


@contextmanager
def no_stage_left(sds: Sds) -> Iterator[None]:
    """What killed workers of the pool `tank` left in memory goes with the test."""
    uuid = sds.json("pool", "status", "tank")["uuid"]
    try:
        yield
    finally:
        for stage in Path("/dev/shm").glob(f"sds-{uuid}-*.stage"):
            stage.unlink()
