"""The harness that starts and ends servers: no test may go on with a server that is not there, or leave one."""

from pathlib import Path

import pytest

from tools.sds import CommandFailed, run
from tools.servers import Nbdkit, QemuNbd, Server, ServerFailed

pytestmark = pytest.mark.real("qemu-nbd", "nbdkit", "nbdinfo")


@pytest.fixture(params=["qemu-nbd", "nbdkit"])
def server(request: pytest.FixtureRequest, tmp_path: Path, socket_dir: Path) -> Server:
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(1 << 20))
    if request.param == "qemu-nbd":
        return QemuNbd(image, "raw", socket_dir / "s")
    return Nbdkit(image, socket_dir / "s")


def size(server: Server) -> str:
    return run("nbdinfo", "--size", server.uri).strip()


def test_a_started_server_answers_at_once_and_again_after_kill_and_restart(server: Server) -> None:
    with server:
        assert size(server) == str(1 << 20)
        server.kill()
        assert not server.running
        server.start()
        assert size(server) == str(1 << 20)


def test_leaving_the_context_ends_the_server_whatever_happened(server: Server) -> None:
    pids: list[int] = []

    def fail_inside() -> None:
        with server:
            pids.append(server.pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()

    assert not server.running
    assert not Path(f"/proc/{pids[0]}").exists()


def test_a_server_that_cannot_start_says_why(tmp_path: Path, socket_dir: Path) -> None:
    with pytest.raises(ServerFailed, match=r"nowhere\.raw"):
        QemuNbd(tmp_path / "nowhere.raw", "raw", socket_dir / "s").start()


def test_a_failing_program_is_an_error_with_its_own_words() -> None:
    with pytest.raises(CommandFailed, match="nbdinfo"):
        run("nbdinfo", "nbd+unix:///?socket=/nonexistent")
