"""Gets what the cache lacks from the object store: whole chunks, each once.

  FE1  A *flight* is one ranged GET of neighbouring chunks, at most FLIGHT_BYTES. It belongs to no reader: who waits for
       it may be cancelled, and everybody who wants one of its chunks waits for the same.
  FE2  A flight is known until its chunks are in the cache (written in a thread): no chunk is fetched twice meanwhile.
       Who reads is answered from its buffer, whether or not the cache keeps it.
  FE3  Hints start flights, at most HINTS_MAX under way at once; reads are never refused.
"""

from dataclasses import dataclass, field

import trio

from sds.core.errors import BackendError, SdsError

from .cache import CacheFile, chunks_of
from .objects import ObjectStore

FLIGHT_BYTES = 4 << 20
HINTS_MAX = 16
CACHE_TRIES = 3


@dataclass(slots=True, eq=False)
class Flight:
    name: str
    chunk: int
    """The first of its chunks."""
    offset: int
    buffer: bytearray
    file: CacheFile
    hint: bool
    arrived: trio.Event = field(default_factory=trio.Event)
    error: SdsError | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class Fetcher:
    """One per backend: `chunk_bytes` is the cache's."""

    def __init__(self, store: ObjectStore, chunk_bytes: int) -> None:
        self._store = store
        self._chunk_bytes = chunk_bytes
        self._flights: dict[tuple[str, int], Flight] = {}
        self._under_way: set[Flight] = set()
        self._landed = trio.Event()
        self._closed = False

    async def read(self, name: str, file: CacheFile, offset: int, into: memoryview) -> None:
        for _ in range(CACHE_TRIES):
            if await file.read(offset, into):
                return
            chunks = chunks_of(offset, len(into), self._chunk_bytes)
            self._start(name, file, chunks, hint=False)
            flights = {self._flights[name, chunk] for chunk in chunks if (name, chunk) in self._flights}
            for flight in flights:
                await flight.arrived.wait()
                if flight.error is not None:
                    raise flight.error
            if await self._assemble(file, offset, into, flights):
                return
        # The cache forgets faster than we read.
        await self._store.get(name, offset, into)

    async def _assemble(self, file: CacheFile, offset: int, into: memoryview, flights: set[Flight]) -> bool:
        """Fills the buffer from flights and, between them, from the cache."""
        at, end = offset, offset + len(into)
        for flight in sorted(flights, key=lambda flight: flight.offset):
            start, stop = max(at, flight.offset), min(end, flight.offset + len(flight.buffer))
            if start > at and not await file.read(at, into[at - offset : start - offset]):
                return False
            if start < stop:
                source = memoryview(flight.buffer)[start - flight.offset : stop - flight.offset]
                into[start - offset : stop - offset] = source
                at = stop
        return at == end or await file.read(at, into[at - offset :])

    def will_need(self, name: str, file: CacheFile, offset: int, length: int) -> bool:
        length = min(length, file.size_bytes - offset)
        if offset < 0 or length <= 0 or self._closed:
            return True
        chunks = chunks_of(offset, length, self._chunk_bytes)
        if all(file.has(chunk) for chunk in chunks):
            file.will_need(offset, length)
            return True
        return self._start(name, file, chunks, hint=True)

    def _start(self, name: str, file: CacheFile, chunks: range, hint: bool) -> bool:
        """Starts flights for the chunks that are neither here nor on the way. False: some were not started."""
        most = FLIGHT_BYTES // self._chunk_bytes
        run: list[int] = []
        for chunk in [*chunks, -1]:
            wanted = chunk >= 0 and not file.has(chunk) and (name, chunk) not in self._flights
            if run and (not wanted or len(run) >= most):
                if hint and sum(flight.hint for flight in self._under_way) >= HINTS_MAX:
                    return False
                self._launch(name, file, run[0], len(run), hint)
                run = []
            if wanted:
                run.append(chunk)
        return True

    def _launch(self, name: str, file: CacheFile, chunk: int, count: int, hint: bool) -> None:
        offset = chunk * self._chunk_bytes
        size = min(count * self._chunk_bytes, file.size_bytes - offset)
        flight = Flight(name, chunk, offset, bytearray(size), file, hint)
        for index in range(chunk, chunk + count):
            self._flights[name, index] = flight
        self._under_way.add(flight)
        trio.lowlevel.spawn_system_task(self._fly, flight)

    async def _fly(self, flight: Flight) -> None:
        """A task of its own; lets no SdsError out, or all tasks would end."""
        try:
            with flight.scope:
                await self._store.get(flight.name, flight.offset, memoryview(flight.buffer))
                flight.arrived.set()
                await flight.file.write(flight.chunk, memoryview(flight.buffer))
        except SdsError as error:
            flight.error = error
        finally:
            if not flight.arrived.is_set():
                closed = f"{self._store.url}: {flight.name}: the backend was closed while it was read"
                flight.error = flight.error or BackendError(closed)
                flight.arrived.set()
            for index in chunks_of(flight.offset, len(flight.buffer), self._chunk_bytes):
                self._flights.pop((flight.name, index), None)
            self._under_way.discard(flight)
            self._landed.set()

    async def close(self) -> None:
        self._closed = True
        for flight in self._under_way:
            flight.scope.cancel()
        while self._under_way:
            self._landed = trio.Event()
            await self._landed.wait()
