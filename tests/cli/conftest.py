"""A home with one pool over two directories, with small segments."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sds.pool import owner
from tests.cli.command import Command


def build(root: Path) -> Command:
    command = Command(root / "home")
    for name in ("a", "b"):
        (root / name).mkdir()
    command("pool", "create", "tank", root / "a", root / "b", "--segment-size", "1M")
    return command


@pytest.fixture(autouse=True)
def _short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports of pools that a killed worker had open need not wait half a minute (in this process)."""
    monkeypatch.setattr(owner, "LEASE_S", 1.2)
    monkeypatch.setattr(owner, "CONFIRM_S", 1.0)
    monkeypatch.setattr(owner, "BEAT_S", 0.2)


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
