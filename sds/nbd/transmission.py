"""One connection after the handshake: the batch loop and the requests that leave it.

  T1  The loop receives as much as the socket holds into one buffer, answers every complete request in it that
      needs no waiting, and sends all replies with one system call. No task, no stream object, no await per
      request.
  T2  What must wait runs as a task that owns its bytes: the receive buffer is reused at once. Tasks are
      bounded by count and bytes, per connection and per server; when the bounds are reached the loop stops
      receiving.
  T3  Before every await of the loop all borrowed reply parts are sent or copied (outbox O2).
  T4  The loop gives way to other tasks at least every SLICE_S, sooner when requests of its own are under way.
  T5  A connection that ends (DISC, end of file, error, stop) starts no further request, waits for those under
      way, sends their replies if it can, and only then counts as ended.
"""

import errno
import select
import socket
from collections.abc import Sequence
from time import perf_counter

import trio

from sds.core.errors import BackendError, Corrupt, SdsError
from sds.nbd import wire
from sds.nbd.batch import REPLIES_MAX_BYTES, Batch, Head
from sds.nbd.budget import Budget
from sds.nbd.commands import Executor, check, cost_bytes, payload_length
from sds.nbd.device import Buffer
from sds.nbd.handshake import Negotiated
from sds.nbd.outbox import Outbox
from sds.nbd.receiver import CAPACITY_BYTES, Receiver
from sds.nbd.state import State, log
from sds.nbd.wire import HangUp, Request, wire_errno

SLICE_S = 0.0015
SLICE_WITH_TASKS_S = 0.0003
ALONE_S = 0.002
"""After another connection was active this recently, the loop does not spin."""
STOPPING_S = 0.2
"""What a stopping server still receives from a client that never pauses."""


