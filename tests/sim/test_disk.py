"""The simulated disk keeps exactly the promises of the contract about data, and no more. Names: test_disk_names.py."""

import random
from collections.abc import Awaitable, Callable
from typing import Literal

import pytest
import trio

from backends.base import Stat
from backends.faulty import FaultPlan
from sds.core.errors import BackendError, NoSpace
from tests.backends.places import PAGE, pages, read_back
from tests.sim.disk import SimDisk
from tests.sim.schedule import run_seeded

NAME = "segments/1"
OLD, NEW, ZERO = bytes(pages(1, fill=1)), bytes(pages(1, fill=2)), bytes(PAGE)


def on_disk(
    body: Callable[[SimDisk], Awaitable[None]], disk: SimDisk | None = None, seed: int = 0
) -> SimDisk:
    disk = disk or SimDisk(seed)
    run_seeded(lambda: body(disk), seed)
    return disk


def states(disk: SimDisk, name: str = NAME, limit: int = 500, garble: bool = False) -> list[bytes | None]:
    return [state.peek(name) for state in disk.crash_states(limit, random.Random(1), garble)]


async def durable_zeros(disk: SimDisk, count: int) -> None:
    """A file of which nothing is pending, so that only the writes under test are."""
    await disk.create(NAME, count * PAGE)
    await disk.sync(NAME)


async def two_pages(disk: SimDisk) -> None:
    await durable_zeros(disk, 2)
    await disk.write(NAME, 0, pages(1, fill=1))
    await disk.write(NAME, PAGE, pages(1, fill=2))


def test_what_was_created_and_synced_survives_every_crash() -> None:
    async def body(disk: SimDisk) -> None:
        await two_pages(disk)
        await disk.sync(NAME)
        await disk.create("segments/2", PAGE)
        await disk.write("segments/2", 0, pages(1), sync=True)

    disk = on_disk(body)
    assert states(disk) == [OLD + NEW]
    assert states(disk, "segments/2") == [OLD]


def test_every_subset_of_few_unsynced_writes_is_a_crash_state() -> None:
    found = states(on_disk(two_pages))
    assert {OLD + NEW, OLD + ZERO, ZERO + NEW, ZERO + ZERO} <= set(found)
    assert found[0] == OLD + NEW
    assert found[1] == ZERO + ZERO


def test_a_torn_write_is_a_mixture_of_whole_sectors() -> None:
    whole = (OLD + NEW, OLD + ZERO, ZERO + NEW, ZERO + ZERO)
    torn = [state for state in states(on_disk(two_pages)) if state not in whole]
    assert torn
    for state in torn:
        assert state is not None
        for at in range(0, 2 * PAGE, 512):
            assert state[at : at + 512] in ((OLD + NEW)[at : at + 512], bytes(512))


def test_garbage_stays_inside_the_pages_of_pending_writes() -> None:
    async def body(disk: SimDisk) -> None:
        await two_pages(disk)
        await disk.sync(NAME)
        await disk.write(NAME, PAGE, pages(1, fill=3))

    found = states(on_disk(body), garble=True)
    assert all(state is not None and state[:PAGE] == OLD for state in found)
    legal = {bytes(NEW[:512]), bytes(pages(1, fill=3)[:512])}
    assert any(state is not None and state[PAGE : PAGE + 512] not in legal for state in found)


def test_many_pending_effects_are_sampled_within_the_limit() -> None:
    async def body(disk: SimDisk) -> None:
        await durable_zeros(disk, 40)
        for index in range(40):
            await disk.write(NAME, index * PAGE, pages(1))

    disk = on_disk(body)
    assert disk.pending_count() == 40
    found = states(disk, limit=30)
    assert len(found) == 30
    assert found[:2] == [OLD * 40, ZERO * 40]
    assert len(set(found)) > 20
    assert states(disk, limit=1) == [OLD * 40]


def test_a_write_in_flight_is_pending_and_so_is_its_effect() -> None:
    seen: list[list[bytes | None]] = []

    async def body(disk: SimDisk) -> None:
        await durable_zeros(disk, 1)
        disk.observer = lambda event, _: seen.append(states(disk)) if event == "write:done" else None
        await disk.write(NAME, 0, pages(1), sync=True)

    assert states(on_disk(body)) == [OLD]
    assert {OLD, ZERO} <= set(seen[0])


