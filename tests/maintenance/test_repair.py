"""What readers find bad is healed behind them, and nothing else is touched."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import wait_all_tasks_blocked

from sds.core.errors import Busy
from sds.maintenance.repair import QUEUE_MAX, Repairs
from tests.maintenance.wide import Wide, in_wide_world


@asynccontextmanager
async def running(repairs: Repairs) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(repairs.run)
        yield
        with trio.fail_after(20):
            while repairs.waiting:  # noqa: ASYNC110 (what a test waits for need not be an event of the product)
                await trio.sleep(0.01)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


def test_a_noted_copy_that_is_bad_is_healed_and_told() -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        repairs = Repairs(world.pool, world.env, world.turn)
        async with running(repairs):
            for file in world.files()[1:7]:
                world.raw(file.copies[0], file.name)[4000] ^= 1
                repairs.note_bad(file.rows[0].id, file.copies[0], "checksum")
        assert (repairs.healed, repairs.failed) == (6, 0)
        assert [event.kind for event in world.pool.catalog.events()[:6]] == ["repaired"] * 6
        world.expect_tidy()

    in_wide_world(work, count=2, copies=2)


def test_a_copy_that_is_good_after_all_is_left_alone() -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        repairs = Repairs(world.pool, world.env, world.turn)
        file = world.files()[1]
        kept = world.disks[1]._files[file.name]
        events = len(world.pool.catalog.events())
        async with running(repairs):
            repairs.note_bad(file.rows[0].id, 1, "a hiccup")
            repairs.note_bad(1 << 39, 1, "there is no such segment")
            repairs.note_bad(file.rows[0].id, 77, "nor such a backend")
        assert repairs.healed == repairs.failed == 0
        assert world.disks[1]._files[file.name] is kept and len(world.pool.catalog.events()) == events

    in_wide_world(work, count=2, copies=2)


def test_without_a_good_copy_it_is_told_and_nothing_is_deleted() -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        repairs = Repairs(world.pool, world.env, world.turn)
        file = world.files()[2]
        for copy in file.copies:
            world.raw(copy, file.name)[4000] ^= 1
        async with running(repairs):
            repairs.note_bad(file.rows[0].id, file.copies[0], "checksum")
        assert repairs.failed == 1 and world.pool.catalog.events()[0].kind == "repair-failed"
        assert all(file.name in world.names_on(copy) for copy in file.copies)
        assert world.files()[2].copies == file.copies

    in_wide_world(work, count=2, copies=2)


def test_notes_are_bounded_and_come_once() -> None:
    async def work(world: Wide) -> None:
        repairs = Repairs(world.pool, world.env, world.turn)
        for number in range(2 * QUEUE_MAX):
            repairs.note_bad(number % (QUEUE_MAX + 10), 1, "checksum")
            repairs.note_bad(1, 1, "again")
        assert repairs.waiting == QUEUE_MAX
        await trio.lowlevel.checkpoint()

    in_wide_world(work)


def test_an_open_segment_is_left_to_its_writer() -> None:
    async def work(world: Wide) -> None:
        async with world.open() as here:
            repairs = Repairs(world.pool, world.env, world.turn)
            segment, _ = here.dataset.log.position
            row = world.pool.catalog.segment(segment)
            assert not row.sealed
            async with running(repairs):
                repairs.note_bad(segment, row.copies[0], "checksum")
            assert world.pool.catalog.segment(segment) == row and repairs.failed == 0

    in_wide_world(work, count=2, copies=2)


def test_a_repair_waits_for_its_turn() -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        refusals = 2

        @asynccontextmanager
        async def turn() -> AsyncIterator[None]:
            nonlocal refusals
            refusals -= 1
            if refusals >= 0:
                raise Busy("somebody moves files")
            async with world.turn():
                yield

        repairs = Repairs(world.pool, world.env, turn, retry_s=0.01)
        file = world.files()[1]
        world.raw(1, file.name)[4000] ^= 1
        async with running(repairs):
            repairs.note_bad(file.rows[0].id, 1, "checksum")
        assert repairs.healed == 1
        world.expect_tidy()

    in_wide_world(work, count=2, copies=2)
