"""Machines over an object store: homes that are lost, and pools that are imported elsewhere."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sds.pool import owner
from tests.cli.command import Command
from tools.sds import Sds
from tools.servers import SdsServer

QUICK_LEASE_S = 1.0


class Machine:
    """Its command line, in this process and as a program."""

    def __init__(self, home: Path) -> None:
        self.cli = Command(home)
        self.sds = Sds(home)

    def create(self, url: str, segment_size: str = "1M") -> None:
        self.cli("pool", "create", "tank", url, "--segment-size", segment_size)

    def serve(self, where: Path) -> SdsServer:
        return SdsServer(self.sds, "tank/vm", where)

    def is_lost(self) -> None:
        """With all that was in its memory."""
        uuid = self.uuid
        shutil.rmtree(self.cli.home)
        remove_stages(uuid)

    @property
    def uuid(self) -> str:
        return str(self.cli.json("pool", "status", "tank")["uuid"])


def remove_stages(uuid: str) -> None:
    for stage in Path("/dev/shm").glob(f"sds-{uuid}-*.stage"):
        stage.unlink()


@contextmanager
def two_machines(
    root: Path, url: str, patience: pytest.MonkeyPatch, segment_size: str = "1M"
) -> Iterator[tuple[Machine, Machine]]:
    """The first has a pool `tank` there; the second, which imports in this process, waits no half minute for the
    heartbeat of one that is dead for sure."""
    patience.setattr(owner, "LEASE_S", QUICK_LEASE_S)
    first, second = Machine(root / "first"), Machine(root / "second")
    first.create(url, segment_size)
    uuid = first.uuid
    try:
        yield first, second
    finally:
        remove_stages(uuid)
