"""Two machines over the same backends, each with its own home and memory: one at a time uses the pool."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from backends.registry import connect
from sds.core.errors import Busy, Failed, Fenced
from sds.daemon.opened import Opened, opened
from sds.log.env import real_env
from sds.nbd import wire
from sds.pool import owner, takeover
from sds.pool.home import Home
from sds.pool.lease import Holder
from sds.pool.pool import open_pool
from sds.pool.transfer import import_pool
from tests.cli.command import Command, tree
from tests.cli.serving import QUIET, read_back, write_pattern
from tests.nbd.client import Client
from tests.servers.moto import moto_server
from tools.sds import Sds
from tools.servers import SdsServer

ME = Holder.me("test")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases of this process end sooner."""
    for name, seconds in (("BEAT_S", 0.05), ("CONFIRM_S", 1.2), ("LEASE_S", 2.0)):
        monkeypatch.setattr(owner, name, seconds)
    monkeypatch.setattr(takeover, "LOOK_S", 0.02)


@pytest.fixture
def other(tmp_path: Path) -> Command:
    return Command(tmp_path / "other")


async def on_machine(home: Path, work: Callable[[Opened], Awaitable[None]]) -> None:
    """With tank/vm open; its memory is beside its home."""
    memory = home.with_name(home.name + "-memory")
    memory.mkdir(exist_ok=True)
    pool = await open_pool(Home(home), "tank", connect)
    try:
        row = pool.catalog.dataset("vm")
        with pool.lease(row, ME):
            async with opened(pool, row.id, ME, real_env(memory), QUIET) as here:
                await work(here)
    finally:
        await pool.close()


async def take(home: Path, urls: list[str], force: bool = False) -> list[str]:
    """What was said."""
    said: list[str] = []
    imported = await import_pool(Home(home), urls, connect, lambda: 1000.0, force=force, say=said.append)
    await imported.pool.close()
    return said


def owner_states(tmp_path: Path) -> set[str]:
    return {owner.decode_owner((tmp_path / root / owner.OWNER).read_bytes(), root).state for root in "ab"}


def test_a_closed_pool_goes_from_machine_to_machine_and_the_former_one_can_only_let_go(
    cli: Command, other: Command, tmp_path: Path
) -> None:
    cli("volume", "create", "tank/vm", "16M")
    write_pattern(cli.home, "vm", 0, b"old")
    assert owner_states(tmp_path) == {owner.IDLE}
    taken = other.run("pool", "import", "tank", tmp_path / "a", tmp_path / "b")
    assert (taken.code, taken.out, taken.err) == (0, "", "")
    write_pattern(other.home, "vm", 0, b"new")
    before = tree(tmp_path / "a", tmp_path / "b")
    with pytest.raises(Fenced):
        write_pattern(cli.home, "vm", 0, b"bad")
    for arguments in (
        ("pool", "destroy", "tank", "--force"), ("pool", "clean", "tank"), ("volume", "create", "tank/two", "16M"),
        ("pool", "add", "tank", str(tmp_path / "c")),
    ):  # fmt: skip
        (tmp_path / "c").mkdir(exist_ok=True)
        said = cli.refused(*arguments)
        assert "taken over by" in said or "newer catalog" in said
        assert tree(tmp_path / "a", tmp_path / "b", tmp_path / "c") == before
    let_go = cli.run("pool", "export", "tank")
    assert let_go.code == 0
    assert "is forgotten here" in let_go.err
    assert tree(tmp_path / "a", tmp_path / "b") == before
    assert read_back(other.home, "vm", 0, 3) == b"new"
    cli("pool", "import", "tank", tmp_path / "a", tmp_path / "b")
    assert read_back(cli.home, "vm", 0, 3) == b"new"


@pytest.mark.usefixtures("quick")
def test_a_pool_in_use_is_refused_and_its_worker_goes_on(cli: Command, other: Command, tmp_path: Path) -> None:
    cli("volume", "create", "tank/vm", "16M")

    async def work(here: Opened) -> None:
        assert owner_states(tmp_path) == {owner.IN_USE}
        with pytest.raises(Busy, match="last heartbeat just now"):
            await take(other.home, [str(tmp_path / root) for root in "ab"])
        assert not Home(other.home).has_pool("tank")
        await here.volume.write(0, memoryview(b"mine"))
        await here.volume.flush()

    trio.run(on_machine, cli.home, work)
    assert owner_states(tmp_path) == {owner.IDLE}
    assert read_back(cli.home, "vm", 0, 4) == b"mine"


