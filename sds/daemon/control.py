"""The control socket of a worker: how a command reaches the process that has a dataset open.

CT1  One JSON object per line, at most LINE_BYTES_MAX: {"op": name, "args": {...}}.
     Answer, one line each, in order: {"ok": true, "result": ...} or {"ok": false, "error": class, "message":
     text}.
CT2  Only processes of our own user, or root, are listened to (SO_PEERCRED; the socket's mode is 0600 as
     well).
CT3  The client raises the error class that the worker raised. Nobody listening (no socket, or a stale one of
     a killed worker) is Missing.
CT4  A handler runs to its end even if its client goes away: it may be in the middle of something.
CT5  At most CONNECTIONS_MAX clients at a time; one that sends nothing for IDLE_S is hung up on.
"""

import inspect
import json
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import trio

from sds.core import errors
from sds.core.errors import BadInput, Busy, SdsError
from sds.daemon.control_client import LINE_BYTES_MAX, is_served, short_path

CONNECTIONS_MAX = 16
IDLE_S = 60.0
_CREDENTIALS = struct.Struct("3i")

Handler = Callable[..., Awaitable[object]]
_log = logging.getLogger(__name__)


async def serve_control(
    path: Path, handlers: Mapping[str, Handler], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serves until cancelled, then removes the socket. Busy if another process listens there."""
    listener = _listen(path)
    mine = os.lstat(path)
    limiter = trio.CapacityLimiter(CONNECTIONS_MAX)
    try:
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                await limiter.acquire_on_behalf_of(token := object())
                connection, _ = await listener.accept()
                nursery.start_soon(_serve_client, connection, handlers, limiter, token)
    finally:
        listener.close()
        _remove(path, mine)


def _remove(path: Path, mine: os.stat_result) -> None:
    """Not the socket of a successor."""
    if path.exists() and os.path.samestat(os.lstat(path), mine):
        path.unlink()


def _listen(path: Path) -> trio.socket.SocketType:
    if is_served(path):
        raise Busy(f"another process serves {path}: stop it first")
    if path.exists() and not stat.S_ISSOCK(os.stat(path).st_mode):
        raise BadInput(f"{path} is in the way of a control socket: remove it")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)  # Before bind, so there is no moment with another mode.
        with short_path(path) as short:
            listener.bind(short)
        os.chmod(path, 0o600)
        listener.listen(CONNECTIONS_MAX)
    except OSError as error:
        listener.close()
        raise BadInput(f"cannot make the control socket {path}: {error.strerror}") from error
    return trio.socket.from_stdlib_socket(listener)


async def _serve_client(
    connection: trio.socket.SocketType,
    handlers: Mapping[str, Handler],
    limiter: trio.CapacityLimiter,
    token: object,
) -> None:
    try:
        with connection:
            if _is_allowed(connection):
                await _converse(trio.SocketStream(connection), handlers)
    except (trio.BrokenResourceError, OSError):
        _log.debug("a control client went away")
    finally:
        limiter.release_on_behalf_of(token)


def _is_allowed(connection: trio.socket.SocketType) -> bool:
    """CT2."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    return uid in (0, os.geteuid())


async def _converse(stream: trio.SocketStream, handlers: Mapping[str, Handler]) -> None:
    pending = bytearray()
    while True:
        while (end := pending.find(b"\n")) < 0:
            if len(pending) > LINE_BYTES_MAX:
                await stream.send_all(
                    _error(BadInput(f"a request is one line of at most {LINE_BYTES_MAX} bytes"))
                )
                return
            with trio.move_on_after(IDLE_S) as idle:
                data = await stream.receive_some(LINE_BYTES_MAX)
            if idle.cancelled_caught or not data:
                return
            pending += data
        line = bytes(pending[:end])
        del pending[: end + 1]
        await stream.send_all(await _answer(line, handlers))


async def _answer(line: bytes, handlers: Mapping[str, Handler]) -> bytes:
    try:
        handler, arguments = _parse(line, handlers)
        result = await handler(**arguments)
        return json.dumps({"ok": True, "result": result}).encode() + b"\n"
    except SdsError as error:
        return _error(error)
    except Exception as error:
        # A mistake in a handler must not end a worker that serves a disk; it is reported and logged.
        _log.exception("control request failed")
        return _error(errors.Failed(f"internal error in the worker: {type(error).__name__}: {error}"))


def _parse(line: bytes, handlers: Mapping[str, Handler]) -> tuple[Handler, dict[str, object]]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput("a request is one JSON object per line") from error
    if not isinstance(request, dict) or not isinstance(request.get("args", {}), dict):
        raise BadInput('a request looks like {"op": "...", "args": {...}}')
    operation, arguments = request.get("op"), request.get("args", {})
    handler = handlers.get(operation) if isinstance(operation, str) else None
    if handler is None:
        raise BadInput(f"this worker does not know the operation {str(operation)[:40]!r}")
    try:
        inspect.signature(handler).bind(**arguments)
    except TypeError as error:
        raise BadInput(f"wrong arguments for {operation}: {error}") from error
    return handler, arguments


def _error(error: SdsError) -> bytes:
    answer = {"ok": False, "error": type(error).__name__, "message": str(error)}
    return json.dumps(answer).encode() + b"\n"
