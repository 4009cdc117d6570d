"""A directory of a pool with two copies vanishes under a running worker: it goes on, tells, and is made whole again."""

import shutil
import time
from pathlib import Path

import pytest

from sds.nbd import wire
from tests.cli.load import Model, one_batch
from tests.nbd.client import Client
from tests.real.stores import Machine, remove_stages

SIZE_BYTES = 16 << 20
LOSS = ("removed", "moved away")


@pytest.mark.parametrize("how", LOSS)
def test_reads_and_writes_go_on_without_a_backend_and_after_its_replacement_all_has_two_copies(
    tmp_path: Path, socket_dir: Path, how: str
) -> None:
    machine, model = Machine(tmp_path / "home"), Model(SIZE_BYTES, 8)
    for name in "abc":
        (tmp_path / name).mkdir()
    machine.cli("pool", "create", "tank", tmp_path / "a", tmp_path / "b", "--copies", "2", "--segment-size", "1M")
    machine.cli("volume", "create", "tank/vm", str(SIZE_BYTES))
    uuid = machine.uuid
    try:
        with machine.serve(socket_dir / "s") as worker, Client(str(worker.socket_path)) as client:
            load(model, client, 30)
            if how == "removed":
                shutil.rmtree(tmp_path / "b")
            else:
                (tmp_path / "b").rename(tmp_path / "elsewhere")
            load(model, client, 30)
            model.verify(client, "without the backend")
            tells(machine, tmp_path)
            machine.cli("pool", "add", "tank", tmp_path / "c")
            load(model, client, 10)
            removed(machine, tmp_path / "b")
            load(model, client, 10)
            model.verify(client, "after the replacement")
        expect_two_copies(machine)
        shutil.rmtree(tmp_path / "a")
        (tmp_path / "d").mkdir()
        machine.cli("pool", "add", "tank", tmp_path / "d")
        machine.cli("pool", "remove", "tank", tmp_path / "a", "--lost")
        expect_two_copies(machine)
        with machine.serve(socket_dir / "t") as worker, Client(str(worker.socket_path)) as client:
            model.verify(client, "without either of the first two")
    finally:
        remove_stages(uuid)


def load(model: Model, client: Client, batches: int) -> None:
    for _ in range(batches):
        one_batch(model, client, 16)
    assert not client.call(wire.FLUSH).error


def tells(machine: Machine, root: Path) -> None:
    status = machine.cli.json("pool", "status", "tank")
    assert {one["url"]: one["state"] for one in status["backends"]} == {
        str(root / "a"): "online",
        str(root / "b"): "missing",
    }
    assert status["at_risk"]["degraded_files"] == status["at_risk"]["single_files"] > 0
    assert status["at_risk"]["unreachable_files"] == 0
    assert "have fewer copies than asked" in machine.cli("pool", "status", "tank")


def removed(machine: Machine, place: Path) -> None:
    """Segments that are being written are not moved: it may take a second try."""
    for _ in range(3):
        done = machine.cli.run("pool", "remove", "tank", place, "--lost")
        if done.code == 0:
            return
        time.sleep(1)
    raise AssertionError(done.err)


def expect_two_copies(machine: Machine) -> None:
    machine.cli("pool", "resilver", "tank", "--rate", "0")
    assert machine.cli.json("pool", "status", "tank")["at_risk"]["degraded_files"] == 0
    assert machine.cli.json("pool", "scrub", "tank", "--rate", "0")["findings"] == []
