"""A circuit breaker around a connected backend: one that fails or hangs is asked no more, until it is well.

    online    <--> degraded     some of the last operations failed
       \\            |
        `---------> faulted     ERRORS_MAX errors in a row, or one hang; back to online by `probe` only

  G1  What counts is BackendError, and BadInput: our names and sizes are right, so that is a store that refuses us
      (credentials, permission, bucket). It goes on as BackendError, for then another copy may do. Missing, Exists,
      NoSpace and Corrupt are answers: they count neither way.
      Errors of what changes something are counted by themselves: a disk that takes no writes may still be read.
  G2  While faulted, operations fail at once without touching the backend, but for G3, settle, usage, close and probe.
  G3  While faulted, open, get and read are tried one at a time, for data may have its only copy here. The others wait
      for their turn, but no longer than until the one that they met has taken PATIENCE_S: then they fail at once.
      Their success does not end the fault: writes may still hang.
  G4  read_nowait is the inner reader's own: it costs nothing, and tells nothing about the device.
  G5  `on_change` is called when the state changes, after it has. It must not raise.
"""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import trio

from sds.core.errors import BackendError, BadInput, Corrupt, Hung, Missing

from .base import Backend, Reader, Stat, Usage

State = Literal["online", "degraded", "faulted"]
ERRORS_MAX = 5
"""In a row."""
CALM_S = 10.0
"""Degraded lasts until a success this long after the last error: one operation in two may fail."""
PATIENCE_S = 1.0
PROBE_EVERY_S = 10.0
"""How often the owner of a guard calls `probe` while it is not online."""
PROBE_S = 10.0
PROBE_SIZE_MAX_BYTES = 1 << 20
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Health:
    state: State
    since_s: float
    """By the clock of the guard."""
    errors: int
    """In a row."""
    last_error: str


def _nothing(before: Health, after: Health) -> None:
    pass


