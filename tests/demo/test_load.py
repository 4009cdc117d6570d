"""The load that runs while the demo breaks things must tell when something breaks at the volume."""

from pathlib import Path

import pytest

from demo.ledger import BLOCK_BYTES, stamped
from demo.load import Load
from demo.report import Unproven
from tools.servers import QemuNbd

pytestmark = pytest.mark.real("qemu-nbd", "libnbd for Python")

BLOCKS = 64


@pytest.fixture
def server(tmp_path: Path, socket_dir: Path) -> QemuNbd:
    image = tmp_path / "disk.raw"
    with image.open("wb") as file:
        file.truncate(BLOCKS * BLOCK_BYTES)
    return QemuNbd(image, "raw", socket_dir / "s")


def test_what_was_acknowledged_is_found_again_and_a_lost_block_is_told(server: QemuNbd) -> None:
    with server:
        with Load(server.uri, BLOCKS, 7) as load:
            load.reach(200)
            load.stop()
        load.check(server.uri)
    assert load.acks >= 200
    assert load.worst_s > 0
    lost = max(range(BLOCKS), key=lambda block: block in load.acked)
    with server.image.open("r+b") as file:
        file.seek(lost * BLOCK_BYTES)
        file.write(stamped(lost, load.acked[lost] - 1) or bytes(BLOCK_BYTES))
    with server, pytest.raises(Unproven, match=f"block {lost} "):
        load.check(server.uri)


def test_a_server_that_goes_away_is_told(server: QemuNbd) -> None:
    server.start()
    with Load(server.uri, BLOCKS, 7) as load:
        load.reach(100)
        server.kill()
        with pytest.raises(Unproven, match="a write failed"):
            load.reach(10**9)
        with pytest.raises(Unproven, match="a write failed"):
            load.stop()
