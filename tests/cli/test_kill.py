"""kill -9 of `sds serve` under load: nothing that was acknowledged is lost, and the next one starts at once.

KILL_ROUNDS=200 KILL_SEED=7 pytest tests/cli/test_kill.py runs more.
"""

import os
import random
import threading
import time
from pathlib import Path

from sds.nbd import wire
from tests.cli.load import Model, write_until_closed
from tests.nbd.client import Client
from tools.sds import Sds
from tools.servers import SdsServer

ROUNDS = int(os.environ.get("KILL_ROUNDS", "20"))
SEED = int(os.environ.get("KILL_SEED", "1"))
SIZE_BYTES = 32 << 20
SNAPSHOT_EVERY = 5


def test_kill_9_under_load_loses_nothing_that_was_acknowledged(sds: Sds, tmp_path: Path, socket_dir: Path) -> None:
    backends = [tmp_path / name for name in "ab"]
    for backend in backends:
        backend.mkdir()
    sds("pool", "create", "tank", *backends, "--segment-size", "1M")
    sds("volume", "create", "tank/vm", str(SIZE_BYTES))
    model, delays = Model(SIZE_BYTES, SEED), random.Random(SEED)
    server = SdsServer(sds, "tank/vm", socket_dir / "s")
    kept: dict[str, list[bytes]] = {}
    for number in range(ROUNDS):
        server.start()
        with Client(str(server.socket_path)) as client:
            model.verify(client, f"round {number}")
        if number % SNAPSHOT_EVERY == SNAPSHOT_EVERY - 1:
            kept[f"s{number}"] = list(model.blocks)
            sds("snapshot", f"tank/vm@s{number}")
        killer = threading.Thread(target=_kill_after, args=(server, delays.uniform(0.05, 0.8)))
        killer.start()
        write_until_closed(model, str(server.socket_path), requests=32)
        killer.join()
    assert model.answered > 20 * ROUNDS, "there was no load to speak of"
    with server, Client(str(server.socket_path)) as client:
        model.verify(client, "at the end")
    for name, blocks in kept.items():
        with SdsServer(sds, f"tank/vm@{name}", socket_dir / name) as snapshot, Client(str(snapshot.socket_path)) as c:
            at_snapshot = Model(SIZE_BYTES, SEED)
            at_snapshot.blocks = blocks
            at_snapshot.verify(c, f"snapshot {name}")
            assert c.call(wire.WRITE, 0, payload=bytes(4096)).error, "a snapshot took a write"


def _kill_after(server: SdsServer, delay_s: float) -> None:
    time.sleep(delay_s)
    server.kill()
