"""The server: accepts connections for one device and outlives all of them.

  V1  Whatever happens in one connection ends at most that connection.
  V2  Handshakes under way and connections in all are bounded. A full house hangs up at once; too many
      handshakes wait in the backlog of the socket, each for one deadline at most.
  V3  `stop` is graceful: no new connections, requests already received are answered, then everything is
      closed. A client that does not take its replies is cut after `grace_s`; what it asked for is still
      finished.
"""

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

import trio

from sds.nbd.device import Device
from sds.nbd.handshake import Export, Negotiated, negotiate
from sds.nbd.listeners import Listener
from sds.nbd.state import Limits, Metrics, State, log
from sds.nbd.transmission import Connection
from sds.nbd.wire import HangUp

SOCKET_BUFFER_BYTES = 2 << 20
ACCEPT_PAUSE_S = 0.1
"""After the system had no file descriptor or memory for a connection."""
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class HandshakeStream:
    """Exact reads and whole writes on a non-blocking socket; used for the few messages of a handshake."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def read(self, size_bytes: int) -> bytes:
        data = bytearray(size_bytes)
        view, have = memoryview(data), 0
        while have < size_bytes:
            try:
                count = self._sock.recv_into(view[have:])
            except (BlockingIOError, InterruptedError):
                await trio.lowlevel.wait_readable(self._sock)
                continue
            except OSError as exc:
                raise HangUp("the client has gone") from exc
            if count == 0:
                raise HangUp("the client has gone")
            have += count
        return bytes(data)

    async def skip(self, size_bytes: int) -> None:
        while size_bytes > 0:
            size_bytes -= len(await self.read(min(size_bytes, 1 << 16)))

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._sock.send(view) :]
            except (BlockingIOError, InterruptedError):
                await trio.lowlevel.wait_writable(self._sock)
            except OSError as exc:
                raise HangUp("the client has gone") from exc


class Server:
    def __init__(
        self, device: Device, *, export_name: str, description: str = "", limits: Limits | None = None
    ) -> None:
        self._export = Export(export_name, description)
        self._limits = limits or Limits()
        self._state = State(device, self._limits)
        self._handshakes = trio.Semaphore(self._limits.handshakes)
        self._until_stop: set[trio.CancelScope] = set()
        """Around everything that a stop ends at once: accepting, handshakes."""

    @property
    def metrics(self) -> Metrics:
        return self._state.metrics

    def stop(self) -> None:
        """Graceful (V3); `serve` returns when it is done. Call it in the event loop; harmless if repeated."""
        if self._state.stopping_since:
            return
        self._state.stopping_since = perf_counter()
        for scope in self._until_stop:
            scope.cancel()
        for connection in self._state.transmitting:
            connection.finish()

    async def serve(
        self, listeners: Sequence[Listener], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until `stop`. Closes the listeners; requests under way have ended when it returns."""
        try:
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as acceptors:
                    for listener in listeners:
                        acceptors.start_soon(self._accept, listener.sock, connections)
                    task_status.started()
                for listener in listeners:
                    listener.close()
                await self._cut_after_grace()
        finally:
            for listener in listeners:
                listener.close()

    async def _cut_after_grace(self) -> None:
        with trio.move_on_after(self._limits.grace_s):
            while self._state.transmitting:
                await self._state.transmitting[0].ended.wait()
        for connection in self._state.transmitting:
            log.warning("a client does not take its replies: closing the connection")
            connection.cut()

    @contextmanager
    def _ends_at_stop(self) -> Iterator[trio.CancelScope]:
        with trio.CancelScope() as scope:
            self._until_stop.add(scope)
            if self._state.stopping_since:
                scope.cancel()
            try:
                yield scope
            finally:
                self._until_stop.discard(scope)

    async def _accept(self, listener: socket.socket, connections: trio.Nursery) -> None:
        with self._ends_at_stop():
            while True:
                await self._handshakes.acquire()
                try:
                    sock = await _next(listener)
                except BaseException:
                    self._handshakes.release()
                    raise
                connections.start_soon(self._handle, sock)

    async def _handle(self, sock: socket.socket) -> None:
        """One connection from accept to close (V1)."""
        metrics = self._state.metrics
        metrics.connections += 1
        metrics.connections_total += 1
        try:
            with sock:
                negotiated = await self._shake_hands(sock)
                if negotiated is not None and not self._state.stopping_since:
                    await Connection(sock, negotiated, self._state).run()
        except Exception as exc:
            self._state.tell_unexpected("a connection", exc)
        finally:
            metrics.connections -= 1

    async def _shake_hands(self, sock: socket.socket) -> Negotiated | None:
        """The slot of the handshake is given back, whatever happens."""
        try:
            if self._state.metrics.connections > self._limits.connections:
                log.warning("connection refused: %d are open already", self._limits.connections)
                return None
            _prepare(sock)
            negotiated = None
            with self._ends_at_stop() as scope:
                scope.deadline = trio.current_time() + self._limits.handshake_s
                negotiated = await negotiate(HandshakeStream(sock), self._state.device, self._export)
            if scope.cancelled_caught and not self._state.stopping_since:
                log.info("closing a connection: no handshake within %g s", self._limits.handshake_s)
            return negotiated
        except (HangUp, OSError) as exc:
            log.info("closing a connection: %s", exc)
        finally:
            self._handshakes.release()
        return None


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)


async def _next(listener: socket.socket) -> socket.socket:
    """The next connection. One that left again, or a system that is full, is no reason to end."""
    while True:
        try:
            return listener.accept()[0]
        except (BlockingIOError, InterruptedError):
            await trio.lowlevel.wait_readable(listener)
        except OSError as exc:
            if exc.errno in _EXHAUSTED:
                log.warning("cannot accept a connection: %s", exc)
            await trio.sleep(ACCEPT_PAUSE_S if exc.errno in _EXHAUSTED else 0)


async def serve(
    device: Device,
    listeners: Sequence[Listener],
    *,
    export_name: str,
    description: str = "",
    limits: Limits | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled or until `stop` of the server that `task_status` hands out."""
    server = Server(device, export_name=export_name, description=description, limits=limits)
    task_status.started(server)
    await server.serve(listeners)
