"""Faults on purpose: a plan that says which operation fails, and a backend that obeys it.

  F1  Operations are counted from 1 in the order in which they start; a plan counts only those of its kind.
  F2  A fault `before` leaves no trace; a fault `after` raises although the operation has been done.
  F3  Write and sync errors are final for their file (B4): later ones on it raise too, until it is deleted.
  F4  While a plan can still fail a read, `read_nowait` answers False, so that no read escapes the count.

To visit every operation: run with FaultPlan(at=1), FaultPlan(at=2), ... until a run ends with `fired == 0`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import trio

from sds.core.errors import BackendError, SdsError

from .base import Backend, Reader, Stat, Usage

Kind = Literal["create", "write", "sync", "seal", "open", "read", "put", "get", "delete", "list", "settle"]
Result = TypeVar("Result")


@dataclass(slots=True)
class FaultPlan:
    """Which operation fails, how and when. The default never fails and only counts."""

    at: int | None = None
    """Number of the operation that fails, from 1; None: no operation."""
    kind: Kind | None = None
    """Count (and fail) only operations of this kind; None: all of them."""
    error: type[SdsError] = BackendError
    when: Literal["before", "after"] = "before"
    lasting: bool = False
    """All operations from `at` on fail."""
    seen: int = 0
    fired: int = 0

    def strikes(self, kind: Kind) -> bool:
        """Counts an operation that starts now, and tells whether it is to fail."""
        if self.kind is not None and self.kind != kind:
            return False
        self.seen += 1
        if self.at is None or not (self.seen == self.at or (self.lasting and self.seen > self.at)):
            return False
        self.fired += 1
        return True

    def threatens(self, kind: Kind) -> bool:
        """Whether an operation of this kind can still fail."""
        return self.at is not None and self.kind in (None, kind) and (self.lasting or not self.fired)

    def failure(self, url: str, kind: Kind, name: str) -> SdsError:
        return self.error(f"{url}: {name}: injected fault in {kind} (operation {self.seen}, {self.when})")


class Faulty:
    """A backend around another one. `delay_s` holds every operation, `gate` until it is set."""

    def __init__(
        self, inner: Backend, plan: FaultPlan, delay_s: float = 0.0, gate: trio.Event | None = None
    ) -> None:
        self._inner = inner
        self.plan = plan
        self.delay_s = delay_s
        self.gate = gate
        self._final: set[str] = set()

    @property
    def url(self) -> str:
        return self._inner.url

    async def create(self, name: str, size_bytes: int) -> None:
        await self._run("create", name, lambda: self._inner.create(name, size_bytes))

    async def write(self, name: str, offset: int, data: memoryview, sync: bool = False) -> None:
        await self._run("write", name, lambda: self._inner.write(name, offset, data, sync))

    async def sync(self, name: str) -> None:
        await self._run("sync", name, lambda: self._inner.sync(name))

    async def seal(self, name: str, size_bytes: int) -> None:
        await self._run("seal", name, lambda: self._inner.seal(name, size_bytes))

    async def open(self, name: str) -> Reader:
        return _FaultyReader(self, name, await self._run("open", name, lambda: self._inner.open(name)))

    async def put(self, name: str, data: bytes) -> None:
        await self._run("put", name, lambda: self._inner.put(name, data))

    async def get(self, name: str, size_limit_bytes: int) -> bytes:
        return await self._run("get", name, lambda: self._inner.get(name, size_limit_bytes))

    async def delete(self, name: str) -> None:
        await self._run("delete", name, lambda: self._inner.delete(name))
        self._final.discard(name)

    async def list(self, prefix: str) -> list[Stat]:
        return await self._run("list", prefix, lambda: self._inner.list(prefix))

    async def settle(self, prefix: str) -> None:
        await self._run("settle", prefix, lambda: self._inner.settle(prefix))

    def usage(self) -> Usage:
        return self._inner.usage()

    async def close(self) -> None:
        await self._inner.close()

    async def _run(self, kind: Kind, name: str, operation: Callable[[], Awaitable[Result]]) -> Result:
        strikes = self.plan.strikes(kind)
        failure = self.plan.failure(self.url, kind, name)
        if self.delay_s:
            await trio.sleep(self.delay_s)
        if self.gate is not None:
            await self.gate.wait()
        if kind in ("write", "sync", "seal") and name in self._final:
            raise BackendError(f"{self.url}: {name}: failed earlier; write the data elsewhere")
        if strikes and self.plan.when == "before":
            self._note(kind, name)
            raise failure
        result = await operation()
        if strikes:
            self._note(kind, name)
            if kind == "open":
                result.close()  # type: ignore[attr-defined]
            raise failure
        return result

    def _note(self, kind: Kind, name: str) -> None:
        if kind in ("write", "sync", "seal"):
            self._final.add(name)


class _FaultyReader:
    __slots__ = ("_backend", "_inner", "_name")

    def __init__(self, backend: Faulty, name: str, inner: Reader) -> None:
        self._backend = backend
        self._name = name
        self._inner = inner

    def read_nowait(self, offset: int, into: memoryview) -> bool:
        if self._backend.plan.threatens("read") or self._backend.delay_s or self._backend.gate is not None:
            return False
        return self._inner.read_nowait(offset, into)

    async def read(self, offset: int, into: memoryview) -> None:
        await self._backend._run("read", self._name, lambda: self._inner.read(offset, into))

    def will_need(self, offset: int, length: int) -> bool:
        return self._inner.will_need(offset, length)

    def close(self) -> None:
        self._inner.close()
