"""`sds pool scrub|resilver|rebalance|remove` and what `status` tells, over directories."""

import random
import shutil
from pathlib import Path

import pytest

from sds.cli.pool_maintenance import left
from sds.nbd import wire
from tests.cli.command import Command, tree
from tests.cli.conftest import no_stage_left
from tests.cli.load import Model, one_batch
from tests.cli.serving import read_back, write_pattern
from tests.nbd.client import Client
from tools.sds import Sds
from tools.servers import SdsServer

SIZE = 6 << 20
DATA = random.Random(1).randbytes(SIZE)


def make(root: Path, copies: int, count: int) -> Command:
    command = Command(root / "home")
    places = [root / name for name in "abcd"[:count]]
    for one in (*places, root / "new"):
        one.mkdir()
    command("pool", "create", "tank", *places, "--segment-size", "1M", "--copies", str(copies))
    command("volume", "create", "tank/vm", "8M", "--compress", "off")
    write_pattern(command.home, "vm", 0, DATA)
    return command


def segments(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file() and path.parent.parent.name == "segments")


def damage(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def by_url(cli: Command) -> dict[str, dict[str, object]]:
    return {Path(one["url"]).name: one for one in cli.json("pool", "status", "tank")["backends"]}


def test_a_scrub_heals_tells_and_is_remembered(tmp_path: Path) -> None:
    cli = make(tmp_path, copies=2, count=2)
    with no_stage_left(cli):
        before = tree(tmp_path / "a")
        damaged = max(segments(tmp_path / "a"), key=lambda path: path.stat().st_size)
        damage(damaged, 70_000)
        gone = next(path for path in segments(tmp_path / "b") if path.name != damaged.name)
        gone.unlink()
        found = cli.json("pool", "scrub", "tank")
        assert (found["healed"], found["unhealed"], found["lost"]) == (2, 0, 0)
        assert {finding["outcome"] for finding in found["findings"]} == {"healed"}
        assert damaged.read_bytes() == before[str(damaged)] and gone.exists()
        assert "0 healed, 0 not healed, 0 lost" in cli("pool", "scrub", "tank", "--rate", "0")
        status = cli.json("pool", "status", "tank")
        assert status["verified_share"] == 1 and status["scrub"]["files"] == found["files"]
        assert status["scrub_running"] is None and status["at_risk"]["degraded_files"] == 0
        assert "last scrub" in cli("pool", "status", "tank")
        assert read_back(cli.home, "vm", 0, SIZE) == DATA


def test_what_cannot_be_healed_is_told_with_exit_1_and_who_needs_it(tmp_path: Path) -> None:
    cli = make(tmp_path, copies=1, count=1)
    with no_stage_left(cli):
        damage(max(segments(tmp_path / "a"), key=lambda path: path.stat().st_size), 70_000)
        result = cli.run("pool", "scrub", "tank")
        assert result.code == 1 and result.err.count("\n") == 1
        assert "lost: segments/" in result.out and "needed by tank/vm" in result.out
        assert "1 files have no good copy" in result.err


def test_a_backend_is_removed_with_its_data_moved_and_may_be_used_again(tmp_path: Path) -> None:
    cli = make(tmp_path, copies=1, count=2)
    with no_stage_left(cli):
        assert segments(tmp_path / "a")
        cli("pool", "remove", "tank", tmp_path / "a")
        assert list(by_url(cli)) == ["b"]
        assert not [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
        assert read_back(cli.home, "vm", 0, SIZE) == DATA
        cli("pool", "add", "tank", tmp_path / "a")
        assert cli.json("pool", "scrub", "tank")["lost"] == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("{}/a",), "2 copies (pool tank) need 2 failure domains, 1 would be left: add one first"),
        (("{}/x",), "is no backend of pool tank; there are: "),
        (("{}/a", "--lost"), "is there: without --lost everything on it is moved away first"),
        (("{}/a", "--force"), "--force goes with --lost"),
        (("{}/a", "--rate", "fast"), "is not a size"),
    ],
)
def test_a_removal_that_cannot_be_is_refused_in_one_line(tmp_path: Path, arguments: tuple[str, ...], why: str) -> None:
    cli = make(tmp_path, copies=2, count=2)
    with no_stage_left(cli):
        files = {path.name for path in segments(tmp_path / "a")}
        assert why in cli.refused("pool", "remove", "tank", *(one.format(tmp_path) for one in arguments))
        assert {path.name for path in segments(tmp_path / "a")} == files
        assert {one["state"] for one in by_url(cli).values()} == {"online"}


def test_the_last_backend_stays(tmp_path: Path) -> None:
    cli = make(tmp_path, copies=1, count=1)
    with no_stage_left(cli):
        assert "is the last backend of pool tank" in cli.refused("pool", "remove", "tank", tmp_path / "a")


