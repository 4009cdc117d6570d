"""Crash of the object backend at every event of journal and store: nothing sealed is lost, nothing is falsified."""

import random

import pytest
import trio

from backends.base import PAGE
from backends.cache import MemoryCache
from backends.faulty import FaultPlan
from backends.object_backend import Limits, ObjectBackend
from sds.core.errors import SdsError
from tests.backends.places import pages, read_back
from tests.sim.disk import SimDisk
from tests.sim.objects import Rates, SimObjects
from tests.sim.schedule import run_seeded

FILES = {f"segments/1/{index}": bytes(pages(index + 1, fill=index + 1)) for index in range(4)}
DELETED = "segments/1/3"
Crash = tuple[SimDisk, SimObjects, frozenset[str], frozenset[str]]


class Run:
    """Writes, seals, uploads and deletes; keeps some crash states of each event."""

    def __init__(self, seed: int, rates: Rates) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.disk = SimDisk(seed)
        self.store = SimObjects(seed, rates=rates, parallelism=2)
        self.sealed: set[str] = set()
        self.deleting: set[str] = set()
        self.crashes: list[Crash] = []
        self.disk.observer = self.store.observer = lambda event, name: self.note()

    def note(self) -> None:
        disks = list(self.disk.crash_states(4, self.rng))
        disk = self.rng.choice([*disks, self.disk.kill_state()])
        store = self.rng.choice(list(self.store.crash_states(4, self.rng)))
        self.crashes.append((disk, store, frozenset(self.sealed), frozenset(self.deleting)))

    async def main(self) -> None:
        backend = ObjectBackend(self.store, self.disk, MemoryCache(), Limits(16 * PAGE))
        backend.own("segments/1/")
        async with trio.open_nursery() as nursery:
            await nursery.start(backend.run)
            for name, content in FILES.items():
                await backend.create(name, 4 * PAGE)
                await backend.write(name, 0, memoryview(content))  # Durable by the seal alone.
                await backend.seal(name, len(content))
                self.sealed.add(name)
            self.deleting.add(DELETED)
            await self.retry_delete(backend)
            await backend.settle("")
            nursery.cancel_scope.cancel()
        await backend.close()

    async def retry_delete(self, backend: ObjectBackend) -> None:
        for _ in range(50):
            try:
                await backend.delete(DELETED)
                return
            except SdsError:
                await trio.sleep(1)


async def check(crash: Crash) -> None:
    disk, store, sealed, deleting = crash
    must = sealed - deleting
    backend = ObjectBackend(store, disk, MemoryCache(), Limits(16 * PAGE))
    for name in must:
        assert await read_back(backend, name, 0, len(FILES[name])) == FILES[name]
    backend.own("segments/1/")
    async with trio.open_nursery() as nursery:
        await nursery.start(backend.run)
        await trio.sleep(30)
        await backend.settle("")
        nursery.cancel_scope.cancel()
    for name in must:
        assert store.peek(name) == FILES[name]
        assert await read_back(backend, name, 0, len(FILES[name])) == FILES[name]
    for name in store.names():
        assert store.peek(name) == FILES[name]
    left = {stat.name for stat in await disk.list("")}
    assert not left & must, "uploaded, but still in the journal"
    assert not {name for name in left if name.startswith("sealed/")}
    await backend.close()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rates", [Rates(), Rates(0.1, 0.1, 0.1, 0.1, 0.1)], ids=["sound", "faulty"])
def test_after_a_crash_at_any_event_what_was_sealed_is_there_and_gets_up(seed: int, rates: Rates) -> None:
    run = Run(seed, rates)
    run_seeded(run.main, seed)
    assert len(run.crashes) > 50
    for crash in run.crashes:

        async def body(crash: Crash = crash) -> None:
            await check(crash)

        run_seeded(body, seed)


def test_a_file_without_marker_is_left_alone_by_a_restart() -> None:
    async def body() -> None:
        disk, store = SimDisk(1), SimObjects(1)
        await disk.create("segments/1/0", 2 * PAGE)
        await disk.write("segments/1/0", 0, pages(1), sync=True)
        backend = ObjectBackend(store, disk, MemoryCache(), Limits())
        backend.own("segments/1/")
        async with trio.open_nursery() as nursery:
            await nursery.start(backend.run)
            await trio.sleep(60)
            assert store.names() == []
            await backend.write("segments/1/0", PAGE, pages(1))
            await backend.seal("segments/1/0", 2 * PAGE)
            await backend.settle("")
            nursery.cancel_scope.cancel()
        assert store.peek("segments/1/0") == bytes(pages(1)) * 2

    run_seeded(body, 1)


def test_only_what_this_process_owns_is_uploaded_by_its_task() -> None:
    async def body() -> None:
        disk, store = SimDisk(1), SimObjects(1)
        before = ObjectBackend(store, disk, MemoryCache(), Limits())
        for name in ("segments/1/0", "segments/2/0"):
            await before.create(name, PAGE)
            await before.seal(name, PAGE)
        after = ObjectBackend(store, disk, MemoryCache(), Limits())
        after.own("segments/2/")
        async with trio.open_nursery() as nursery:
            await nursery.start(after.run)
            await trio.sleep(60)
            assert store.names() == ["segments/2/0"]
            await after.settle("segments/")
            assert store.names() == ["segments/1/0", "segments/2/0"]
            nursery.cancel_scope.cancel()

    run_seeded(body, 1)


@pytest.mark.parametrize("kind", ["open", "read", "put", "get", "delete", "list"])
def test_no_fault_of_the_journal_stops_the_uploads(kind: str) -> None:
    for at in range(1, 6):

        async def body(at: int = at) -> None:
            disk, store = SimDisk(1), SimObjects(1)
            backend = ObjectBackend(store, disk, MemoryCache(), Limits())
            for index in range(3):
                await backend.create(f"segments/1/{index}", PAGE)
                await backend.seal(f"segments/1/{index}", PAGE)
            again = ObjectBackend(store, disk, MemoryCache(), Limits())
            again.own("segments/")
            disk.faults = FaultPlan(at=at, kind=kind)  # type: ignore[arg-type]
            async with trio.open_nursery() as nursery:
                await nursery.start(again.run)
                await trio.sleep(100)
                nursery.cancel_scope.cancel()
            disk.faults = FaultPlan()
            assert len(store.names()) == 3
            assert await disk.list("") == []

        run_seeded(body, 1)
