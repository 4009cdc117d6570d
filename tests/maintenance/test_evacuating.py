"""Backends leave, get lost and come back: nothing is lost that is anywhere else, and refusals come first."""

import pytest
import trio

from sds.core.errors import BackendError, Corrupt, SdsError
from sds.daemon.evacuating import evacuate, find_backend, give_up
from sds.maintenance.mover import Mover
from tests.maintenance.wide import Ending, Steps, Wide, in_wide_world
from tests.maintenance.world import Writer


def mover_of(world: Wide) -> Mover:
    return Mover(world.pool, world.env, world.turn, world.limiter)


async def nothing_open() -> None:
    await trio.lowlevel.checkpoint()


def test_a_backend_is_evacuated_and_everything_reads_as_before() -> None:
    async def work(world: Wide) -> None:
        model = await world.fill()
        row = find_backend(world.pool, "memory:1")
        assert world.names_on(1)
        tally = await evacuate(mover_of(world), row, nothing_open)
        assert tally.written_bytes > 0 and not world.names_on(1)
        assert [row.id for row in world.pool.catalog.backends()] == [2, 3]
        del world.disks[1]
        world.expect_tidy()
        assert await world.content("vm") == model

    in_wide_world(work)


@pytest.mark.parametrize("copies", [1, 2])
def test_a_backend_leaves_beside_a_dataset_that_is_written(copies: int) -> None:
    async def work(world: Wide) -> None:
        async with world.open() as here:
            writer = Writer(here, seed=2)
            await writer.fill()
            row = find_backend(world.pool, "memory:1")
            ended = False

            async def write() -> None:
                while not ended:
                    await writer.write(5)

            async def cut() -> None:
                await here.operations.cut()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                await evacuate(mover_of(world), row, cut)
                ended = True
            world.disks.pop(1)
            await writer.verify()
            model = bytes(writer.model)
        world.expect_tidy()
        assert await world.content("vm") == model

    in_wide_world(work, copies=copies)


def test_an_evacuation_that_was_cut_off_goes_on() -> None:
    async def work(world: Wide) -> None:
        model = await world.fill()
        row = find_backend(world.pool, "memory:1")
        plain = dict(world.pool.backends)
        steps = Steps(world.expect_live, 60)
        world.pool.backends.update({copy: Ending(one, steps) for copy, one in plain.items()})
        with steps.until_the_end():
            await evacuate(mover_of(world), row, nothing_open)
        assert steps.has_ended
        world.pool.backends.update(plain)
        assert next(row for row in world.pool.catalog.backends() if row.id == 1).state == "draining"
        world.expect_live()
        await evacuate(mover_of(world), find_backend(world.pool, "memory:1"), nothing_open)
        world.disks.pop(1)
        world.expect_live()
        assert await world.content("vm") == model

    in_wide_world(work)


def test_a_removal_is_refused_before_anything_moves() -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        before = [file.copies for file in world.files()]
        with pytest.raises(SdsError, match=r"2 copies .* need 2 failure domains, 1 would be left: add one first"):
            await evacuate(mover_of(world), find_backend(world.pool, "memory:1"), nothing_open)
        with pytest.raises(SdsError, match="memory:7 is no backend of pool tank; there are: memory:1, memory:2"):
            find_backend(world.pool, "memory:7")
        assert [file.copies for file in world.files()] == before
        assert {row.state for row in world.pool.catalog.backends()} == {"online"}

    in_wide_world(work, count=2, copies=2)


def test_a_removal_without_room_elsewhere_is_refused_before_anything_moves() -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        await world.disks[2].create("catalog/filler", world.disks[2].usage().free_bytes // 4096 * 4096)
        with pytest.raises(SdsError, match="have no place elsewhere"):
            await evacuate(mover_of(world), find_backend(world.pool, "memory:1"), nothing_open)
        assert {row.state for row in world.pool.catalog.backends()} == {"online"}
        world.expect_tidy()

    in_wide_world(work, count=2)


def test_a_lost_backend_is_given_up_and_its_copies_are_made_anew() -> None:
    async def work(world: Wide) -> None:
        model = await world.fill()
        del world.pool.backends[1]
        world.pool.missing[1] = "gone"
        row = find_backend(world.pool, "memory:1")
        with pytest.raises(BackendError, match="--lost"):
            await evacuate(mover_of(world), row, nothing_open)
        _, lost = await give_up(mover_of(world), row, nothing_open, force=False)
        assert lost == []
        del world.disks[1]
        assert {len(file.copies) for file in world.files()} == {2}
        world.expect_tidy()
        assert await world.content("vm") == model

    in_wide_world(work, copies=2)


def test_what_only_a_lost_backend_has_is_given_up_by_force_only_and_is_an_error_then() -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        only = {file.name for file in world.files() if file.copies == (1,)}
        assert only
        del world.pool.backends[1]
        row = find_backend(world.pool, "memory:1")
        with pytest.raises(BackendError, match=f"in {len(only)} files .* of tank/vm are only on memory:1"):
            await give_up(mover_of(world), row, nothing_open, force=False)
        assert len(world.pool.catalog.backends()) == 3
        _, lost = await give_up(mover_of(world), row, nothing_open, force=True)
        assert set(lost) == only
        assert world.pool.catalog.events()[0].kind == "lost"
        with pytest.raises((SdsError, Corrupt)):
            await world.content("vm")

    in_wide_world(work)


def test_a_backend_that_comes_back_gives_up_what_is_too_many() -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        away = world.pool.backends.pop(1)
        mine = [file.name for file in world.files() if 1 in file.copies]
        await mover_of(world).work("resilver")
        for file in world.files():
            assert len([copy for copy in file.copies if copy != 1]) == 2
        world.pool.backends[1] = away
        assert mine and {len(file.copies) for file in world.files() if file.name in mine} == {3}
        await mover_of(world).work("resilver")
        assert {len(file.copies) for file in world.files()} == {2}
        world.expect_tidy()

    in_wide_world(work, copies=2)