def test_a_lost_backend_is_replaced_and_status_tells_what_is_at_risk_until_then(tmp_path: Path) -> None:
    cli = make(tmp_path, copies=2, count=2)
    with no_stage_left(cli):
        shutil.rmtree(tmp_path / "b")
        status = cli.json("pool", "status", "tank")
        risk = status["at_risk"]
        assert risk["degraded_files"] == risk["single_files"] > 0 and risk["unreachable_files"] == 0
        assert by_url(cli)["b"]["state"] == "missing"
        assert "have fewer copies than asked" in cli("pool", "status", "tank")
        assert "say --lost if it is gone for good" in cli.refused("pool", "remove", "tank", tmp_path / "b")
        assert "add one first" in cli.refused("pool", "remove", "tank", tmp_path / "b", "--lost")
        cli("pool", "add", "tank", tmp_path / "new")
        cli("pool", "remove", "tank", tmp_path / "b", "--lost")
        assert cli.json("pool", "status", "tank")["at_risk"]["degraded_files"] == 0
        shutil.rmtree(tmp_path / "a")
        assert read_back_degraded(cli) == DATA


def read_back_degraded(cli: Command) -> bytes:
    """From the new backend alone."""
    import trio

    from backends.registry import connect
    from sds.log.env import real_env
    from sds.pool.home import Home
    from sds.pool.pool import open_pool
    from sds.pool.rows import SnapshotRow
    from sds.volume.snapshot import SnapshotVolume

    async def body() -> bytes:
        pool = await open_pool(Home(cli.home), "tank", connect, allow_missing=True)
        row = pool.catalog.dataset("vm")
        assert row.checkpoint is not None
        device = SnapshotVolume(pool, row, SnapshotRow(0, row.id, "head", 0, SIZE, row.checkpoint.root), real_env())
        try:
            return b"".join(await device.read(0, SIZE))
        finally:
            device.close()
            await pool.close()

    return trio.run(body)


def test_what_is_only_on_a_lost_backend_is_named_and_goes_by_force_only(tmp_path: Path) -> None:
    cli = make(tmp_path, copies=1, count=2)
    with no_stage_left(cli):
        shutil.rmtree(tmp_path / "b")
        risk = cli.json("pool", "status", "tank")["at_risk"]
        assert risk["unreachable_files"] > 0 and risk["unreachable_datasets"] == ["tank/vm"]
        assert "not readable now" in cli("pool", "status", "tank")
        said = cli.refused("pool", "remove", "tank", tmp_path / "b", "--lost")
        assert "of tank/vm are only on" in said and "--force" in said
        lost = cli.run("pool", "remove", "tank", tmp_path / "b", "--lost", "--force")
        assert lost.code == 0 and lost.err.count("lost: segments/") == risk["unreachable_files"]
        assert list(by_url(cli)) == ["a"]


def test_an_interrupted_removal_shows_and_can_be_called_off(tmp_path: Path) -> None:
    cli = make(tmp_path, copies=1, count=2)
    with no_stage_left(cli):
        from sds.pool.catalog import Catalog
        from sds.pool.home import Home

        catalog = Catalog.open(Home(cli.home).catalog_path("tank"))
        catalog.set_backend_state(1, "draining")
        catalog.close()
        assert by_url(cli)["a"]["state"] == "draining"
        cli("pool", "remove", "tank", tmp_path / "a", "--cancel")
        assert by_url(cli)["a"]["state"] == "online" and segments(tmp_path / "a")


def test_resilver_makes_the_copies_that_a_dataset_asks_for(tmp_path: Path) -> None:
    cli = make(tmp_path, copies=1, count=2)
    with no_stage_left(cli):
        cli("set", "tank/vm", "copies=2")
        assert cli.json("pool", "status", "tank")["at_risk"]["degraded_files"] > 0
        assert cli.json("pool", "resilver", "tank", "--rate", "0")["problems"] == []
        assert cli.json("pool", "status", "tank")["at_risk"]["degraded_files"] == 0
        assert [path.name for path in segments(tmp_path / "a")] == [path.name for path in segments(tmp_path / "b")]
        assert "nothing had to move" in cli("pool", "rebalance", "tank")


def test_rate_and_time_left_are_told() -> None:
    assert left(50 << 20, 100 << 20, 10.0) == ", 50 %, 5M/s, 10 s left"
    assert left(1 << 20, 361 << 20, 10.0).endswith("1 h 0 min left")
    assert left(0, 100, 10.0) == ""


def test_a_backend_leaves_while_a_worker_in_another_process_writes(sds: Sds, tmp_path: Path, socket_dir: Path) -> None:
    cli = make(tmp_path, copies=1, count=2)
    with no_stage_left(cli), SdsServer(Sds(cli.home), "tank/vm", socket_dir / "s") as server:
        model = Model(8 << 20, seed=1)
        model.blocks[: SIZE // 4096] = [DATA[at : at + 4096] for at in range(0, SIZE, 4096)]
        with Client(str(server.socket_path)) as client:
            one_batch(model, client, requests=32)
            cli("pool", "remove", "tank", tmp_path / "a")
            assert not segments(tmp_path / "a") and list(by_url(cli)) == ["b"]
            for _ in range(10):
                one_batch(model, client, requests=32)
            assert client.call(wire.FLUSH).error == 0
            model.verify(client, "without the backend that left")
        assert not segments(tmp_path / "a")
    assert cli.json("pool", "scrub", "tank", "--rate", "0")["lost"] == 0
