"""Snapshots, clones, rollback, diff, rename, resize, destroy: the same on closed and on served volumes."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sds.nbd import wire
from tests.cli.command import Command
from tests.cli.serving import read_back, write_pattern
from tests.nbd.client import Client
from tools.sds import Sds
from tools.servers import SdsServer

MIB = 1 << 20


class Disk:
    """The volume tank/vm, written and read through its server if there is one."""

    def __init__(self, cli: Command, server: SdsServer | None) -> None:
        self.cli = cli
        self.server = server

    def write(self, offset: int, data: bytes) -> None:
        if self.server is None:
            write_pattern(self.cli.home, "vm", offset, data)
            return
        with Client(str(self.server.socket_path)) as client:
            assert not client.call(wire.WRITE, offset, payload=data).error

    def read(self, offset: int, length: int) -> bytes:
        if self.server is None:
            return read_back(self.cli.home, "vm", offset, length)
        with Client(str(self.server.socket_path)) as client:
            return client.call(wire.READ, offset, length).data


@pytest.fixture(params=["closed", "served"])
def disk(request: pytest.FixtureRequest, cli: Command, sds: Sds, socket_dir: Path) -> Iterator[Disk]:
    cli("volume", "create", "tank/vm", "64M")
    with ExitStack() as stack:
        server = None
        if request.param == "served":
            server = stack.enter_context(SdsServer(sds, "tank/vm", socket_dir / "s"))
        yield Disk(cli, server)


def test_a_snapshot_keeps_what_was_there_and_rollback_brings_it_back(cli: Command, disk: Disk) -> None:
    disk.write(MIB, b"old" * 4096)
    made = cli.json("snapshot", "tank/vm@a")
    assert made["elapsed_ms"] > 0
    disk.write(MIB, b"new" * 4096)
    disk.write(9 * MIB, b"more")
    assert disk.read(MIB, 12288) == b"new" * 4096
    cli("rollback", "tank/vm@a")
    assert disk.read(MIB, 12288) == b"old" * 4096
    assert disk.read(9 * MIB, 4) == bytes(4)


def test_a_clone_begins_as_the_snapshot_and_lives_on_its_own(cli: Command, disk: Disk) -> None:
    disk.write(MIB, b"shared" * 4096)
    cli("snapshot", "tank/vm@a")
    cli("clone", "tank/vm@a", "tank/copy")
    disk.write(MIB, b"parent" * 4096)
    write_pattern(cli.home, "copy", 2 * MIB, b"child")
    assert disk.read(2 * MIB, 5) == bytes(5)
    cli("destroy", "tank/vm@a")
    if disk.server is not None:
        disk.server.stop()
    cli("destroy", "tank/vm")
    assert read_back(cli.home, "copy", MIB, 24576) == b"shared" * 4096
    assert read_back(cli.home, "copy", 2 * MIB, 5) == b"child"


def test_diff_tells_exactly_the_changed_blocks(cli: Command, disk: Disk) -> None:
    disk.write(0, b"x" * MIB)
    cli("snapshot", "tank/vm@a")
    assert cli.json("diff", "tank/vm@a") == []
    disk.write(4096, b"y" * 8192)
    disk.write(10 * MIB + 100, b"z")
    cli("snapshot", "tank/vm@b")
    disk.write(20 * MIB, b"z" * 4096)
    first = [{"offset": 4096, "length": 8192}, {"offset": 10 * MIB, "length": 4096}]
    assert cli.json("diff", "tank/vm@a", "tank/vm@b") == first
    assert cli.json("diff", "tank/vm@a") == [*first, {"offset": 20 * MIB, "length": 4096}]


def test_resize_shows_at_once_and_new_space_reads_as_zeros(cli: Command, disk: Disk) -> None:
    disk.write(64 * MIB - 4096, b"end!" * 1024)
    cli("volume", "resize", "tank/vm", "96M")
    assert cli.json("list")[0]["size_bytes"] == 96 * MIB
    assert disk.read(64 * MIB - 4096, 8192) == b"end!" * 1024 + bytes(4096)


def test_renamed_things_are_found_under_their_new_names(cli: Command, disk: Disk) -> None:
    disk.write(0, b"data")
    cli("snapshot", "tank/vm@a")
    cli("rename", "tank/vm@a", "tank/vm@b")
    cli("rename", "tank/vm", "tank/renamed")
    assert [one["name"] for one in cli.json("list")] == ["tank/renamed", "tank/renamed@b"]
    cli("rollback", "tank/renamed@b")
    cli("rename", "tank/renamed", "vm")
    assert disk.read(0, 4) == b"data"


def test_properties_are_kept_and_told(cli: Command, disk: Disk) -> None:
    defaults: dict[str, object] = {"compress": "lz4", "copies": None, "place": [], "flush": "journal"}
    assert cli.json("get", "tank/vm") == defaults
    cli("set", "tank/vm", "place=fast,cold", "copies=1", "flush=backend")
    assert cli.json("get", "tank/vm") == defaults | {"copies": 1, "place": ["fast", "cold"], "flush": "backend"}
    cli("set", "tank/vm", "place=any", "copies=pool", "flush=journal")
    assert cli.json("get", "tank/vm") == defaults
    for wrong in ("copies=0", "copies=17", "copies=x", "place=a,a", "flush=never"):
        assert wrong.partition("=")[0] in cli.refused("set", "tank/vm", wrong)
    cli("set", "tank/vm", "compress=zstd")
    assert cli.json("get", "tank/vm", "compress") == {"compress": "zstd"}
    disk.write(0, b"compressible" * 4096)
    assert disk.read(0, 12 * 4096) == b"compressible" * 4096


def test_list_tells_logical_used_and_written_bytes_of_a_busy_volume_too(cli: Command, disk: Disk) -> None:
    disk.write(0, bytes(range(256)) * 4096)
    (facts,) = cli.json("list", "-t", "volume")
    assert (facts["size_bytes"], facts["used_bytes"]) == (64 * MIB, MIB)
    assert 0 < facts["written_bytes"] < 2 * MIB
    assert facts["stored_bytes"] > 0
    assert facts["state"] == ("closed" if disk.server is None else "open")
    assert cli.json("pool", "status", "tank")["used_bytes"] == MIB


def test_a_volume_is_served_once_and_the_message_says_by_whom(
    cli: Command, sds: Sds, socket_dir: Path
) -> None:
    cli("volume", "create", "tank/vm", "64M")
    with SdsServer(sds, "tank/vm", socket_dir / "s") as server:
        said = cli.refused("serve", "tank/vm", "--socket", socket_dir / "t")
        assert f"process {server.pid}" in said
        assert "in use by" in cli.refused("destroy", "tank/vm")
        cli("destroy", "tank/vm", "--force")
        assert cli.json("list") == []


def test_a_served_snapshot_is_read_only_and_cannot_be_destroyed(cli: Command, sds: Sds, socket_dir: Path) -> None:
    cli("volume", "create", "tank/vm", "64M")
    write_pattern(cli.home, "vm", 0, b"then" * 1024)
    cli("snapshot", "tank/vm@a")
    write_pattern(cli.home, "vm", 0, b"now!" * 1024)
    with SdsServer(sds, "tank/vm@a", socket_dir / "s") as server:
        assert "in use by" in cli.refused("destroy", "tank/vm@a")
        with Client(str(server.socket_path)) as client:
            assert client.call(wire.READ, 0, 4096).data == b"then" * 1024
            assert client.call(wire.WRITE, 0, payload=bytes(4096)).error
            assert client.call(wire.TRIM, 0, 4096).error
    cli("destroy", "tank/vm@a")
    assert read_back(cli.home, "vm", 0, 4096) == b"now!" * 1024


def test_changed_blocks_and_holes_are_told_over_nbd(cli: Command, sds: Sds, socket_dir: Path) -> None:
    cli("volume", "create", "tank/vm", "64M")
    with SdsServer(sds, "tank/vm", socket_dir / "s") as server:
        with Client(str(server.socket_path)) as client:
            assert not client.call(wire.WRITE, MIB, payload=b"x" * MIB).error
        cli("snapshot", "tank/vm@a")
        names = (wire.ALLOCATION_CONTEXT, "qemu:dirty-bitmap:a")
        with Client(str(server.socket_path), contexts=names) as client:
            assert not client.call(wire.WRITE, 2 * MIB, payload=b"y" * MIB).error
            status = client.call(wire.BLOCK_STATUS, 0, 64 * MIB).status
    allocation, dirty = (status[client.contexts[name]] for name in names)
    assert allocation == [(MIB, 3), (2 * MIB, 0), (61 * MIB, 3)]
    assert dirty == [(2 * MIB, 0), (MIB, 1), (61 * MIB, 0)]
