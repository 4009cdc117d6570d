"""Little memory for the stage: a volume works on with fewer slots, or says why it cannot be served."""

import os
import subprocess
from pathlib import Path

import pytest

from sds.nbd import wire
from tests.nbd.client import Client
from tests.real.content import Content
from tools.sds import Sds
from tools.servers import SdsServer, ServerFailed

pytestmark = pytest.mark.real("mount", "unshare")


class CrampedServer(SdsServer):
    """With a /dev/shm of its own."""

    options = "size=3m"

    def command(self) -> list[str]:
        mount = f'mount -t tmpfs -o {self.options} none /dev/shm && exec "$@"'
        return ["unshare", "-m", "sh", "-c", mount, "sh", *super().command()]


@pytest.fixture
def server(sds: Sds, tmp_path: Path, socket_dir: Path) -> CrampedServer:
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a mount namespace needs root")
    (tmp_path / "disk").mkdir()
    sds("pool", "create", "tank", tmp_path / "disk", "--segment-size", "1M")
    sds("volume", "create", "tank/vm", "64M")
    return CrampedServer(sds, "tank/vm", socket_dir / "s")


def test_memory_for_two_slots_of_four_is_enough(server: CrampedServer) -> None:
    content = Content()
    with server, Client(str(server.socket_path)) as client:
        for at in range(0, 2048, 32):
            reply = content.write(client, at, 32)
            assert not reply.error, reply.message
        assert not client.call(wire.FLUSH).error
    with server, Client(str(server.socket_path)) as client:
        content.verify(client, "opened again")


@pytest.mark.parametrize("options", ["size=4k", "size=512k", "ro"])
def test_no_memory_for_a_stage_is_one_clear_line(server: CrampedServer, options: str) -> None:
    server.options = options
    with pytest.raises(ServerFailed, match=r"sds: .*/dev/shm"):
        server.start()
    said = server.log_path.read_text()
    assert said.count("\n") == 1 and "Traceback" not in said
