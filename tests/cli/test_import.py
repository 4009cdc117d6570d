"""A pool comes back from its backends alone, with everything that was flushed."""

import shutil
from pathlib import Path

import pytest

from sds.core.errors import Corrupt, Fenced
from sds.nbd import wire
from tests.cli.command import Command, tree
from tests.cli.load import Model, one_batch
from tests.cli.serving import read_back, write_pattern
from tests.nbd.client import Client
from tools.sds import Sds
from tools.servers import SdsServer

SIZE_BYTES = 16 << 20


@pytest.mark.parametrize("reopened", [False, True], ids=["first epoch", "later epoch"])
def test_home_and_memory_lost_after_a_kill_and_yet_all_that_was_flushed_is_there(
    cli: Command, sds: Sds, tmp_path: Path, socket_dir: Path, reopened: bool
) -> None:
    """Segments are written after the newest backup of the catalog: they are found by their names."""
    cli("volume", "create", "tank/vm", str(SIZE_BYTES))
    model = Model(SIZE_BYTES, seed=3)
    server = SdsServer(sds, "tank/vm", socket_dir / "s")
    server.start()
    with Client(str(server.socket_path)) as client:
        for _ in range(10):
            one_batch(model, client, 32)
        cli("snapshot", "tank/vm@kept")
        kept = list(model.blocks)
    if reopened:
        server.kill()
        server.start()
    with Client(str(server.socket_path)) as client:
        for _ in range(30):
            one_batch(model, client, 32)
        assert not client.call(wire.FLUSH).error
    server.kill()
    lose_home_and_memory(cli)
    cli("pool", "import", "tank", tmp_path / "b", tmp_path / "a")
    for name, blocks in (("tank/vm", model.blocks), ("tank/vm@kept", kept)):
        expected = Model(SIZE_BYTES, seed=3)
        expected.blocks = list(blocks)
        with SdsServer(sds, name, socket_dir / "t") as again, Client(str(again.socket_path)) as client:
            expected.verify(client, f"{name} after the import")
    assert cli.json("pool", "clean", "tank")["unknown_files"] == 0


def lose_home_and_memory(cli: Command) -> None:
    uuid = cli.json("pool", "status", "tank")["uuid"]
    shutil.rmtree(cli.home)
    stages = list(Path("/dev/shm").glob(f"sds-{uuid}-*.stage"))
    assert stages, "a killed worker leaves its stage"
    for stage in stages:
        stage.unlink()


def test_export_and_import_keep_everything(cli: Command, tmp_path: Path) -> None:
    cli("volume", "create", "tank/vm", "64M")
    write_pattern(cli.home, "vm", 1 << 20, b"kept")
    cli("snapshot", "tank/vm@a")
    before = cli.json("list")
    cli("pool", "export", "tank")
    assert cli.json("list") == []
    assert "not to other" in cli.refused("pool", "import", "other", tmp_path / "a", tmp_path / "b")
    assert "needs all backends" in cli.refused("pool", "import", "tank", tmp_path / "a")
    cli("pool", "import", "tank", tmp_path / "a", tmp_path / "b")
    assert cli.json("list") == before
    assert read_back(cli.home, "vm", 1 << 20, 4) == b"kept"


def test_export_after_a_kill_takes_along_what_was_in_memory_only(
    cli: Command, sds: Sds, tmp_path: Path, socket_dir: Path
) -> None:
    cli("volume", "create", "tank/vm", str(SIZE_BYTES))
    server = SdsServer(sds, "tank/vm", socket_dir / "s")
    server.start()
    assert "in use by" in cli.refused("pool", "export", "tank")
    with Client(str(server.socket_path)) as client:
        assert not client.call(wire.WRITE, 0, payload=b"kept" * 1024).error
    server.kill()
    uuid = cli.json("pool", "status", "tank")["uuid"]
    cli("pool", "export", "tank")
    assert list(Path("/dev/shm").glob(f"sds-{uuid}-*")) == []
    cli("pool", "import", "tank", tmp_path / "a", tmp_path / "b")
    assert read_back(cli.home, "vm", 0, 4096) == b"kept" * 1024


def test_a_destroyed_pool_leaves_its_backends_empty(cli: Command, tmp_path: Path) -> None:
    cli("volume", "create", "tank/vm", "64M")
    write_pattern(cli.home, "vm", 0, b"gone")
    cli("pool", "destroy", "tank", "--force")
    assert cli.json("pool", "list") == []
    assert [*(tmp_path / "a").iterdir(), *(tmp_path / "b").iterdir()] == []


def test_an_import_without_the_newest_log_refuses_the_volume_rather_than_go_back(cli: Command, tmp_path: Path) -> None:
    """The log of the epoch before is whole, and its checkpoint too: yet it is not what was flushed last."""
    cli("volume", "create", "tank/vm", "16M")
    write_pattern(cli.home, "vm", 0, b"old")
    write_pattern(cli.home, "vm", 0, b"new")
    cli("pool", "export", "tank")
    segments = sorted(path for root in "ab" for path in (tmp_path / root / "segments").rglob("*-*"))
    max(segments, key=lambda path: path.name).unlink()
    cli("pool", "import", "tank", tmp_path / "a", tmp_path / "b")
    with pytest.raises(Corrupt, match="is lost"):
        read_back(cli.home, "vm", 0, 3)


def test_a_home_that_the_pool_was_imported_away_from_neither_shows_old_data_nor_deletes_new(
    cli: Command, tmp_path: Path
) -> None:
    cli("volume", "create", "tank/vm", "16M")
    write_pattern(cli.home, "vm", 0, b"old")
    other = Command(tmp_path / "other")
    other("pool", "import", "tank", tmp_path / "a", tmp_path / "b")
    write_pattern(other.home, "vm", 0, b"new")
    before = tree(tmp_path / "a", tmp_path / "b")
    with pytest.raises(Fenced, match=r"newer catalog|taken over"):
        read_back(cli.home, "vm", 0, 3)
    assert "taken over" in cli.refused("pool", "clean", "tank")
    assert tree(tmp_path / "a", tmp_path / "b") == before
    assert read_back(other.home, "vm", 0, 3) == b"new"
