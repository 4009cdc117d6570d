"""A home with one pool over two directories, with small segments."""

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
def cli(tmp_path: Path) -> Command:
    """With a pool `tank` over tmp_path/a and tmp_path/b."""
    return build(tmp_path)
