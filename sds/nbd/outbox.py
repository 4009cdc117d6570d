"""Replies on their way to one socket: gathered, sent with as few system calls as possible, never blocking.

  O1  Parts leave in the order they were put; replies are put whole, so they never interleave.
  O2  Parts may be borrowed from the device. Whoever puts them calls `settle` before its next await: it sends
      what the socket takes and copies the rest (contract D5 of the device).
  O3  `pending_bytes` is what was announced in headers. If the parts disagree, the stream would lie about
      where replies begin: that is a HangUp, not a guess.
  O4  After an error of the socket everything put is dropped; requests under way still run to their end.
"""

import socket
from collections.abc import Sequence

import trio

from sds.nbd.budget import Budget
from sds.nbd.device import Buffer
from sds.nbd.wire import HangUp

PARTS_PER_CALL = 1024
"""IOV_MAX of Linux."""


class Outbox:
    def __init__(self, sock: socket.socket, pressure: Budget, stall_s: float) -> None:
        self._sock = sock
        self._pressure = pressure
        self._stall_s = stall_s
        self.parts: list[Buffer] = []
        self.pending_bytes = 0
        self._owned_count = 0
        self._draining = trio.Lock()
        self.broken = False

    def put(self, size_bytes: int, parts: Sequence[Buffer]) -> None:
        self.parts.extend(parts)
        self.pending_bytes += size_bytes

    def settle(self) -> bool:
        """True: all is sent. False: the socket is full, and what is left is ours (O2)."""
        if not self.parts or self._send():
            return True
        borrowed = self.parts[self._owned_count :]
        if borrowed:
            self.parts[self._owned_count :] = [b"".join(borrowed)]
            self._owned_count = len(self.parts)
        return False

    def _send(self) -> bool:
        parts = self.parts
        while parts and not self.broken:
            try:
                sent = self._sock.sendmsg(parts if len(parts) <= PARTS_PER_CALL else parts[:PARTS_PER_CALL])
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                self.broken = True
                break
            self.pending_bytes -= sent
            if self.pending_bytes:
                self._drop_sent(sent)
            else:
                parts.clear()
        if self.pending_bytes and not self.broken:
            raise HangUp(f"the device gave {self.pending_bytes} bytes less than it was asked for")
        parts.clear()
        self.pending_bytes = self._owned_count = 0
        return True

    def _drop_sent(self, sent: int) -> None:
        parts, index = self.parts, 0
        while index < len(parts) and sent >= len(parts[index]):
            sent -= len(parts[index])
            index += 1
        if sent:
            parts[index] = memoryview(parts[index])[sent:]
        del parts[:index]
        self._owned_count = max(0, self._owned_count - index)

    async def drain(self) -> None:
        """Wait until everything is sent. A client that stalls is cut off if others wait for memory."""
        async with self._draining:
            while not self.settle():
                with trio.move_on_after(self._stall_s) as wait:
                    await trio.lowlevel.wait_writable(self._sock)
                if wait.cancelled_caught and self._pressure.contended:
                    raise HangUp("the client does not read its replies and others wait for the memory")
