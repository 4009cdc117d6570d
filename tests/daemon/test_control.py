"""The control socket: errors keep their class, bad requests are answered, stale sockets are recognised."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from sds.core import errors
from sds.core.errors import BackendError, BadInput, Busy, Failed, Missing, SdsError
from sds.daemon.control import CONNECTIONS_MAX, Handler, serve_control
from sds.daemon.control_client import LINE_BYTES_MAX, call, is_served

ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SdsError)]


async def echo(**args: object) -> object:
    return args


async def fail(kind: str) -> object:
    raise getattr(errors, kind)(f"this is {kind}")


async def bug() -> object:
    raise ZeroDivisionError("oops")


async def two(a: int, b: int) -> int:
    return a + b


HANDLERS: dict[str, Handler] = {"echo": echo, "fail": fail, "bug": bug, "two": two}


def serving(path: Path, work: Callable[[], Awaitable[None]]) -> None:
    """Runs `work` beside a server at `path`."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, path, HANDLERS)
            with trio.fail_after(10):
                await work()
            nursery.cancel_scope.cancel()

    trio.run(main)


async def ask(path: Path, op: str, **args: object) -> object:
    return await trio.to_thread.run_sync(lambda: call(path, op, timeout_s=10.0, **args))


def test_a_call_gives_the_result_of_the_handler(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"

    async def work() -> None:
        assert await ask(path, "echo", name="s1", n=1 << 62, t="ä\n") == {
            "name": "s1",
            "n": 1 << 62,
            "t": "ä\n",
        }
        assert await ask(path, "two", a=2, b=3) == 5

    serving(path, work)
    assert not path.exists(), "removed at the end"


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_arrives_as_the_class_it_was_raised_as(tmp_path: Path, kind: type[SdsError]) -> None:
    async def work() -> None:
        with pytest.raises(SdsError, match=f"this is {kind.__name__}") as caught:
            await ask(tmp_path / "w.sock", "fail", kind=kind.__name__)
        assert kind is type(caught.value)

    serving(tmp_path / "w.sock", work)


def test_a_bug_in_a_handler_is_reported_and_the_worker_lives_on(tmp_path: Path) -> None:
    async def work() -> None:
        with pytest.raises(Failed, match="ZeroDivisionError"):
            await ask(tmp_path / "w.sock", "bug")
        assert await ask(tmp_path / "w.sock", "echo") == {}

    serving(tmp_path / "w.sock", work)


BAD_LINES = [
    b"",
    b"junk",
    b"[]",
    b"1",
    b'{"op": 1}',
    b'{"op": "no"}',
    b'{"op": "two"}',
    b'{"op": "two", "args": []}',
]
BAD_LINES += [b'{"op": "two", "args": {"a": 1, "b": 2, "c": 3}}', b"[" * 50000, b"\xff\xfe", b'{"args": {}}']


def test_a_bad_request_is_answered_with_bad_input_and_the_next_one_works(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"

    def talk() -> list[dict[str, object]]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(b"\n".join([*BAD_LINES, b'{"op": "echo"}']) + b"\n")
            with connection.makefile("rb") as answers:
                return [json.loads(answers.readline()) for _ in range(len(BAD_LINES) + 1)]

    async def work() -> None:
        answers = await trio.to_thread.run_sync(talk)
        assert [{"BadInput"}] * len(BAD_LINES) == [{answer["error"]} for answer in answers[:-1]]
        assert answers[-1] == {"ok": True, "result": {}}

    serving(path, work)


def test_a_line_that_never_ends_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"

    def talk() -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(b"x" * (LINE_BYTES_MAX + 1))
            with connection.makefile("rb") as answers:
                return answers.read()

    async def work() -> None:
        answer = await trio.to_thread.run_sync(talk)
        assert json.loads(answer)["error"] == "BadInput"
        with pytest.raises(BadInput, match="at most"):
            await ask(path, "echo", text="x" * LINE_BYTES_MAX)

    serving(path, work)


def test_clients_that_come_and_go_in_numbers_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"

    def come_and_go() -> None:
        for _ in range(3 * CONNECTIONS_MAX):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.sendall(b'{"op": "echo"}\n{"op":')

    async def work() -> None:
        await trio.to_thread.run_sync(come_and_go)
        assert await ask(path, "echo") == {}

    serving(path, work)


def test_the_socket_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"

    async def work() -> None:
        assert stat.S_IMODE((await trio.Path(path).stat()).st_mode) == 0o600

    serving(path, work)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_not_listened_to_even_if_the_mode_lets_it_in(socket_dir: Path) -> None:
    path = socket_dir / "w.sock"
    os.chmod(socket_dir, 0o755)

    def connect_as(uid: int) -> socket.socket:
        """The kernel notes who connects at that moment; the server looks later."""
        connection = socket.socket(socket.AF_UNIX)
        os.seteuid(uid)
        try:
            connection.connect(str(path))
        finally:
            os.seteuid(0)
        return connection

    def talk(connection: socket.socket) -> bytes:
        with connection:
            try:
                connection.sendall(b'{"op": "echo"}\n')
                return connection.recv(100)
            except (ConnectionResetError, BrokenPipeError):
                return b""

    async def work() -> None:
        os.chmod(path, 0o666)
        for uid, heard in ((65534, False), (0, True)):
            assert heard == bool(await trio.to_thread.run_sync(talk, connect_as(uid)))

    serving(path, work)


def test_a_second_server_is_refused_and_the_first_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"

    async def work() -> None:
        with pytest.raises(Busy):
            await serve_control(path, HANDLERS)
        assert await ask(path, "echo") == {}

    serving(path, work)


SERVER = """
import sys, os, signal, trio
from pathlib import Path
from sds.daemon.control import serve_control
async def die() -> object:
    os.kill(os.getpid(), signal.SIGKILL)
async def main():
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, Path(sys.argv[1]), {"die": die})
        print("up", flush=True)
trio.run(main)
"""


def test_the_socket_of_a_killed_worker_is_recognised_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    with subprocess.Popen([sys.executable, "-c", SERVER, str(path)], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"up\n"
        assert is_served(path)
        with pytest.raises(BackendError, match=r"ended before it answered|hung up"):
            call(path, "die")
        assert worker.wait() == -signal.SIGKILL
    assert path.exists()
    assert not is_served(path)
    with pytest.raises(Missing, match="no worker"):
        call(path, "echo")

    async def work() -> None:
        assert await ask(path, "echo") == {}

    serving(path, work)


def test_nobody_there_is_missing_and_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(Missing):
        call(tmp_path / "none.sock", "echo")
    (tmp_path / "file").write_text("precious")
    with pytest.raises(SdsError):
        trio.run(serve_control, tmp_path / "file", HANDLERS)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_path_longer_than_the_kernel_takes_works(tmp_path: Path) -> None:
    directory = tmp_path / ("x" * 120)
    directory.mkdir()

    async def work() -> None:
        assert await ask(directory / "w.sock", "echo") == {}

    serving(directory / "w.sock", work)


def test_an_answer_that_does_not_come_in_time_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        with pytest.raises(BackendError, match="did not answer"):
            call(path, "echo", timeout_s=0.05)
