"""A real kernel with a real file system on a volume of ours, across reboots and kill -9 of the server."""

from pathlib import Path

import pytest

from tests.guest.guest import boot
from tools.sds import Sds, run
from tools.servers import SdsServer

pytestmark = [pytest.mark.guest, pytest.mark.real("qemu-img", "mkfs.ext4", "e2fsck")]

ACKS = 60
KILL_AT = ("ACK 10", "ACK 25", "ACK 40")


@pytest.fixture
def server(sds: Sds, tmp_path: Path, socket_dir: Path) -> SdsServer:
    """A server, not yet started, of a volume in a pool over two directories."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    sds("pool", "create", "tank", tmp_path / "a", tmp_path / "b")
    sds("volume", "create", "tank/vm", "128M")
    return SdsServer(sds, "tank/vm", socket_dir / "s")


def install_file_system(server: SdsServer, directory: Path) -> None:
    image = directory / "ext4.img"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    run("mkfs.ext4", "-q", "-F", image)
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, server.uri)


def check_file_system(server: SdsServer, directory: Path) -> None:
    """The export as a whole, read by another client, is a clean ext4."""
    image = directory / "after.img"
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", server.uri, image)
    run("e2fsck", "-fn", image)


def test_a_guest_finds_after_a_reboot_what_it_wrote_and_survives_kills_of_the_server(
    server: SdsServer, tmp_path: Path
) -> None:
    """Boot 1 writes, boot 2 verifies, boot 3 works through three times kill -9 without one I/O error."""
    with server:
        install_file_system(server, tmp_path)
        boot(tmp_path, server.socket_path, "write")
    with server:
        second = boot(tmp_path, server.socket_path, "verify")

        def kill_and_restart(line: str) -> None:
            if line in KILL_AT:
                server.kill()
                server.start()

        third = boot(tmp_path, server.socket_path, "load", ACKS, kill_and_restart)
        check_file_system(server, tmp_path)

    assert second.lines[-2:] == ("verified 8 files", "OK verify")
    assert third.acknowledged == ACKS
    assert third.lines[-2:] == (f"verified {8 + ACKS} files", "OK load")


def test_the_guest_sees_a_disk_with_a_write_back_cache_and_discard(server: SdsServer, tmp_path: Path) -> None:
    """Without a write-back cache a kernel sends no flushes, and fsync in the guest would promise nothing."""
    with server:
        install_file_system(server, tmp_path)
        lines = boot(tmp_path, server.socket_path, "write").lines
    disk = next(line for line in lines if line.startswith("disk "))

    words = dict(word.split("=") for word in disk.split()[1:])
    assert words["cache"] == "write-back"
    assert words["sectors"] == str((128 << 20) // 512)
    assert int(words["discard"]) > 0
