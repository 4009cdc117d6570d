"""Copies move, and at no moment is the last one in danger."""

from functools import partial
from typing import Any

import pytest
import trio

from backends.faulty import FaultPlan, Faulty
from sds.core.errors import BackendError, Busy
from sds.maintenance.limiter import Limiter
from sds.maintenance.mover import Mover
from sds.maintenance.moves import Move
from sds.maintenance.moving import carry_out, finish, heal, turn_of
from sds.pool.files import StoredFile
from sds.pool.lease import Lease
from tests.maintenance.wide import Ending, Steps, Wide, in_wide_world
from tests.maintenance.world import ME


async def drive(world: Wide, move: Move) -> None:
    async with world.turn():
        moved = await carry_out(world.pool, world.env, move, world.limiter)
        await finish(world.pool, world.env, [moved])


def elsewhere(world: Wide, file: StoredFile) -> Move:
    (source,) = file.copies
    target = next(copy for copy in world.disks if copy != source)
    return Move(file, (target,), (source,), "test")


def test_a_file_moves_and_its_old_copy_goes_after_a_backup_without_it() -> None:
    async def work(world: Wide) -> None:
        model = await world.fill()
        file = world.files()[3]
        move = elsewhere(world, file)
        for disk in world.disks.values():
            disk.history.clear()
        await drive(world, move)
        assert world.files()[3].copies == move.add
        history = world.disks[move.drop[0]].history
        puts = [index for index, (kind, name) in enumerate(history) if kind == "put" and name.startswith("catalog/")]
        assert min(puts) < history.index(("delete", file.name))
        world.expect_tidy()
        assert await world.content("vm") == model

    in_wide_world(work)


@pytest.mark.parametrize("kind", ["move", "heal"])
def test_whatever_operation_is_the_last_one_a_whole_copy_is_listed_and_the_next_run_completes(kind: str) -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        await Mover(world.pool, world.env, world.turn, Limiter()).work("resilver")
        plain = dict(world.pool.backends)
        at = 0
        while True:
            at += 1
            file = world.files()[at % len(world.files())]
            steps = Steps(partial(world.expect_live, file.name), at)
            world.pool.backends.update({copy: Ending(one, steps) for copy, one in plain.items()})
            with steps.until_the_end():
                if kind == "move":
                    await drive(world, _turned(world, file))
                else:
                    world.raw(file.copies[0], file.name)[5000] ^= 1
                    async with world.turn():
                        await heal(world.pool, world.env, file, file.copies[:1], world.limiter)
            world.pool.backends.update(plain)
            world.expect_live()
            await _tidy(world)
            if not steps.has_ended:
                break
        assert at > 12
        world.expect_tidy()

    in_wide_world(work, copies=2)


def _turned(world: Wide, file: StoredFile) -> Move:
    new = next(copy for copy in world.disks if copy not in file.copies)
    return Move(file, (new,), file.copies[:1], "test")


async def _tidy(world: Wide) -> None:
    """What comes after a restart: heal what is bad, bring the copies to their number, delete files without a row."""
    for file in world.files():
        bad = [copy for copy in file.copies if not world.is_good(file, copy)]
        if bad:
            async with world.turn():
                healed = await heal(world.pool, world.env, file, bad, world.limiter)
            assert not healed.problem
    tally = await Mover(world.pool, world.env, world.turn, world.limiter).work("resilver")
    assert not tally.problems
    listed = {(copy, file.name) for file in world.files() for copy in file.copies}
    for copy, disk in world.disks.items():
        for name in world.names_on(copy):
            if (copy, name) not in listed:
                await disk.delete(name)
    world.expect_tidy()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_backend_that_fails_at_any_operation_costs_no_copy(when: Any) -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        at = 0
        while True:
            at += 1
            file = next(file for file in world.files() if file.copies == (1,))
            plan = FaultPlan(at=at, when=when)
            world.pool.backends[2] = Faulty(world.disks[2], plan)
            async with world.turn():
                moved = await carry_out(world.pool, world.env, Move(file, (2,), (1,), "test"), world.limiter)
                world.expect_live()
                if not plan.fired:
                    break
                assert moved.problems and moved.dropped == ()
                assert world.is_good(file, 1)
            world.pool.backends[2] = world.disks[2]
        assert at > 6

    in_wide_world(work, count=2)