class Connection:
    def __init__(self, sock: socket.socket, negotiated: Negotiated, state: State) -> None:
        limits = state.limits
        self._sock = sock
        self._state = state
        self._device = state.device
        self._replies = negotiated.replies
        self._contexts = negotiated.contexts
        self._executor = Executor(state.device, negotiated.replies, negotiated.contexts)
        self._budget = Budget(limits.requests_per_connection, limits.bytes_per_connection)
        self._outbox = Outbox(sock, state.budget, limits.stall_s)
        self._in = Receiver(sock, state.budget, limits.stall_s)
        self._header_bytes = negotiated.replies.request.size
        self._batch = Batch(state, negotiated.replies, self._in, self._outbox)
        self._slice_end = 0.0
        self._alone_since = 0.0
        self._cut = False
        self._receiving = True
        self._nursery: trio.Nursery
        self.ended = trio.Event()

    async def run(self) -> None:
        """Serve until the client leaves or breaks the protocol; requests under way are finished (T5)."""
        try:
            await self._state.admit(self)
            async with trio.open_nursery() as self._nursery:
                try:
                    try:
                        await self._loop()
                    finally:
                        self._outbox.settle()
                except HangUp as exc:
                    log.info("closing a connection: %s", exc)
                except Exception as exc:
                    self._state.tell_unexpected("a connection", exc)
                self._receiving = False
            await self._finish_replies()
        finally:
            self._state.transmitting.remove(self)
            self.ended.set()

    async def _finish_replies(self) -> None:
        try:
            await self._outbox.drain()
        except HangUp as exc:
            log.info("closing a connection: %s", exc)

    def is_dead(self) -> bool:
        """It will receive nothing more: it ends already, or its peer is gone and the loop has yet to see it."""
        if not self._receiving:
            return True
        poll = select.poll()
        poll.register(self._sock, select.POLLRDHUP)
        return bool(poll.poll(0))

    def cut(self) -> None:
        """Start no further request, send no further reply; wakes whoever waits for the socket."""
        self._cut = True
        self._outbox.broken = True
        self._shut(socket.SHUT_RDWR)

    def finish(self) -> None:
        """Serve what has been received, then end (graceful stop)."""
        self._shut(socket.SHUT_RD)

    def _shut(self, how: int) -> None:
        try:
            self._sock.shutdown(how)
        except OSError:
            log.debug("a connection was shut down already")

    async def _loop(self) -> None:
        received, header_bytes = self._in, self._header_bytes
        while not self._cut:
            stopped = self._batch.answer()
            if stopped is not None:
                if not await self._leave_the_loop(stopped):
                    return
            elif not self._outbox.settle():
                await self._outbox.drain()
            now = perf_counter()
            if now >= self._slice_end:
                await self._give_way()
            if stopped is not None or received.end - received.pos >= header_bytes:
                continue
            if self._state.stopping_since and now > self._state.stopping_since + STOPPING_S:
                return
            if not await received.fill(header_bytes, now >= self._alone_since and not self._budget.count):
                return
            if self._state.last_active is not self:
                self._state.last_active = self
                self._alone_since = now + ALONE_S

    async def _give_way(self) -> None:
        await self._settle()
        await trio.lowlevel.checkpoint()
        self._slice_end = perf_counter() + (SLICE_WITH_TASKS_S if self._budget.count else SLICE_S)

    async def _leave_the_loop(self, head: Head) -> bool:
        """The first request needs more bytes, a task, or an error. False: the connection ends."""
        kind, cookie, offset, length = head
        if kind >> 32 != self._replies.magic:
            raise HangUp("a request does not start with its magic")
        request = Request(kind >> 16 & 0xFFFF, kind & 0xFFFF, cookie, offset, length)
        if request.command == wire.DISC:
            return False
        payload_bytes = payload_length(request, self._replies)
        refusal = check(request, self._device, self._replies, self._contexts)
        if refusal is not None:
            return await self._refuse(request, payload_bytes, refusal.errno, refusal.message)
        whole = self._header_bytes + payload_bytes
        if self._in.available < whole <= CAPACITY_BYTES:
            await self._settle()
            return await self._in.fill(whole, True)
        cost = cost_bytes(request)
        if not await self._reserve(cost):
            return False
        self._in.pos += self._header_bytes
        if not payload_bytes:
            payload: memoryview | None = None
        elif whole <= CAPACITY_BYTES:
            payload = self._take_payload(request, payload_bytes)
        else:
            payload = memoryview(bytearray(payload_bytes))
            await self._settle()
            if not await self._receive_payload(payload, cost):
                return False
        self._state.metrics.count(request.command, 1, length)
        self._nursery.start_soon(self._run, request, payload, cost)
        return True

    def _take_payload(self, request: Request, payload_bytes: int) -> memoryview | None:
        """The payload as the task's own bytes. None: the data of a FUA write is in, only the flush is left."""
        pos = self._in.pos
        view = self._in.view[pos : pos + payload_bytes]
        self._in.pos += payload_bytes
        if request.command == wire.WRITE and request.flags & wire.CMD_FUA:
            try:
                if self._device.write_nowait(request.offset, view):
                    return None
            except Exception as exc:
                self._state.tell_unexpected("the fast path", exc)
        return memoryview(bytes(view))

    async def _receive_payload(self, payload: memoryview, cost: int) -> bool:
        """A payload larger than the buffer; what was reserved is given back if it never arrives."""
        complete = False
        try:
            complete = await self._in.take_into(payload)
        finally:
            if not complete:
                self._give_back(cost)
        return complete

    async def _refuse(self, request: Request, payload_bytes: int, number: int, message: str) -> bool:
        """Drop the payload, if that is reasonable, then answer: clients expect no reply while they send."""
        if payload_bytes > wire.DRAIN_MAX_BYTES:
            raise HangUp(f"a request with a payload of {payload_bytes} bytes")
        self._in.pos += self._header_bytes
        if self._in.available < payload_bytes:
            await self._settle()
        if not await self._in.skip(payload_bytes):
            return False
        reply = self._error(request, number, message)
        self._outbox.put(len(reply), (reply,))
        if self._outbox.pending_bytes >= REPLIES_MAX_BYTES:
            await self._settle()
        return True

    def _error(self, request: Request, number: int, message: str) -> bytes:
        self._state.metrics.errors += 1
        return self._replies.error(request.cookie, request.offset, wire_errno(number), message)

    async def _settle(self) -> None:
        if not self._outbox.settle():
            await self._outbox.drain()

    async def _reserve(self, cost: int) -> bool:
        """Room for one more task. False: the connection was cut meanwhile."""
        if not self._budget.take_nowait(cost):
            await self._settle()
            await self._budget.take(cost)
        if not self._state.budget.take_nowait(cost):
            try:
                await self._settle()
                await self._state.budget.take(cost)
            except BaseException:
                self._budget.give(cost)
                raise
        if self._cut:
            self._give_back(cost)
        return not self._cut

    def _give_back(self, cost: int) -> None:
        self._budget.give(cost)
        self._state.budget.give(cost)

    async def _run(self, request: Request, payload: memoryview | None, cost: int) -> None:
        """A request as a task. Its share of the budget is held until its reply is on the way."""
        try:
            size_bytes, parts = await self._execute(request, payload)
            self._outbox.put(size_bytes, parts)
            await self._settle()
        except HangUp as exc:
            log.info("closing a connection: %s", exc)
            self.cut()
        finally:
            self._give_back(cost)

    async def _execute(self, request: Request, payload: memoryview | None) -> tuple[int, Sequence[Buffer]]:
        try:
            return await self._executor.execute(request, payload)
        except SdsError as exc:
            if isinstance(exc, (Corrupt, BackendError)):
                log.error("%s at %d: %s", wire.COMMAND_NAMES[request.command], request.offset, exc)
            reply = self._error(request, exc.errno, str(exc))
        except Exception as exc:
            self._state.tell_unexpected(wire.COMMAND_NAMES[request.command], exc)
            reply = self._error(request, errno.EIO, "internal error; the server's log tells more")
        return len(reply), (reply,)
