"""An object store in memory for the simulator, with the faults of real ones, on the clock and the seed of the run.

  SO1  Everything random comes from the seed. Faults come from a plan (one operation) or from rates (each operation).
  SO2  A commit is durable and seen by everybody at once (S3 is strongly consistent). A put is all or nothing.
  SO3  A timeout may come after the commit. A *zombie* is a put that timed out and lands later, maybe after a delete: it
       obeys its condition at the time when it lands.
  SO4  A copy shares nothing mutable, has no plan, rates or observer. `crash_states`: of the requests in flight (zombies
       too) each has landed or never will.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import trio

from backends.base import Stat
from backends.faulty import FaultPlan, Kind
from backends.names import check_name, check_prefix
from backends.objects import Object
from sds.core.errors import BackendError, BadInput, Corrupt, Exists, Missing, NoSpace, SdsError

Observer = Callable[[str, str], None]
ALWAYS: Literal["any"] = "any"


@dataclass(slots=True)
class Rates:
    """Chances of each fault, per operation."""

    error_before: float = 0.0
    """5xx, or no connection: nothing happened."""
    error_after: float = 0.0
    """A timeout after the commit."""
    zombie: float = 0.0
    """A put that times out and lands up to `zombie_delay_s` later."""
    short_body: float = 0.0
    slow: float = 0.0
    """Takes `slow_s` longer."""
    zombie_delay_s: float = 20.0
    slow_s: float = 10.0


@dataclass(slots=True, eq=False)
class InFlight:
    """A put or delete that has started and may or may not be carried out."""

    key: str
    content: bytes | None
    condition: str | None = ALWAYS
    """The tag that must be there; None: nothing may be there; ALWAYS: no condition."""


class SimObjects:
    """`expired`: the credentials are refused for as long as it is set. `observer(event, key)` as SimDisk has."""

    def __init__(
        self,
        seed: int = 0,
        faults: FaultPlan | None = None,
        rates: Rates | None = None,
        conditional: bool = True,
        parallelism: int = 4,
        capacity_bytes: int | None = None,
        latency_s: float = 0.05,
        url: str = "sim-objects:0",
    ) -> None:
        self.faults = faults or FaultPlan()
        self.rates = rates or Rates()
        self.capacity_bytes = capacity_bytes
        self.latency_s = latency_s
        self.expired = False
        self.down = False
        self.observer: Observer | None = None
        self.under_way = 0
        self.under_way_most = 0
        self.log: list[tuple[str, str, int]] = []
        """Kind, key and bytes of every request, in the order in which they started."""
        self._seed = seed
        self._rng = random.Random(seed)
        self._conditional = conditional
        self._parallelism = parallelism
        self._places = trio.Semaphore(parallelism)
        self._url = url
        self._objects: dict[str, bytes] = {}
        self._in_flight: list[InFlight] = []

    @property
    def url(self) -> str:
        return self._url

    @property
    def conditional(self) -> bool:
        return self._conditional

    @property
    def parallelism(self) -> int:
        return self._parallelism

    async def put(self, key: str, content: bytes | memoryview, only_new: bool = False) -> None:
        if only_new and not self._conditional:
            raise BadInput(f"{self._url}: {key}: this store cannot put only what is new")
        await self._put(InFlight(key, bytes(content), None if only_new else ALWAYS))

    async def replace(self, key: str, content: bytes, tag: str | None) -> str:
        if not self._conditional:
            raise BadInput(f"{self._url}: {key}: this store cannot put conditionally")
        await self._put(InFlight(key, content, tag))
        return tag_of(content)

    async def _put(self, request: InFlight) -> None:
        check_name(self._url, request.key)
        assert request.content is not None
        async with self._places:
            fault = await self._start("put", request.key, len(request.content))
            self._in_flight.append(request)
            await self._latency()
            if fault is None and self._chance(self.rates.zombie):
                delay_s = self._rng.random() * self.rates.zombie_delay_s
                trio.lowlevel.spawn_system_task(self._land_later, request, delay_s)
                self._end("put", request.key, self._timeout(request.key))
            self._in_flight.remove(request)
            self._commit(request)
            await self._latency()
            self._end("put", request.key, fault)

    async def fetch(self, key: str, size_limit_bytes: int) -> Object:
        check_name(self._url, key)
        async with self._places:
            fault = await self._start("get", key)
            await self._latency()
            content = self._existing(key)
            if len(content) > size_limit_bytes:
                self._end("get", key, Corrupt(f"{self._url}: {key}: {len(content)} bytes are too many"))
            self._end("get", key, fault or self._short(key))
            return Object(content, tag_of(content))

    async def get(self, key: str, offset: int, into: memoryview) -> None:
        check_name(self._url, key)
        async with self._places:
            fault = await self._start("get", key, len(into))
            await self._latency()
            piece = self._existing(key)[offset : offset + len(into)]
            if len(piece) < len(into):
                self._end("get", key, Corrupt(f"{self._url}: {key}: too short for {len(into)} bytes at {offset}"))
            short = self._short(key)
            into[: len(piece) // 2] = piece[: len(piece) // 2]
            self._end("get", key, fault or short)
            into[:] = piece

    async def delete(self, key: str) -> None:
        check_name(self._url, key)
        async with self._places:
            fault = await self._start("delete", key)
            request = InFlight(key, None)
            self._in_flight.append(request)
            await self._latency()
            self._in_flight.remove(request)
            self._commit(request)
            await self._latency()
            self._end("delete", key, fault)

    async def list(self, prefix: str) -> list[Stat]:
        """A fault in the middle raises: never a part."""
        check_prefix(self._url, prefix)
        async with self._places:
            fault = await self._start("list", prefix)
            await self._latency()
            found = [Stat(k, len(c)) for k, c in sorted(self._objects.items()) if k.startswith(prefix)]
            self._end("list", prefix, fault)
            return found

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()

    # For oracles

    def peek(self, key: str) -> bytes | None:
        return self._objects.get(key)

    def names(self) -> Sequence[str]:
        return sorted(self._objects)

    def plant(self, key: str, content: bytes) -> None:
        """An object that somebody else put."""
        self._objects[key] = content

    def count(self, kind: str) -> int:
        return sum(logged == kind for logged, *_ in self.log)

    def copy(self) -> "SimObjects":
        """What is committed, and what is in flight."""
        out = SimObjects(
            self._seed + 1, None, None, self._conditional, self._parallelism, self.capacity_bytes,
            self.latency_s, self._url,
        )  # fmt: skip
        out._objects = dict(self._objects)
        out._in_flight = list(self._in_flight)
        return out

    def crash_states(self, limit: int, rng: random.Random) -> "Iterator[SimObjects]":
        """Legal stores after a crash of the client now: of what is in flight nothing, all, or some has landed."""
        count = len(self._in_flight)
        choices: list[tuple[bool, ...]] = [(False,) * count, (True,) * count] if count else [()]
        while count > 1 and len(choices) < limit:
            choices.append(tuple(rng.random() < 0.5 for _ in range(count)))
        frozen = self.copy()
        for choice in choices[:limit]:
            out = frozen.copy()
            for request, lands in zip(out._in_flight, choice, strict=True):
                if lands and out._allowed(request):
                    out._apply(request)
            out._in_flight = []
            yield out

    # A request: _start (may raise), _latency, _commit, _end (may raise)

    async def _start(self, kind: Kind, key: str, size_bytes: int = 0) -> SdsError | None:
        """The fault that the request raises at its end, if any."""
        self.log.append((kind, key, size_bytes))
        strikes = self.faults.strikes(kind)
        failure = self.faults.failure(self._url, kind, key)
        self._observe(f"{kind}:start", key)
        await trio.lowlevel.checkpoint()  # Cancelled only here: a thread cannot be stopped.
        self.under_way += 1
        self.under_way_most = max(self.under_way_most, self.under_way)
        await self._latency()
        if self._chance(self.rates.slow):
            await self._latency(self.rates.slow_s)
        if self.expired:
            self._end(kind, key, BadInput(f"{self._url}: {key}: the credentials have expired; renew them"))
        if self.down or self._chance(self.rates.error_before):
            self._end(kind, key, BackendError(f"{self._url}: {key}: 503 Slow Down"))
        if strikes and self.faults.when == "before":
            self._end(kind, key, failure)
        return failure if strikes else self._after(key)

    def _after(self, key: str) -> SdsError | None:
        return self._timeout(key) if self._chance(self.rates.error_after) else None

    def _timeout(self, key: str) -> SdsError:
        return BackendError(f"{self._url}: {key}: no answer in time")

    def _short(self, key: str) -> SdsError | None:
        if self._chance(self.rates.short_body):
            return BackendError(f"{self._url}: {key}: the answer ended early")
        return None

    async def _latency(self, limit_s: float | None = None) -> None:
        with trio.CancelScope(shield=True):
            limit_s = self.latency_s if limit_s is None else limit_s
            await trio.sleep(self._rng.random() * limit_s)

    def _end(self, kind: str, key: str, fault: SdsError | None) -> None:
        self.under_way -= 1
        if fault is not None:
            raise fault
        self._observe(f"{kind}:end", key)

    def _commit(self, request: InFlight) -> None:
        if not self._allowed(request):
            self._end("put", request.key, Exists(f"{self._url}: {request.key}: is there already"))
        if self.capacity_bytes is not None and request.content is not None:
            used = sum(len(content) for key, content in self._objects.items() if key != request.key)
            if used + len(request.content) > self.capacity_bytes:
                self._end("put", request.key, NoSpace(f"{self._url}: {request.key}: the store is full"))
        self._apply(request)
        self._observe("put:done" if request.content is not None else "delete:done", request.key)

    def _allowed(self, request: InFlight) -> bool:
        there = self._objects.get(request.key)
        return request.condition == ALWAYS or request.condition == (None if there is None else tag_of(there))

    def _apply(self, request: InFlight) -> None:
        if request.content is None:
            self._objects.pop(request.key, None)
        else:
            self._objects[request.key] = request.content

    async def _land_later(self, request: InFlight, delay_s: float) -> None:
        await trio.sleep(delay_s)
        self._in_flight.remove(request)
        if self._allowed(request):
            self._apply(request)
            self._observe("put:zombie", request.key)

    def _existing(self, key: str) -> bytes:
        if key not in self._objects:
            self._end("get", key, Missing(f"{self._url}: {key}: no such object"))
        return self._objects[key]

    def _chance(self, rate: float) -> bool:
        return rate > 0 and self._rng.random() < rate

    def _observe(self, event: str, key: str) -> None:
        if self.observer is not None:
            self.observer(event, key)


def tag_of(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
