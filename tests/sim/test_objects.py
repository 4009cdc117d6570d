"""The simulated object store keeps backends/objects.py, has the faults that it is told, and can be copied."""

import random
from collections.abc import Awaitable, Callable

import pytest
import trio

from backends.base import Stat
from backends.faulty import FaultPlan
from sds.core.errors import BackendError, BadInput, Corrupt, Exists, Missing, NoSpace
from tests.sim.objects import Rates, SimObjects
from tests.sim.schedule import run_seeded


def on(body: Callable[[SimObjects], Awaitable[None]], store: SimObjects | None = None) -> SimObjects:
    store = store or SimObjects(seed=1)
    run_seeded(lambda: body(store), seed=1)
    return store


def test_what_was_put_is_read_listed_and_deleted() -> None:
    async def body(store: SimObjects) -> None:
        await store.put("a/1", b"12345")
        await store.put("b/1", memoryview(b"x"))
        into = bytearray(3)
        await store.get("a/1", 1, memoryview(into))
        assert into == b"234"
        assert (await store.fetch("a/1", 5)).content == b"12345"
        assert await store.list("a") == [Stat("a/1", 5)]
        with pytest.raises(Corrupt):
            await store.fetch("a/1", 4)
        with pytest.raises(Corrupt):
            await store.get("a/1", 3, memoryview(into))
        await store.delete("a/1")
        await store.delete("a/1")
        with pytest.raises(Missing):
            await store.get("a/1", 0, memoryview(into))
        assert store.under_way == 0

    on(body)


def test_conditional_puts_look_at_what_is_there_when_they_land() -> None:
    async def body(store: SimObjects) -> None:
        tag = await store.replace("a", b"1", None)
        for attempt in (store.replace("a", b"2", None), store.put("a", b"2", only_new=True)):
            with pytest.raises(Exists):
                await attempt
        await store.replace("a", b"2", tag)
        with pytest.raises(Exists):
            await store.replace("a", b"3", tag)
        assert store.peek("a") == b"2"

    on(body)

    async def poor(store: SimObjects) -> None:
        with pytest.raises(BadInput):
            await store.put("a", b"", only_new=True)

    on(poor, SimObjects(conditional=False))


@pytest.mark.parametrize(("when", "there"), [("before", None), ("after", b"1")])
def test_a_planned_fault_comes_before_or_after_the_commit(when: str, there: bytes | None) -> None:
    async def body(store: SimObjects) -> None:
        with pytest.raises(BackendError):
            await store.put("a", b"1")
        assert store.peek("a") == there
        await store.put("b", b"1")

    on(body, SimObjects(faults=FaultPlan(at=1, when=when)))  # type: ignore[arg-type]


def test_a_zombie_lands_after_a_later_delete() -> None:
    async def body(store: SimObjects) -> None:
        with pytest.raises(BackendError):
            await store.put("a", b"1")
        store.rates = Rates()
        await store.delete("a")
        assert store.peek("a") is None
        await trio.sleep(60)
        assert store.peek("a") == b"1"

    on(body, SimObjects(rates=Rates(zombie=1.0)))


@pytest.mark.parametrize("rates", [Rates(error_before=1.0), Rates(error_after=1.0), Rates(short_body=1.0)])
def test_a_read_that_fails_raises(rates: Rates) -> None:
    async def body(store: SimObjects) -> None:
        store.plant("a", b"1234")
        with pytest.raises(BackendError):
            await store.get("a", 0, memoryview(bytearray(4)))
        with pytest.raises(BackendError):
            await store.fetch("a", 4)

    on(body, SimObjects(rates=rates))


def test_a_listing_fails_as_a_whole() -> None:
    async def body(store: SimObjects) -> None:
        store.plant("a", b"1234")
        with pytest.raises(BackendError):
            await store.list("")

    on(body, SimObjects(faults=FaultPlan(at=1, kind="list", when="after")))


def test_a_full_store_and_expired_credentials_refuse() -> None:
    async def body(store: SimObjects) -> None:
        await store.put("a", b"1234")
        with pytest.raises(NoSpace):
            await store.put("b", b"1")
        store.expired = True
        with pytest.raises(BadInput, match="expired"):
            await store.list("")
        assert store.under_way == 0

    on(body, SimObjects(capacity_bytes=4))


def test_slow_requests_take_longer_and_no_more_than_allowed_run_at_once() -> None:
    async def body(store: SimObjects) -> None:
        async with trio.open_nursery() as nursery:
            for index in range(9):
                nursery.start_soon(store.put, f"a/{index}", b"1")
        assert store.under_way_most == 3
        assert trio.current_time() > 2

    on(body, SimObjects(seed=2, parallelism=3, rates=Rates(slow=1.0, slow_s=3.0)))


def test_crash_states_have_each_request_in_flight_landed_or_not() -> None:
    found: set[tuple[str, ...]] = set()

    async def body(store: SimObjects) -> None:
        store.plant("old", b"1")

        def note(event: str, key: str) -> None:
            for state in store.crash_states(8, random.Random(1)):
                found.add(tuple(state.names()))

        store.observer = note
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.put, "a", b"1")
            nursery.start_soon(store.put, "b", b"1")
            nursery.start_soon(store.delete, "old")

    store = on(body)
    assert store.names() == ["a", "b"]
    assert {("old",), ("a", "b"), ("a", "b", "old")} <= found
    assert len(found) > 4


def test_a_copy_shares_nothing_and_the_same_seed_gives_the_same_run() -> None:
    async def body(store: SimObjects) -> None:
        for index in range(20):
            try:
                await store.put(f"a/{index}", b"1")
            except BackendError:
                continue

    rates = Rates(0.2, 0.2, 0.2)
    first, second = (on(body, SimObjects(seed=9, rates=rates)) for _ in range(2))
    assert first.names() == second.names()
    assert 0 < len(first.names()) < 20
    copy = first.copy()
    copy.plant("new", b"1")
    assert first.peek("new") is None
