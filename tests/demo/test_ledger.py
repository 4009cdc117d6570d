"""The witness of the demo must notice a lie, or its testimony is worth nothing."""

import random
from pathlib import Path

import pytest

from demo.ledger import BLOCK_BYTES, Ledger, stamped
from tools.servers import QemuNbd

pytestmark = pytest.mark.real("qemu-nbd", "libnbd for Python")

BLOCKS = 64


@pytest.fixture
def server(tmp_path: Path, socket_dir: Path) -> QemuNbd:
    image = tmp_path / "disk.raw"
    with image.open("wb") as file:
        file.truncate(BLOCKS * BLOCK_BYTES)
    return QemuNbd(image, "raw", socket_dir / "s")


def written_and_killed(server: QemuNbd) -> Ledger:
    ledger = Ledger(BLOCKS, random.Random(7))
    server.start()
    ledger.write_until_gone(server.uri, 2000, server.kill)
    return ledger


def put(server: QemuNbd, block: int, data: bytes) -> None:
    with server.image.open("r+b") as file:
        file.seek(block * BLOCK_BYTES)
        file.write(data)


def test_a_server_that_keeps_every_acknowledged_write_loses_nothing(server: QemuNbd) -> None:
    """qemu-nbd hands each write to the kernel before it replies, so kill -9 alone loses nothing."""
    ledger = written_and_killed(server)
    with server:
        assert ledger.losses(server.uri) == []
    assert ledger.acks >= 2000


def test_an_older_version_a_torn_block_and_a_foreign_block_are_losses(server: QemuNbd) -> None:
    ledger = written_and_killed(server)
    old, torn, foreign = sorted(set(ledger.acked) - set(ledger.in_flight))[:3]
    put(server, old, stamped(old, ledger.acked[old] - 1))
    put(server, torn, stamped(torn, ledger.acked[torn] + 1)[:512])
    put(server, foreign, stamped(foreign + 1, ledger.acked[foreign]))

    with server:
        losses = ledger.losses(server.uri)

    assert [loss.split()[1] for loss in losses] == [str(old), str(torn), str(foreign)]
