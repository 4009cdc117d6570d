"""The ownership of a running worker: it goes on through outages, and never acknowledges beside a new owner."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

import pytest
import trio

from backends.base import Backend
from sds.core.errors import BackendError, Busy, Failed, SdsError
from sds.daemon.ownership import Ownership
from sds.log.log import Log
from sds.pool.label import LABEL, Label, encode_label
from sds.pool.owner import BEAT_S, CONFIRM_S, IN_USE, LEASE_S, OWNER, claim, read_owner
from sds.pool.pool import Pool
from sds.pool.takeover import take_over
from tests.pool.owning import A, B, StoreBackend, machine, record_on
from tests.sim.objects import Rates, SimObjects
from tests.sim.schedule import run_seeded


@dataclass
class PoolOfStores:
    """As much of a pool as ownership needs."""

    backends: dict[int, Backend]
    name: str = "tank"

    def let_go_of_removed(self) -> None:
        """None is."""


@dataclass
class Acknowledging:
    """As much of a log as ownership needs, and a client that flushes all the time."""

    may_acknowledge: Callable[[], Awaitable[None]] | None = None
    failed: SdsError | None = None
    acknowledged_s: list[float] = field(default_factory=list)
    ended: bool = False

    def fail(self, error: SdsError) -> None:
        self.failed = self.failed or error

    def end(self) -> None:
        self.ended = True

    async def flush(self) -> None:
        if self.may_acknowledge is not None:
            await self.may_acknowledge()
        if self.failed is not None:
            raise Failed(str(self.failed))
        self.acknowledged_s.append(trio.current_time())

    async def client(self) -> None:
        """Until it fails."""
        while True:
            try:
                await self.flush()
            except Failed:
                return
            await trio.sleep(0.5)


async def start(backends: list[StoreBackend], nursery: trio.Nursery) -> tuple[Ownership, Acknowledging]:
    """A worker of home A."""
    numbered: dict[int, Backend] = dict(enumerate(backends))
    began_s = trio.current_time()
    generation = await claim("tank", numbered, A, 0, IN_USE)
    pool = cast(Pool, PoolOfStores(numbered))
    ownership = Ownership(pool, A, generation, began_s, trio.current_time)
    log = Acknowledging()
    ownership.guard(cast(Log, log), log.end)
    nursery.start_soon(ownership.run)
    return ownership, log


def in_sim(work: Callable[[trio.Nursery], Awaitable[None]], seed: int = 0) -> None:
    async def body() -> None:
        async with trio.open_nursery() as nursery:
            await work(nursery)
            nursery.cancel_scope.cancel()

    run_seeded(body, seed)


def test_a_store_that_is_away_for_a_minute_holds_up_flushes_and_the_same_owner_goes_on() -> None:
    async def work(nursery: trio.Nursery) -> None:
        (backend,) = machine([SimObjects()])
        _, log = await start([backend], nursery)
        nursery.start_soon(log.client)
        await trio.sleep(60)
        cut_s = trio.current_time()
        backend.store.cut = True
        await trio.sleep(60)
        assert cut_s < log.acknowledged_s[-1] <= cut_s + CONFIRM_S
        backend.store.cut = False
        back_s = trio.current_time()
        await trio.sleep(2 * BEAT_S)
        assert log.acknowledged_s[-1] > back_s
        assert log.failed is None

    in_sim(work)


def test_a_backend_that_hangs_holds_up_nothing_while_another_one_answers() -> None:
    async def work(nursery: trio.Nursery) -> None:
        backends = machine([SimObjects(url=f"sim:{n}") for n in range(2)])
        _, log = await start(backends, nursery)
        nursery.start_soon(log.client)
        backends[0].store.hangs = True
        await trio.sleep(300)
        assert log.acknowledged_s[-1] > trio.current_time() - 1
        assert max(b - a for a, b in zip(log.acknowledged_s, log.acknowledged_s[1:], strict=False)) < 1

    in_sim(work)


def test_the_loser_fails_within_a_beat_ends_its_worker_and_acknowledges_nothing_more() -> None:
    async def work(nursery: trio.Nursery) -> None:
        store = SimObjects()
        _, log = await start(machine([store]), nursery)
        nursery.start_soon(log.client)
        await trio.sleep(60)
        await take_over("tank", [*machine([store])], B, True, lambda line: None)
        assert log.ended
        assert "taken over by host-b" in str(log.failed)
        with pytest.raises(Failed, match="taken over by host-b"):
            await log.flush()

    in_sim(work)


def test_a_loser_that_was_cut_off_learns_of_it_when_it_is_back() -> None:
    async def work(nursery: trio.Nursery) -> None:
        (mine,), (theirs,) = machine([store := SimObjects()]), machine([store])
        _, log = await start([mine], nursery)
        mine.store.cut = True
        await trio.sleep(BEAT_S)
        async with trio.open_nursery() as waiting:
            waiting.start_soon(log.client)
            assert await take_over("tank", [theirs], B, False, lambda line: None) == 2
            assert log.failed is None, "how should it know?"
            mine.store.cut = False
        assert "taken over by host-b" in str(log.failed)

    in_sim(work)


@pytest.mark.parametrize("force", [False, True])
def test_nothing_is_acknowledged_after_the_new_owner_may_open(force: bool) -> None:
    """P7, whatever the network does: cuts at any time, requests that land late, one to three stores."""
    taken = 0
    for seed in range(40):
        taken += one_takeover(seed, force)
    assert taken >= 10, "hardly any takeover succeeded: nothing was tested"


def one_takeover(seed: int, force: bool) -> int:
    rng = random.Random(seed)
    opened_s: list[float] = []

    async def work(nursery: trio.Nursery) -> None:
        stores = [SimObjects(seed=seed * 10 + n, url=f"sim:{n}") for n in range(rng.randint(1, 3))]
        mine = machine(stores)
        _, log = await start(mine, nursery)
        for store in stores:
            store.rates = Rates(error_before=0.03, error_after=0.05, zombie=0.05, slow=0.05)
        nursery.start_soon(log.client)
        nursery.start_soon(cuts, mine)
        await trio.sleep(rng.random() * 60)
        for _ in range(5):
            try:
                await take_over("tank", [*machine(stores)], B, force, lambda line: None)
            except (Busy, BackendError):
                continue
            opened_s.append(trio.current_time())
            break
        else:
            return
        await trio.sleep(100)
        assert log.acknowledged_s[-1] < opened_s[0], f"seed {seed}"

    async def cuts(backends: list[StoreBackend]) -> None:
        while True:
            await trio.sleep(rng.random() * (40 if force else 120))
            for backend in backends:
                backend.store.cut = rng.random() < (0.7 if force else 0.9)

    in_sim(work, seed)
    return len(opened_s)


def test_of_several_workers_of_a_home_one_renews_and_all_are_confirmed() -> None:
    async def work(nursery: trio.Nursery) -> None:
        store = SimObjects()
        first, _ = await start(machine([store]), nursery)
        await trio.sleep(1.5)
        second, _ = await start(machine([store]), nursery)
        await trio.sleep(1.5)
        third, _ = await start(machine([store]), nursery)
        await trio.sleep(30)
        before = sum(kind == "put" for kind, _, _ in store.log)
        for _ in range(100):
            await trio.sleep(1)
            assert first.is_confirmed
            assert second.is_confirmed
            assert third.is_confirmed
        assert 9 <= sum(kind == "put" for kind, _, _ in store.log) - before <= 12

    in_sim(work)


def test_a_machine_that_slept_acknowledges_nothing_before_it_has_looked() -> None:
    async def work(nursery: trio.Nursery) -> None:
        (backend,) = machine([SimObjects()])
        numbered: dict[int, Backend] = {1: backend}
        generation = await claim("tank", numbered, A, 0, IN_USE)
        slept = [0.0]

        def confirmed() -> bool:
            return ownership.is_confirmed

        pool = cast(Pool, PoolOfStores(numbered))
        ownership = Ownership(pool, A, generation, trio.current_time(), lambda: trio.current_time() + slept[0])
        nursery.start_soon(ownership.run)
        await trio.sleep(5)
        assert confirmed()
        slept[0] = 3600.0
        assert not confirmed()
        await trio.sleep(BEAT_S)
        assert confirmed()

    in_sim(work)


def test_closing_does_not_wait_for_a_store_that_is_away() -> None:
    async def work(nursery: trio.Nursery) -> None:
        (backend,) = machine([SimObjects()])
        ownership, _ = await start([backend], nursery)
        backend.store.cut = True
        await trio.sleep(LEASE_S)
        async with trio.open_nursery() as waiting:
            waiting.start_soon(ownership.confirmed)  # of a flush in the background
            await trio.sleep(1)
            assert not ownership.is_confirmed
            ownership.release()
            waiting.cancel_scope.deadline = trio.current_time() + 1
        assert not waiting.cancel_scope.cancelled_caught

    in_sim(work)


def test_a_backend_that_left_the_pool_stays_empty_one_whose_record_was_deleted_gets_it_again() -> None:
    async def work(nursery: trio.Nursery) -> None:
        left, stays = machine([SimObjects(url=f"sim:{n}") for n in range(2)])
        await start([left, stays], nursery)
        await stays.put(LABEL, encode_label(Label("0" * 32, "tank", "1" * 32, 1)))
        await trio.sleep(BEAT_S / 2)
        await left.delete(OWNER)
        await stays.delete(OWNER)
        await trio.sleep(3 * BEAT_S)
        assert (await read_owner(left)).record is None
        assert (await record_on(stays)).owner == A.owner

    in_sim(work)
