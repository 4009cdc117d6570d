"""The receive side of a connection: one buffer, filled with as much as the socket holds.

  R1  `view[pos:end]` is what has been received and not consumed. The buffer is anonymous memory: pages that
      are never filled cost nothing, and a connection that keeps up only ever touches the first ones.
  R2  Nobody keeps a slice of the buffer across a call of `fill`.
  R3  Before parking in trio, `recv` is tried some more: a wake-up costs more than a short wait. The number of
      tries adapts to how long this client really lets us wait, so that a slow client burns no processor.
"""

import mmap
import socket
from time import perf_counter

import trio

from sds.nbd.budget import Budget
from sds.nbd.wire import HangUp

CAPACITY_BYTES = (4 << 20) + (64 << 10)
"""Writes up to 4 MiB are taken from here without a copy."""
TRIES_MAX = 40
WORTH_TRYING_S = 0.0001


class Receiver:
    def __init__(self, sock: socket.socket, pressure: Budget, stall_s: float) -> None:
        self._sock = sock
        self._pressure = pressure
        self._stall_s = stall_s
        self.view = memoryview(mmap.mmap(-1, CAPACITY_BYTES))
        self.pos = 0
        self.end = 0
        self._tries = TRIES_MAX

    @property
    def available(self) -> int:
        return self.end - self.pos

    def _make_room(self, need_bytes: int) -> None:
        if self.pos == self.end:
            self.pos = self.end = 0
        elif CAPACITY_BYTES - self.pos < need_bytes:
            self.view[: self.end - self.pos] = self.view[self.pos : self.end]
            self.end -= self.pos
            self.pos = 0

    async def fill(self, need_bytes: int, may_spin: bool) -> bool:
        """Receive until `need_bytes` are available. False: the client has gone."""
        self._make_room(need_bytes)
        wanted = self.pos + need_bytes
        tries = self._tries if may_spin else 0
        receive, view = self._sock.recv_into, self.view
        while self.end < wanted:
            try:
                count = receive(view[self.end :])
            except (BlockingIOError, InterruptedError):
                if tries > 0:
                    tries -= 1
                else:
                    await self._park()
                continue
            except OSError:
                return False
            if count == 0:
                return False
            self.end += count
        return True

    async def _park(self) -> None:
        start = perf_counter()
        await trio.lowlevel.wait_readable(self._sock)
        waited_s = perf_counter() - start
        self._tries = TRIES_MAX if waited_s < WORTH_TRYING_S else self._tries // 2

    async def take_into(self, target: memoryview) -> bool:
        """Move the next bytes into a buffer of the caller, the rest of it straight from the socket."""
        have = min(self.available, len(target))
        target[:have] = self.view[self.pos : self.pos + have]
        self.pos += have
        while have < len(target):
            count = await self._receive(target[have:])
            if count == 0:
                return False
            have += count
        return True

    async def skip(self, size_bytes: int) -> bool:
        """Throw away the next bytes."""
        have = min(self.available, size_bytes)
        self.pos += have
        size_bytes -= have
        while size_bytes > 0:
            self.pos = self.end = 0
            count = await self._receive(self.view[: min(size_bytes, 1 << 18)])
            if count == 0:
                return False
            size_bytes -= count
        return True

    async def _receive(self, target: memoryview) -> int:
        """Some bytes; 0: the client has gone. HangUp if it stalls while others wait for the memory it holds."""
        while True:
            try:
                return self._sock.recv_into(target)
            except (BlockingIOError, InterruptedError):
                with trio.move_on_after(self._stall_s) as wait:
                    await trio.lowlevel.wait_readable(self._sock)
                if wait.cancelled_caught and self._pressure.contended:
                    raise HangUp("the client stalls inside a payload and others wait for memory") from None
            except OSError:
                return 0
