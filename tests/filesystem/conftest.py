"""A filesystem that is known to be right, to compare ours with, and one of ours in the simulator."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sds.filesystem import orphans
from tests.filesystem.engine import Engine
from tests.real.places import small_file_system


@pytest.fixture(scope="package")
def known() -> Iterator[Path]:
    """An empty ext4."""
    with small_file_system("ext4", 1 << 30) as path:
        yield path


@pytest.fixture
def engine() -> Iterator[Engine]:
    """With nothing in it; whatever a test does to it, the internal check finds nothing wrong afterwards."""
    engine = Engine()
    try:
        yield engine
        engine.close_all()
        assert engine.problems() == []
    finally:
        engine.close()


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def orphans_go_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in company (OR4 of sds.filesystem.orphans), so that a test sees what became of one."""
    monkeypatch.setattr(orphans, "TOGETHER", 1)