def test_a_sync_promises_nothing_about_writes_still_in_flight() -> None:
    """Wherever a write was under way when a sync began and ended, it may still be lost."""
    cases = 0
    for seed in range(40):
        disk = SimDisk(seed, latency=6)
        events: list[str] = []
        under_way_at_start: list[bool] = []
        found: list[bytes | None] = []

        def watch(
            event: str,
            _: str,
            disk: SimDisk = disk,
            events: list[str] = events,
            under_way_at_start: list[bool] = under_way_at_start,
            found: list[bytes | None] = found,
        ) -> None:
            if event == "sync:start":
                under_way_at_start.append(disk.pending_count() == 1)
            elif event == "sync:end" and "write:end" not in events:
                found.extend(states(disk))
            events.append(event)

        async def body(disk: SimDisk, watch: Callable[[str, str], None] = watch) -> None:
            await durable_zeros(disk, 1)
            disk.observer = watch
            async with trio.open_nursery() as nursery:
                nursery.start_soon(disk.write, NAME, 0, pages(1))
                await trio.lowlevel.checkpoint()
                nursery.start_soon(disk.sync, NAME)

        on_disk(body, disk, seed)
        if under_way_at_start[0] and found:
            cases += 1
            assert ZERO in found
    assert cases


def test_kill_9_in_the_middle_of_a_write_leaves_it_to_the_kernel() -> None:
    """Taken before the write shows to readers, the copy shows it: the kernel goes on without the process."""
    cases = 0
    for seed in range(20):
        disk = SimDisk(seed)
        killed: list[bytes | None] = []

        async def body(disk: SimDisk, killed: list[bytes | None] = killed) -> None:
            await durable_zeros(disk, 1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(disk.write, NAME, 0, pages(1))
                for _ in range(5):
                    await trio.lowlevel.checkpoint()
                    if disk.pending_count() and disk.peek(NAME) == ZERO:
                        killed.append(disk.kill_state().peek(NAME))

        on_disk(body, disk, seed)
        assert set(killed) <= {OLD}
        cases += len(killed)
    assert cases


def test_put_is_all_or_nothing_and_durable_when_it_returned() -> None:
    during: set[bytes | None] = set()

    async def body(disk: SimDisk) -> None:
        await disk.put("pool.json", b"old" * 2000)

        def watch(event: str, _: str) -> None:
            if event == "put:done":
                during.update(states(disk, "pool.json"))

        disk.observer = watch
        await disk.put("pool.json", b"new")

    disk = on_disk(body)
    assert during == {b"old" * 2000, b"new"}
    assert set(states(disk, "pool.json")) == {b"new"}


def test_seal_in_flight_is_cut_or_not_and_covers_the_writes_before() -> None:
    during: set[bytes | None] = set()

    async def body(disk: SimDisk) -> None:
        await two_pages(disk)
        disk.observer = lambda event, _: during.update(states(disk)) if event == "seal:done" else None
        await disk.seal(NAME, PAGE)

    assert states(on_disk(body)) == [OLD]
    assert {OLD, ZERO, OLD + NEW, OLD + ZERO} <= during


def test_kill_9_loses_nothing_and_a_power_cut_afterwards_may() -> None:
    disk = on_disk(two_pages)
    killed = disk.kill_state()
    assert killed.peek(NAME) == OLD + NEW
    assert ZERO + ZERO in states(killed)
    on_disk(lambda disk: disk.sync(NAME), killed)
    assert states(killed) == [OLD + NEW]
    assert ZERO + ZERO in states(disk)


def test_a_copy_does_not_see_what_happens_to_the_original_later() -> None:
    async def overwrite(disk: SimDisk) -> None:
        await disk.write(NAME, 0, pages(1, fill=9), sync=True)

    disk = on_disk(two_pages)
    killed, crashes = disk.kill_state(), disk.crash_states(4, random.Random(1))
    first = next(crashes)
    on_disk(overwrite, disk)
    assert killed.peek(NAME) == first.peek(NAME) == OLD + NEW
    assert next(crashes).peek(NAME) == ZERO + ZERO


def test_copies_and_the_original_go_their_own_ways() -> None:
    def run(with_copies: bool) -> tuple[list[str], bytes | None]:
        trace: list[str] = []
        disk = SimDisk(seed=3)

        async def body(disk: SimDisk) -> None:
            await two_pages(disk)
            if with_copies:
                for state in [*disk.crash_states(20, random.Random(1)), disk.kill_state()]:
                    state._names[NAME].live.write([(0, b"!" * PAGE)])
                    state._names[NAME].durable.write([(1, b"!" * PAGE)])
            disk.observer = lambda event, name: trace.append(event + name)
            async with trio.open_nursery() as nursery:
                for index in range(2):
                    nursery.start_soon(disk.write, NAME, index * PAGE, pages(1, fill=4), True)

        on_disk(body, disk)
        return trace, disk.peek(NAME)

    assert run(with_copies=True) == run(with_copies=False)


@pytest.mark.parametrize(("mode", "seen"), [("drop", ZERO), ("keep", OLD), ("zero", ZERO)])
def test_a_failed_sync_is_final_and_the_data_was_never_durable(
    mode: Literal["drop", "keep", "zero"], seen: bytes
) -> None:
    async def body(disk: SimDisk) -> None:
        await durable_zeros(disk, 1)
        await disk.write(NAME, 0, pages(1))
        disk.faults = FaultPlan(at=1, kind="sync")
        with pytest.raises(BackendError, match=NAME):
            await disk.sync(NAME)
        for later in (disk.sync(NAME), disk.write(NAME, 0, pages(1), True), disk.seal(NAME, 0)):
            with pytest.raises(BackendError, match=NAME):
                await later
        assert await read_back(disk, NAME, 0, PAGE) == seen

    assert ZERO in states(on_disk(body, SimDisk(sync_failure=mode)))


def test_every_operation_can_be_the_one_that_fails() -> None:
    async def body(disk: SimDisk) -> None:
        await two_pages(disk)
        await disk.write(NAME, 0, pages(1), sync=True)  # Two operations: either half can fail.
        await disk.seal(NAME, PAGE)
        await read_back(disk, NAME, 0, PAGE)
        await disk.put("a", b"")
        await disk.get("a", 1)
        await disk.list("")
        await disk.delete("a")

    clean = on_disk(body)
    assert clean.operations == 13
    for when in ("before", "after"):
        for index in range(1, clean.operations + 1):
            disk = SimDisk(faults=FaultPlan(at=index, when=when, error=NoSpace))
            with pytest.raises(NoSpace, match="injected"):
                on_disk(body, disk)
            assert disk.operations == index


def test_a_fault_after_the_effect_leaves_the_effect() -> None:
    async def body(disk: SimDisk) -> None:
        disk.faults = FaultPlan(at=1, when="after")
        with pytest.raises(BackendError):
            await disk.put("a", b"done")
        disk.faults = FaultPlan(at=1, when="before")
        with pytest.raises(BackendError):
            await disk.put("a", b"not done")

    assert on_disk(body).peek("a") == b"done"


def test_room_is_bounded_and_comes_back() -> None:
    async def body(disk: SimDisk) -> None:
        await disk.create(NAME, 6 * PAGE)
        with pytest.raises(NoSpace):
            await disk.create("segments/2", 3 * PAGE)
        assert await disk.list("") == [Stat(NAME, 6 * PAGE)]
        await disk.seal(NAME, 2 * PAGE)
        await disk.create("segments/2", 6 * PAGE)
        assert disk.usage().free_bytes == 0
        await disk.delete(NAME)
        assert disk.usage().free_bytes == 2 * PAGE

    on_disk(body, SimDisk(capacity_bytes=8 * PAGE))


def test_a_new_process_may_write_files_that_had_failed() -> None:
    async def fail(disk: SimDisk) -> None:
        await two_pages(disk)
        disk.faults = FaultPlan(at=1, kind="sync")
        with pytest.raises(BackendError):
            await disk.sync(NAME)

    async def go_on(disk: SimDisk) -> None:
        await disk.write(NAME, 0, pages(1), sync=True)

    on_disk(go_on, on_disk(fail).kill_state())
