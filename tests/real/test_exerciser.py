"""Served volumes under the random exerciser and the fuzzer, while everything else goes on beside them."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sds.nbd import wire
from tests.nbd.client import EXTENDED, Client
from tests.nbd.exerciser import BLOCK, exercise, read_all
from tests.nbd.fuzz import fuzz
from tests.real.places import no_stage_left
from tools.sds import Sds
from tools.servers import SdsServer

SIZE_BYTES = 16 << 20
GROWTH_BYTES_MAX = 160 << 20
"""A few requests of 32 MiB at a time, and what the allocator keeps."""


@pytest.fixture
def tank(sds: Sds, tmp_path: Path) -> Iterator[Sds]:
    (tmp_path / "disk").mkdir()
    sds("pool", "create", "tank", tmp_path / "disk", "--segment-size", "1M")
    sds("volume", "create", "tank/vm", str(SIZE_BYTES))
    with no_stage_left(sds):
        yield sds


@contextmanager
def served(sds: Sds, where: Path, *names: str) -> Iterator[list[SdsServer]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(SdsServer(sds, name, where / f"s{number}")) for number, name in enumerate(names)
        ]


def resident_bytes(pid: int) -> int:
    """Without the pages of the stage, whose size is given."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) << 10


def test_a_served_volume_holds_what_several_connections_wrote(tank: Sds, socket_dir: Path) -> None:
    with served(tank, socket_dir, "tank/vm") as [server]:
        content = exercise(str(server.socket_path), seed=5, rounds=60)
        server.kill()
        server.start()
        with Client(str(server.socket_path)) as client:
            assert read_all(client) == content, "killed after the last answer"
        exercise(str(server.socket_path), seed=6, rounds=20)


def test_a_served_volume_survives_the_fuzzer_within_its_memory(tank: Sds, socket_dir: Path) -> None:
    with served(tank, socket_dir, "tank/vm") as [server]:
        fuzz(str(server.socket_path), seed=1, connections=20)
        before = resident_bytes(server.pid)
        descriptors = len(list(Path(f"/proc/{server.pid}/fd").iterdir()))
        fuzz(str(server.socket_path), seed=2, connections=120)
        assert server.running
        assert resident_bytes(server.pid) - before < GROWTH_BYTES_MAX
        assert len(list(Path(f"/proc/{server.pid}/fd").iterdir())) < descriptors + 80
        exercise(str(server.socket_path), seed=3, rounds=5)
        assert "internal error" not in server.log_path.read_text()
        assert "Traceback" not in server.log_path.read_text()


def test_a_volume_is_resized_under_its_clients(tank: Sds, socket_dir: Path) -> None:
    with served(tank, socket_dir, "tank/vm") as [server]:
        with Client(str(server.socket_path), EXTENDED) as client:
            assert not client.call(wire.WRITE, SIZE_BYTES - BLOCK, payload=b"e" * BLOCK).error
            tank("volume", "resize", "tank/vm", str(SIZE_BYTES * 2))
            assert not client.call(wire.READ, 0, BLOCK).error
            refused = tank_refuses(tank, "volume", "resize", "tank/vm", str(SIZE_BYTES // 2))
            assert "force" in refused, "it would cut off data"
            tank("volume", "resize", "tank/vm", str(SIZE_BYTES // 2), "--force")
            reply = client.call(wire.READ, SIZE_BYTES - BLOCK, BLOCK)
            assert reply.error, "beyond the end"
            tank("volume", "resize", "tank/vm", str(SIZE_BYTES))
            reply = client.call(wire.READ, SIZE_BYTES - BLOCK, BLOCK)
            assert not reply.error and reply.data == bytes(BLOCK), "what was cut off came back"
        exercise(str(server.socket_path), seed=4, rounds=10)


def tank_refuses(sds: Sds, *arguments: str) -> str:
    with pytest.raises(Exception, match="exit 1") as refusal:
        sds(*arguments)
    return str(refusal.value)


def test_snapshot_and_clone_keep_apart_while_all_is_overwritten_and_swept(tank: Sds, socket_dir: Path) -> None:
    with served(tank, socket_dir, "tank/vm") as [parent]:
        at_snapshot = exercise(str(parent.socket_path), seed=7, rounds=30)
        tank("snapshot", "tank/vm@kept")
        tank("clone", "tank/vm@kept", "tank/copy")
        others = socket_dir / "others"
        others.mkdir()
        with served(tank, others, "tank/vm@kept", "tank/copy") as [snapshot, clone]:
            final: dict[str, bytearray] = {}

            def overwrite(server: SdsServer, seed: int) -> None:
                final[server.dataset] = exercise(str(server.socket_path), seed=seed, rounds=80)

            tasks = [threading.Thread(target=overwrite, args=pair) for pair in ((parent, 8), (clone, 9))]
            for task in tasks:
                task.start()
            with Client(str(snapshot.socket_path)) as client:
                while any(task.is_alive() for task in tasks):
                    tank("pool", "clean", "tank")
                    assert read_all(client) == at_snapshot, "the snapshot changed"
            for task in tasks:
                task.join()
            assert set(final) == {"tank/vm", "tank/copy"}, "an exerciser failed"
            tank("pool", "clean", "tank")
            for server in (parent, clone):
                with Client(str(server.socket_path)) as client:
                    assert read_all(client) == final[server.dataset]
