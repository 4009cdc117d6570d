"""A home with one pool over two directories, with small segments."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.command import Command


def build(root: Path) -> Command:
    command = Command(root / "home")
    for name in ("a", "b"):
        (root / name).mkdir()
    command("pool", "create", "tank", root / "a", root / "b", "--segment-size", "1M")
    return command


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Command]:
    """With a pool `tank` over tmp_path/a and tmp_path/b."""
    command = build(tmp_path)
    with no_stage_left(command):
        yield command


@contextmanager
def no_stage_left(command: Command) -> Iterator[None]:
    """What killed or failed workers of the pool left in memory goes with the test."""
    uuid = command.json("pool", "status", "tank")["uuid"]
    try:
        yield
    finally:
        for stage in Path("/dev/shm").glob(f"sds-{uuid}-*.stage"):
            stage.unlink()