def test_the_only_good_copy_is_not_dropped_for_one_that_is_bad() -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        for file in world.files()[:8]:
            stays, goes = file.copies
            world.raw(stays, file.name)[len(world.raw(stays, file.name)) // 2] ^= 4
            await drive(world, Move(file, (), (goes,), "test"))
            now = next(other for other in world.files() if other.name == file.name)
            assert now.copies == file.copies and world.is_good(file, goes)

    in_wide_world(work, copies=2)


def test_what_somebody_else_changed_meanwhile_is_left_alone() -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        file = world.files()[0]
        move = elsewhere(world, file)
        third = next(copy for copy in world.disks if copy not in (*move.add, *move.drop))
        real = world.pool.catalog.set_copies

        def set_copies(seen: StoredFile, copies: Any) -> None:
            world.pool.catalog.set_copies = real  # type: ignore[method-assign]
            world.disks[third]._files[file.name] = world.disks[move.drop[0]]._files[file.name]
            real(file, (third, *move.drop))
            real(seen, copies)

        world.pool.catalog.set_copies = set_copies  # type: ignore[method-assign, assignment]
        async with world.turn():
            moved = await carry_out(world.pool, world.env, move, world.limiter)
        assert moved.was_changed
        assert file.name not in world.names_on(move.add[0])
        assert world.files()[0].copies == (third, *move.drop)
        again = await carry_out(world.pool, world.env, move, world.limiter)
        assert again.was_changed and again.added == ()
        world.expect_live()

    in_wide_world(work)


def test_a_segment_that_a_sweep_took_meanwhile_leaves_no_file() -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        file = world.files()[0]
        move = elsewhere(world, file)
        world.pool.catalog.delete_segments([file.rows[0].id])
        async with world.turn():
            moved = await carry_out(world.pool, world.env, move, world.limiter)
        assert moved.was_changed and file.name not in world.names_on(move.add[0])

    in_wide_world(work)


def test_a_dropped_copy_that_is_listed_again_keeps_its_file() -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        file = world.files()[0]
        move = elsewhere(world, file)
        moved = await carry_out(world.pool, world.env, move, world.limiter)
        now = next(other for other in world.files() if other.name == file.name)
        world.pool.catalog.set_copies(now, (*move.add, *move.drop))
        await finish(world.pool, world.env, [moved])
        world.expect_tidy()

    in_wide_world(work)


def test_files_are_not_deleted_without_a_backup() -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        file = world.files()[0]
        move = elsewhere(world, file)
        moved = await carry_out(world.pool, world.env, move, world.limiter)
        for copy, disk in world.disks.items():
            world.pool.backends[copy] = Faulty(disk, FaultPlan(at=1, kind="put", lasting=True))
        with pytest.raises(BackendError):
            await finish(world.pool, world.env, [moved])
        assert file.name in world.names_on(move.drop[0])

    in_wide_world(work)


def test_a_bad_copy_goes_elsewhere_if_its_place_takes_no_more_writes() -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        file = world.files()[0]
        bad, good = file.copies
        world.raw(bad, file.name)[70] ^= 255
        world.pool.backends[bad] = Faulty(world.disks[bad], FaultPlan(at=1, kind="write", lasting=True))
        async with world.turn():
            healed = await heal(world.pool, world.env, file, (bad,), world.limiter)
        assert healed.problem == ""
        third = next(copy for copy in world.disks if copy not in file.copies)
        assert world.files()[0].copies == (good, third)
        world.expect_tidy()

    in_wide_world(work, copies=2)


def test_one_process_at_a_time_moves_files() -> None:
    async def work(world: Wide) -> None:
        path = world.pool.home.run_dir / f"{world.pool.uuid.hex()}-moves.lock"
        with Lease.take(path, "moves", ME), trio.move_on_after(0.2) as scope:
            async with turn_of(world.pool, ME)():
                raise AssertionError("two at once")
        assert scope.cancelled_caught
        async with world.turn():
            with pytest.raises(Busy):
                Lease.take(path, "moves", ME)

    in_wide_world(work)
