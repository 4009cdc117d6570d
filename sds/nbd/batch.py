"""The fast path: reads and writes that need no waiting, answered straight from the receive buffer.

  F1  Nothing here awaits or starts a task; a request costs an unpack, some comparisons, the device, and a pack.
  F2  A request that is not plain and whole is left at the front of the buffer for the slow path, with its header.
  F3  A batch is bounded by requests and by bytes to send, so that the loop around it can give way to others, and
      so that a client that does not read makes us copy no more than that.
  F4  Counters are added up once per batch.
"""

from sds.nbd import wire
from sds.nbd.outbox import Outbox
from sds.nbd.receiver import Receiver
from sds.nbd.replies import Simple
from sds.nbd.state import State

REPLIES_MAX_BYTES = 1 << 20
BATCH_REQUESTS_MAX = 256
FAST_READ_MAX_BYTES = 1 << 20
"""Larger reads count against the budget, as tasks."""

Head = tuple[int, int, int, int]
"""A request as unpacked: magic with flags and command, cookie, offset, length."""


class Batch:
    def __init__(self, state: State, replies: Simple, received: Receiver, outbox: Outbox) -> None:
        self._state = state
        self._device = state.device
        self._replies = replies
        self._received = received
        self._outbox = outbox
        self._header_bytes = replies.request.size
        payload_flag = wire.CMD_PAYLOAD_LEN if replies.extended else 0
        self._read_head = wire.request_head(replies.magic, 0, wire.READ)
        self._write_head = wire.request_head(replies.magic, payload_flag, wire.WRITE)

    def answer(self) -> Head | None:
        """Answer requests from the front of the buffer. The first that cannot be answered so; None: all could."""
        received, outbox, device, count = self._received, self._outbox, self._device, self._state.metrics.count
        view, pos, end = received.view, received.pos, received.end
        unpack, header_bytes = self._replies.request.unpack_from, self._header_bytes
        read_head, write_head = self._read_head, -1 if device.read_only else self._write_head
        done, data, size_bytes = self._replies.done, self._replies.data, device.size_bytes
        append, extend = outbox.parts.append, outbox.parts.extend
        pending = start = outbox.pending_bytes
        reads = read_bytes = writes = written_bytes = 0
        limit = start + REPLIES_MAX_BYTES
        head: Head | None = None
        try:
            for _ in range(BATCH_REQUESTS_MAX):
                if end - pos < header_bytes or pending >= limit:
                    break
                head = kind, cookie, offset, length = unpack(view, pos)
                if not length or offset + length > size_bytes:
                    return head
                if kind == read_head:
                    if length > FAST_READ_MAX_BYTES or (parts := device.read_nowait(offset, length)) is None:
                        return head
                    reply = data(cookie, offset, length)
                    append(reply)
                    extend(parts)
                    pending += len(reply) + length
                    pos += header_bytes
                    reads += 1
                    read_bytes += length
                elif kind == write_head:
                    stop = pos + header_bytes + length
                    if stop > end or not device.write_nowait(offset, view[pos + header_bytes : stop]):
                        return head
                    reply = done(cookie, offset)
                    append(reply)
                    pending += len(reply)
                    pos = stop
                    writes += 1
                    written_bytes += length
                else:
                    return head
            return None
        except Exception as exc:  # the request at `pos` is tried again as a task, which tells the client
            self._state.tell_unexpected("the fast path", exc)
            return head
        finally:
            received.pos = pos
            outbox.pending_bytes = pending
            if reads:
                count(wire.READ, reads, read_bytes)
            if writes:
                count(wire.WRITE, writes, written_bytes)