class Guarded:
    """`clock` tells seconds; it runs also outside of the event loop."""

    def __init__(
        self,
        inner: Backend,
        on_change: Callable[[Health, Health], None] = _nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner = inner
        self._on_change = on_change
        self._clock = clock
        self._health = Health("online", clock(), 0, "")
        self.is_faulted = self.is_degraded = False  # As health says: plain attributes, for every read looks at them.
        self._failed_at = clock()
        self._write_errors = 0
        self._usage = Usage(0, 0)
        self._turn = trio.Lock()
        self._turn_until = 0.0

    @property
    def inner(self) -> Backend:
        return self._inner

    @property
    def health(self) -> Health:
        return self._health

    @property
    def url(self) -> str:
        return self._inner.url

    async def create(self, name: str, size_bytes: int) -> None:
        await self._run(lambda: self._inner.create(name, size_bytes))

    async def write(self, name: str, offset: int, data: memoryview, sync: bool = False) -> None:
        await self._run(lambda: self._inner.write(name, offset, data, sync))

    async def sync(self, name: str) -> None:
        await self._run(lambda: self._inner.sync(name))

    async def seal(self, name: str, size_bytes: int) -> None:
        await self._run(lambda: self._inner.seal(name, size_bytes))

    async def open(self, name: str) -> Reader:
        return _GuardedReader(self, await self.look(lambda: self._inner.open(name)))

    async def put(self, name: str, data: bytes) -> None:
        await self._run(lambda: self._inner.put(name, data))

    async def get(self, name: str, size_limit_bytes: int) -> bytes:
        return await self.look(lambda: self._inner.get(name, size_limit_bytes))

    async def delete(self, name: str) -> None:
        await self._run(lambda: self._inner.delete(name))

    async def list(self, prefix: str) -> list[Stat]:
        return await self._run(lambda: self._inner.list(prefix))

    async def settle(self, prefix: str) -> None:
        await self._inner.settle(prefix)

    def usage(self) -> Usage:
        """Of one that cannot say: no room. To look for a place must not fail because of one backend."""
        try:
            self._usage = self._inner.usage()
        except (BackendError, Corrupt, Missing) as error:
            self.failed(error)
            return Usage(self._usage.total_bytes, 0)
        return self._usage

    async def close(self) -> None:
        await self._inner.close()

    async def probe(self, name: str, limit_s: float = PROBE_S) -> bool:
        """Whether a small file that must be there can be read; that ends a fault. Without it (Missing) the backend is
        another one than before, or not mounted. May take HANG_S where a thread cannot be interrupted."""
        with trio.move_on_after(limit_s):
            try:
                await self._inner.get(name, PROBE_SIZE_MAX_BYTES)
            except (BackendError, BadInput, Missing, Corrupt) as error:
                self.failed(error)
                return False
            self._write_errors = 0
            if self.is_faulted:
                self._set("online", 0, self._health.last_error)
            else:
                self.succeeded()
            return True
        self.failed(Hung(f"{self.url}: {name}: no answer for {limit_s:g} s: is the device still there?"))
        return False

    # For the readers, too.

    async def look(self, operation: Callable[[], Awaitable[Result]]) -> Result:
        """An operation that changes nothing (G3)."""
        if not self.is_faulted:
            return await self._count(operation)
        await self._take_turn()
        try:
            self._turn_until = trio.current_time() + PATIENCE_S
            return await self._count(operation)
        finally:
            self._turn.release()

    def failed(self, error: Exception) -> None:
        """Counts the error."""
        errors = self._health.errors + 1
        self._failed_at = self._clock()
        is_fault = self.is_faulted or isinstance(error, Hung) or errors >= ERRORS_MAX
        self._set("faulted" if is_fault else "degraded", errors, str(error))

    def succeeded(self) -> None:
        if self.is_degraded:
            is_calm = self._clock() - self._failed_at >= CALM_S
            self._set("online" if is_calm else "degraded", 0, self._health.last_error)

    async def _run(self, operation: Callable[[], Awaitable[Result]]) -> Result:
        if self.is_faulted:
            await trio.lowlevel.checkpoint()
            raise self._refusal()
        try:
            result = await self._count(operation)
        except BackendError as error:
            self._write_errors += 1
            if self._write_errors >= ERRORS_MAX and not self.is_faulted:
                self._set("faulted", self._write_errors, str(error))
            raise
        self._write_errors = 0
        return result

    async def _count(self, operation: Callable[[], Awaitable[Result]]) -> Result:
        try:
            result = await operation()
        except BackendError as error:
            self.failed(error)
            raise
        except BadInput as error:
            self.failed(error)
            raise BackendError(str(error)) from error
        self.succeeded()
        return result

    async def _take_turn(self) -> None:
        with suppress(trio.WouldBlock):
            self._turn.acquire_nowait()
            return
        with trio.CancelScope(deadline=self._turn_until) as scope:
            await self._turn.acquire()
        if scope.cancelled_caught:
            raise self._refusal()

    def _refusal(self) -> BackendError:
        health = self._health
        age_s = self._clock() - health.since_s
        return BackendError(
            f"{self.url}: is faulted since {age_s:.0f} s ago: {health.last_error};"
            f" it is tried again every {PROBE_EVERY_S:g} s"
        )

    def _set(self, state: State, errors: int, last_error: str) -> None:
        before = self._health
        since_s = before.since_s if state == before.state else self._clock()
        self._health = Health(state, since_s, errors, last_error)
        self.is_faulted, self.is_degraded = state == "faulted", state == "degraded"
        if state != before.state:
            self._on_change(before, self._health)


class _ReadNowait(Protocol):
    def __call__(self, offset: int, into: memoryview) -> bool: ...


class _GuardedReader:
    __slots__ = ("_guard", "_inner", "close", "read_nowait")

    def __init__(self, guard: Guarded, inner: Reader) -> None:
        self._guard = guard
        self._inner = inner
        self.read_nowait: _ReadNowait = inner.read_nowait
        self.close: Callable[[], None] = inner.close

    async def read(self, offset: int, into: memoryview) -> None:
        guard = self._guard
        if guard.is_faulted:
            await guard.look(lambda: self._inner.read(offset, into))
            return
        try:  # as Guarded._count, without its extra calls
            await self._inner.read(offset, into)
        except BackendError as error:
            guard.failed(error)
            raise
        except BadInput as error:
            guard.failed(error)
            raise BackendError(str(error)) from error
        if guard.is_degraded:
            guard.succeeded()

    def will_need(self, offset: int, length: int) -> bool:
        """Not from a faulted backend: hints would hang there, too."""
        return not self._guard.is_faulted and self._inner.will_need(offset, length)