@pytest.mark.usefixtures("quick")
def test_by_force_it_is_taken_from_a_running_worker_which_acknowledges_nothing_afterwards(
    cli: Command, other: Command, tmp_path: Path
) -> None:
    cli("volume", "create", "tank/vm", "16M")

    async def loser(here: Opened) -> None:
        await here.volume.write(0, memoryview(b"kept"))
        await here.volume.flush()
        said = await take(other.home, [str(tmp_path / root) for root in "ab"], force=True)
        assert said[0].startswith("WARNING: pool tank is in use by")
        with pytest.raises(Failed, match="taken over by"):
            await here.volume.flush()
        with pytest.raises(Failed):
            await here.volume.write(0, memoryview(b"lost"))

    with pytest.raises(Failed, match="taken over by"):
        trio.run(on_machine, cli.home, loser)

    async def winner(here: Opened) -> None:
        assert b"".join(await here.volume.read(0, 4)) == b"kept"
        await here.volume.write(0, memoryview(b"next"))
        await here.volume.flush()

    trio.run(on_machine, other.home, winner)


@pytest.mark.usefixtures("quick")
def test_the_pool_of_a_killed_worker_is_taken_with_all_that_was_flushed(
    cli: Command, other: Command, sds: Sds, tmp_path: Path, socket_dir: Path
) -> None:
    cli("volume", "create", "tank/vm", "16M")
    server = SdsServer(sds, "tank/vm", socket_dir / "s")
    server.start()
    with Client(str(server.socket_path)) as client:
        assert not client.call(wire.WRITE, 0, payload=b"kept" * 1024).error
        assert not client.call(wire.FLUSH).error
    server.kill()
    taken = other.run("pool", "import", "tank", tmp_path / "a", tmp_path / "b")
    assert taken.code == 0, taken.err
    assert "looking for its heartbeat" in taken.err
    assert read_back(other.home, "vm", 0, 4) == b"kept"


def test_a_pool_of_the_release_before_has_no_record_and_opens_all_the_same(cli: Command, tmp_path: Path) -> None:
    cli("volume", "create", "tank/vm", "16M")
    for root in "ab":
        (tmp_path / root / owner.OWNER).unlink()
    write_pattern(cli.home, "vm", 0, b"mine")
    assert read_back(cli.home, "vm", 0, 4) == b"mine"
    assert owner_states(tmp_path) == {owner.IDLE}


def test_a_damaged_newest_backup_is_told_by_the_import(cli: Command, other: Command, tmp_path: Path) -> None:
    cli("volume", "create", "tank/vm", "16M")
    cli("pool", "export", "tank")
    newest = max((tmp_path / "a" / "catalog").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    (tmp_path / "b" / "catalog" / newest.name).unlink()
    said = other("pool", "import", "tank", tmp_path / "a", tmp_path / "b")
    assert f"{newest.name} on {tmp_path / 'a'} was passed over" in said


@pytest.mark.usefixtures("quick")
def test_over_an_object_store_the_loser_is_fenced_by_conditional_puts(tmp_path: Path) -> None:
    here, there = Command(tmp_path / "here"), Command(tmp_path / "there")
    with moto_server() as server:
        server.make_bucket("bucket")
        url = server.url("bucket/tank")
        here("pool", "create", "tank", url, "--segment-size", "1M")
        here("volume", "create", "tank/vm", "16M")

        async def loser(mine: Opened) -> None:
            (backend,) = mine.dataset.pool.backends.values()
            assert owner.tells_races(backend)
            await mine.volume.write(0, memoryview(b"kept"))
            await mine.volume.flush()
            await backend.settle("segments/")
            with pytest.raises(Busy, match="last heartbeat just now"):
                await take(there.home, [url])
            await take(there.home, [url], force=True)
            with pytest.raises(Failed, match="taken over by"):
                await mine.volume.flush()

        with pytest.raises(Failed, match="taken over by"):
            trio.run(on_machine, here.home, loser)
        with pytest.raises(Fenced):
            write_pattern(here.home, "vm", 0, b"bad")
        write_pattern(there.home, "vm", 4096, b"next")
