"""Loop devices for tests: by themselves, detached at the end."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def attach(image: Path) -> str:
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    done = subprocess.run(["losetup", "-f", "--show", str(image)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no loop device here: {done.stderr.strip()}")
    return done.stdout.strip()


def detach(device: str) -> None:
    subprocess.run(["losetup", "-d", device], check=True)


@contextmanager
def loop_device(image: Path, size_bytes: int = 64 << 20) -> Iterator[str]:
    if not image.exists():
        image.touch()
        os.truncate(image, size_bytes)
    device = attach(image)
    try:
        yield device
    finally:
        detach(device)
