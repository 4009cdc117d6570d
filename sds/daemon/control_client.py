"""The client of a worker's control socket (daemon/control.py has the protocol). Blocking, no trio: commands
are quick to start that way.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sds.core import errors
from sds.core.errors import BackendError, BadInput, Missing, SdsError

LINE_BYTES_MAX = 64 << 10
ANSWER_BYTES_MAX = 16 << 20
TIMEOUT_S = 600.0
"""A rollback or a destroy of a large dataset may take its time."""
PROBE_S = 5.0
_SOCKET_PATH_MAX = 107


class NoWorker(Missing):
    """Nobody listens there: no socket, or one that a killed worker left."""


class HungUp(BackendError):
    """The worker ended, or went away, before it answered."""


def call(path: Path, op: str, /, timeout_s: float = TIMEOUT_S, **args: object) -> object:
    """The result of one operation of the worker that serves `path`; raises what the worker raised."""
    request = json.dumps({"op": op, "args": args}).encode() + b"\n"
    if len(request) > LINE_BYTES_MAX:
        raise BadInput(f"{op}: the request has {len(request)} bytes, at most {LINE_BYTES_MAX} are allowed")
    with _connect(path, timeout_s) as connection:
        try:
            connection.sendall(request)
            line = _receive_line(connection)
        except TimeoutError as error:
            raise BackendError(f"the worker at {path} did not answer {op} within {timeout_s:g} s") from error
        except OSError as error:
            raise HungUp(f"the worker at {path} hung up on {op}: {error.strerror}") from error
    if not line.endswith(b"\n"):
        raise HungUp(f"the worker at {path} ended before it answered {op}: look at its log")
    return _result(line, path)


def is_served(path: Path) -> bool:
    """Does a living process listen there?"""
    try:
        _connect(path, PROBE_S).close()
    except Missing:
        return False
    return True


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """The kernel takes 107 bytes of path for a socket; a longer one goes through a descriptor of its
    directory.
    """
    if len(os.fsencode(path)) <= _SOCKET_PATH_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _connect(path: Path, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        with short_path(path) as short:
            connection.connect(short)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        connection.close()
        raise NoWorker(f"no worker listens at {path}") from error
    except OSError as error:
        connection.close()
        raise BackendError(f"cannot reach the worker at {path}: {error.strerror}") from error
    return connection


def _receive_line(connection: socket.socket) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n") and len(received) <= ANSWER_BYTES_MAX:
        data = connection.recv(1 << 16)
        if not data:
            break
        received += data
    return bytes(received)


def _result(line: bytes, path: Path) -> object:
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise BackendError(f"the worker at {path} answered with something else than JSON") from error
    if not isinstance(answer, dict) or "ok" not in answer:
        raise BackendError(f"the worker at {path} answered in an unknown form")
    if answer["ok"]:
        return answer.get("result")
    kind = getattr(errors, str(answer.get("error")), None)
    if not (isinstance(kind, type) and issubclass(kind, SdsError)):
        kind = SdsError
    raise kind(str(answer.get("message")))
