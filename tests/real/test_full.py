"""A pool on a file system that is really full: every refusal comes before the answer, nothing answered is lost, and
the space comes back by itself.
"""

import errno
import os
import time
from pathlib import Path

import pytest

from sds.nbd import wire
from tests.nbd.client import Client
from tests.real.content import WRITE_BLOCKS_MAX, Content
from tests.real.places import no_stage_left, small_file_system
from tools.sds import Sds
from tools.servers import SdsServer

pytestmark = pytest.mark.real("mount", "umount", "mkfs.ext4")
SIZE_BYTES = 1 << 30
BLOCKS = SIZE_BYTES // 4096
PATIENCE_S = 20.0


def write_when_there_is_room(content: Content, client: Client, first: int) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while (reply := content.write(client, first, WRITE_BLOCKS_MAX)).error == errno.ENOSPC:
        assert time.monotonic() < deadline_s, f"the space did not come back: {reply.message}"
    assert not reply.error, reply.message


@pytest.mark.parametrize(("kind", "size_mib", "segment"), [("tmpfs", 64, "1M"), ("ext4", 200, "8M")])
def test_a_full_pool_refuses_writes_and_nothing_else(
    sds: Sds, socket_dir: Path, kind: str, size_mib: int, segment: str
) -> None:
    with small_file_system(kind, size_mib << 20) as where:
        sds("pool", "create", "tank", where, "--segment-size", segment)
        with no_stage_left(sds):
            sds("volume", "create", "tank/vm", str(SIZE_BYTES))  # more than there is
            server = SdsServer(sds, "tank/vm", socket_dir / "s")
            try:
                live_through_it(sds, server, where)
            finally:
                server.kill()


def live_through_it(sds: Sds, server: SdsServer, where: Path) -> None:
    content, address = Content(), str(server.socket_path)
    server.start()
    with Client(address) as client:
        fill_up(content, client)
        assert not client.call(wire.FLUSH).error
        content.verify(client, "full")
        tell_the_truth(sds, where, content)
        sds("snapshot", "tank/vm@full")
        written = len(content.versions)
        content.trim(client, 0, written // 2)
        refused = content.fill(client, 0, written // 2)
        assert refused is not None and refused.error == errno.ENOSPC, "a snapshot holds the space"
        sds("destroy", "tank/vm@full")
        write_when_there_is_room(content, client, written // 2 - WRITE_BLOCKS_MAX)
        content.verify(client, "writing again")
        fill_up(content, client)
    server.kill()
    server.start()
    with Client(address) as client:
        content.verify(client, "killed while full")
        tell_the_truth(sds, where, content)
        fill_up(content, client)
        content.trim(client, written // 2, written // 4)
        write_when_there_is_room(content, client, written // 2)
    server.stop()
    with server, Client(address) as client:
        content.verify(client, "at the end")


def fill_up(content: Content, client: Client) -> None:
    first = max(content.versions, default=-1) + 1
    refused = content.fill(client, first, BLOCKS)
    assert refused is not None, "the pool took more than it has"
    assert refused.error == errno.ENOSPC, refused.message
    assert "free space or add a backend" in refused.message


def tell_the_truth(sds: Sds, where: Path, content: Content) -> None:
    facts, (volume, *_) = sds.json("pool", "status", "tank"), sds.json("list")
    room = os.statvfs(where)
    really_free = room.f_bavail * room.f_frsize
    assert abs(facts["free_bytes"] - really_free) <= facts["segment_size"]
    assert abs(facts["stored_bytes"] + really_free - room.f_blocks * room.f_frsize) < 4 * facts["segment_size"]
    assert (volume["size_bytes"], volume["used_bytes"]) == (SIZE_BYTES, len(content.versions) * 4096)
