"""The simulated disk keeps exactly the promises of the contract about names (B1, B9), and no more."""

import random
from collections.abc import Awaitable, Callable

import pytest
import trio

from backends.base import Stat
from backends.faulty import FaultPlan, Faulty
from sds.core.errors import BackendError, Missing
from tests.backends.places import PAGE, pages
from tests.sim.disk import DELETES_PENDING_MAX, SimDisk
from tests.sim.effects import Fate
from tests.sim.test_disk import NAME, NEW, OLD, ZERO, on_disk, states

TOUCH: dict[str, Callable[[SimDisk], Awaitable[None]]] = {
    "sync": lambda disk: disk.sync(NAME),
    "write with sync": lambda disk: disk.write(NAME, 0, pages(1), sync=True),
    "seal": lambda disk: disk.seal(NAME, 2 * PAGE),
}


async def fresh(disk: SimDisk) -> None:
    await disk.create(NAME, 2 * PAGE)


async def fresh_and_written(disk: SimDisk) -> None:
    await fresh(disk)
    await disk.write(NAME, 0, pages(1))


def torn(disk: SimDisk) -> set[bytes | None]:
    return {disk.crash_state(Fate.TEAR, random.Random(r)).peek(NAME) for r in range(40)}


def test_a_file_that_was_never_synced_may_vanish_or_be_shorter_after_a_power_cut() -> None:
    disk = on_disk(fresh)
    assert disk.peek(NAME) == ZERO + ZERO
    assert disk.pending_count() == 1
    assert set(states(disk)) | torn(disk) == {None, b"", ZERO, ZERO + ZERO}


def test_a_write_without_sync_does_not_make_its_file_durable() -> None:
    """Nor is the file whole, if it is there: of what is left, any of the data may have arrived."""
    disk = on_disk(fresh_and_written)
    found = set(states(disk)) | torn(disk)
    assert {None, b"", ZERO, OLD, ZERO + ZERO, OLD + ZERO} <= found
    assert max(len(state) for state in found if state is not None) == 2 * PAGE


@pytest.mark.parametrize("prepare", [fresh, fresh_and_written])
@pytest.mark.parametrize("touch", TOUCH.values(), ids=TOUCH)
def test_after_the_first_sync_seal_or_write_with_sync_it_never_vanishes(
    prepare: Callable[[SimDisk], Awaitable[None]], touch: Callable[[SimDisk], Awaitable[None]]
) -> None:
    async def body(disk: SimDisk) -> None:
        await prepare(disk)
        await disk.create("segments/2", PAGE)
        await touch(disk)

    disk = on_disk(body)
    (state,) = {*states(disk, garble=True), *torn(disk)}
    assert state == disk.peek(NAME)
    assert set(states(disk, "segments/2")) == {None, b"", ZERO}  # The promise is about this file alone.


@pytest.mark.parametrize("touch", TOUCH.values(), ids=TOUCH)
def test_the_name_is_settled_when_the_first_sync_returns_and_not_earlier(
    touch: Callable[[SimDisk], Awaitable[None]],
) -> None:
    """Looked at between any two steps of the operation, for some lengths of its waits."""
    looks = 0
    for seed in range(10):
        events: list[str] = []
        early: list[bool] = []

        async def body(disk: SimDisk, events: list[str] = events, early: list[bool] = early) -> None:
            await fresh(disk)
            disk.observer = lambda event, _: events.append(event)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(touch, disk)
                while not {"sync:end", "seal:end"} & set(events):
                    early.append(None in states(disk))
                    await trio.lowlevel.checkpoint()
            assert None not in states(disk)

        on_disk(body, seed=seed)
        assert all(early)
        looks += len(early)
    assert looks > 20


def test_a_first_sync_that_failed_promises_nothing() -> None:
    """Also where another layer makes it fail: Faulty lets nothing through before its fault."""

    async def body(disk: SimDisk) -> None:
        await fresh_and_written(disk)
        disk.faults = FaultPlan(at=1, kind="sync")
        with pytest.raises(BackendError, match=NAME):
            await disk.sync(NAME)

    async def around(disk: SimDisk) -> None:
        await fresh_and_written(disk)
        with pytest.raises(BackendError, match=NAME):
            await Faulty(disk, FaultPlan(at=1, kind="sync")).sync(NAME)

    for prepare in (body, around):
        assert None in states(on_disk(prepare))


def test_a_fault_after_the_first_sync_leaves_a_durable_name() -> None:
    async def around(disk: SimDisk) -> None:
        faulty = Faulty(disk, FaultPlan(at=1, kind="sync", when="after"))
        await faulty.create(NAME, 2 * PAGE)
        with pytest.raises(BackendError, match=NAME):
            await faulty.sync(NAME)

    assert states(on_disk(around)) == [ZERO + ZERO]


def test_the_next_process_may_be_the_first_to_sync_a_file() -> None:
    killed = on_disk(fresh_and_written).kill_state()
    assert killed.peek(NAME) == OLD + ZERO
    assert None in states(killed)
    on_disk(lambda disk: disk.sync(NAME), killed)
    assert states(killed) == [OLD + ZERO]


def test_a_file_that_vanished_is_gone_for_good_and_its_name_is_free() -> None:
    async def again(disk: SimDisk) -> None:
        assert await disk.list("") == []
        with pytest.raises(Missing, match=NAME):
            await disk.open(NAME)
        await disk.create(NAME, PAGE)
        await disk.write(NAME, 0, pages(1, fill=2), sync=True)
        assert await disk.list("") == [Stat(NAME, PAGE)]

    disk = on_disk(fresh_and_written).crash_state(Fate.DROP)
    assert disk.pending_count() == 0
    assert states(on_disk(again, disk)) == [NEW]


def test_a_create_in_flight_leaves_nothing_all_or_a_shorter_file() -> None:
    during: set[bytes | None] = set()

    def watch(event: str, _: str) -> None:
        if event == "create:done":
            during.update(disk.crash_state(Fate.TEAR, random.Random(r)).peek(NAME) for r in range(20))
            during.update(states(disk))

    disk = SimDisk()
    disk.observer = watch
    on_disk(lambda disk: disk.create(NAME, 2 * PAGE), disk)
    assert during == {None, b"", ZERO, ZERO + ZERO}


def test_a_deleted_file_may_come_back_until_newer_deletes_or_a_durable_new_one() -> None:
    async def body(disk: SimDisk) -> None:
        await disk.create(NAME, PAGE)
        await disk.write(NAME, 0, pages(1), sync=True)
        await disk.delete(NAME)

    disk = on_disk(body)
    assert disk.peek(NAME) is None
    assert set(states(disk)) == {None, OLD}

    async def more(disk: SimDisk) -> None:
        for index in range(DELETES_PENDING_MAX):
            await disk.put(f"x/{index}", b"")
            await disk.delete(f"x/{index}")

    assert set(states(on_disk(more, disk))) == {None}

    async def again(disk: SimDisk) -> None:
        await body(disk)
        await disk.create(NAME, 2 * PAGE)

    disk = on_disk(again)
    assert set(states(disk)) | torn(disk) == {None, OLD, b"", ZERO, ZERO + ZERO}
    on_disk(lambda disk: disk.sync(NAME), disk)
    assert states(disk) == [ZERO + ZERO]
