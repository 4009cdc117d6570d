"""Half-dead segments give their space back, and whatever somebody can read stays what it is."""

import random

import pytest
import trio

from sds.core.errors import BackendError, Busy
from sds.core.frame import pool_key
from sds.core.victims import FileUse
from sds.daemon.operations import Operations
from sds.dataset.nodes import Nodes
from sds.log.reader import FrameReader
from sds.maintenance.cleaner import Cleaned, Cleaner
from sds.maintenance.limiter import Limiter
from sds.maintenance.moving import turn_of
from sds.maintenance.verify import verify_pack
from sds.pool.files import files_of
from tests.maintenance.world import BLOCK, ME, SIZE_BYTES, Crash, World, Writer, in_world


def cleaner_of(world: World, name: str = "vm") -> Cleaner:
    reader = FrameReader(world.pool, world.env, {})
    family = world.pool.catalog.dataset(name).family
    return Cleaner(world.pool, family, Nodes(reader, None), world.env, turn_of(world.pool, ME), Limiter())


async def clean(world: World, name: str = "vm") -> Cleaned:
    cleaner = cleaner_of(world, name)
    return await cleaner.clean(await cleaner.survey())


async def scatter(writer: Writer, part: float = 0.5) -> None:
    """Overwrite single blocks everywhere: segments become half-dead, hardly one dies."""
    for block in range(SIZE_BYTES // BLOCK):
        if writer.rng.random() < part:
            await writer.put(block * BLOCK, writer.rng.randbytes(BLOCK))


def stored(world: World) -> int:
    return sum(file.size_bytes for file in files_of(world.pool.catalog.all_segments()))


async def files_on(world: World) -> dict[str, int]:
    found = [*await world.backend.list("segments/"), *await world.backend.list("packs/")]
    return {stat.name: stat.size_bytes for stat in found}


async def prepared(world: World, seed: int = 1) -> bytearray:
    """A closed volume with a lot of garbage; its content."""
    async with world.open() as here:
        writer = Writer(here, seed)
        await writer.fill()
        await scatter(writer)
        await here.operations.checkpoint()
    return writer.model


def test_space_comes_back_and_everything_reads_as_before() -> None:
    async def work(world: World) -> None:
        model = await prepared(world)
        before = stored(world)
        done = await clean(world)
        assert done.packs > 1
        assert done.freed_bytes > SIZE_BYTES // 4
        assert stored(world) == before - done.freed_bytes
        assert await world.content("vm") == model
        async with world.open() as here:
            await Writer(here, 1, model).verify()

    in_world(work)


def test_every_file_left_is_one_that_the_catalog_knows_with_its_size_and_verifies() -> None:
    async def work(world: World) -> None:
        await prepared(world)
        await clean(world)
        files = files_of(world.pool.catalog.all_segments())
        assert {file.name: file.size_bytes for file in files} == await files_on(world)
        packs = [file for file in files if file.pack]
        assert packs
        for file in packs:
            data = memoryview(await world.backend.get(file.name, 1 << 20))
            uuid = world.pool.uuid
            assert verify_pack(data, file.rows, file.family, uuid, pool_key(uuid)).ok

    in_world(work)


def test_packs_are_cleaned_again() -> None:
    async def work(world: World) -> None:
        model = await prepared(world)
        await clean(world)
        generations = []
        for seed in range(2, 6):
            async with world.open() as here:
                writer = Writer(here, seed, model)
                await scatter(writer)
                await here.operations.checkpoint()
                model = writer.model
            await world.sweep()
            await clean(world)
            generations.append(max(row.generation for row in world.pool.catalog.all_segments()))
            assert await world.content("vm") == model
        assert generations[-1] > 1
        assert stored(world) < 2 * SIZE_BYTES

    in_world(work)


def test_snapshots_and_clones_read_what_they_did() -> None:
    async def work(world: World) -> None:
        async with world.open() as here:
            writer = Writer(here, 1)
            await writer.fill()
            await here.operations.snapshot("a")
            then = bytes(writer.model)
            await scatter(writer)
            await here.operations.checkpoint()
            await here.operations.clone("a", "copy")
            await scatter(writer)
        snapshot = world.pool.catalog.snapshot(world.pool.catalog.dataset("vm").id, "a")
        assert (await clean(world)).packs > 0
        assert await world.content("vm", snapshot) == then
        assert await world.content("copy") == then
        assert await world.content("vm") == writer.model
        world.pool.catalog.destroy_snapshot(snapshot.id)
        await world.sweep()
        await clean(world)
        assert await world.content("copy") == then
        assert await world.content("vm") == writer.model

    in_world(work)


def test_a_clone_made_meanwhile_puts_the_cleaning_off_and_nothing_is_left() -> None:
    async def work(world: World) -> None:
        async with world.open() as here:
            writer = Writer(here, 1)
            await writer.fill()
            await scatter(writer)
            await here.operations.snapshot("a")
            await here.operations.checkpoint()
            await scatter(writer)
        cleaner = cleaner_of(world)
        survey = await cleaner.survey()
        before = await files_on(world)
        row = world.pool.catalog.dataset("vm")
        world.pool.catalog.create_dataset(
            "copy", "volume", SIZE_BYTES, {}, world.pool.catalog.snapshot(row.id, "a")
        )
        with pytest.raises(Busy, match="changed since it was marked"):
            await cleaner.clean(survey)
        assert await files_on(world) == before
        assert await world.content("vm") == writer.model

    in_world(work)


@pytest.mark.parametrize("call", ["new_pack_id", "pack_segments", "export_state"])
def test_a_death_at_any_step_loses_nothing(call: str) -> None:
    async def work(world: World) -> None:
        model = await prepared(world)
        cleaner = cleaner_of(world)
        survey = await cleaner.survey()
        world.crash_on.add(call)
        if call == "export_state":
            world.pool.catalog.export_state = _die  # type: ignore[method-assign]
        with pytest.raises(Crash):
            await cleaner.clean(survey)
        world.crash_on.clear()
        if call == "export_state":
            del world.pool.catalog.export_state
        assert await world.content("vm") == model
        await clean(world)
        assert await world.content("vm") == model

    in_world(work)


def _die() -> bytes:
    raise Crash("export_state")


def test_the_old_files_go_only_after_a_backup_that_does_not_need_them() -> None:
    async def work(world: World) -> None:
        await prepared(world)
        del world.backend.history[:]
        await clean(world)
        kinds = [(kind, name.partition("/")[0]) for kind, name in world.backend.history]
        assert ("delete", "segments") in kinds
        assert kinds.index(("put", "catalog")) < kinds.index(("delete", "segments"))

    in_world(work)


def test_what_cannot_be_written_is_an_error_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(world: World) -> None:
        model = await prepared(world)
        before = await files_on(world)

        async def broken(name: str, size_bytes: int) -> None:
            raise BackendError("no")

        monkeypatch.setattr(world.backend, "create", broken)
        with pytest.raises(Exception, match="could not be written"):
            await clean(world)
        assert await files_on(world) == before
        assert await world.content("vm") == model

    in_world(work)


def test_small_files_are_packed_even_without_garbage() -> None:
    async def work(world: World) -> None:
        async with world.open() as here:
            writer = Writer(here, 1)
            for _ in range(60):
                await writer.write(1)
                await here.operations.checkpoint()
                assert here.dataset.log.cut()
                await here.dataset.flush()
            await here.operations.checkpoint()
        cleaner = cleaner_of(world)
        before = len(await files_on(world))
        done = await cleaner.clean(await cleaner.survey(), small=True)
        assert done.packs >= 1
        assert len(await files_on(world)) < before - 8
        assert await world.content("vm") == writer.model

    in_world(work)


def test_an_open_volume_reads_and_writes_while_it_is_cleaned() -> None:
    async def work(world: World) -> None:
        async with world.open() as here:
            writer = Writer(here, 1)
            await writer.fill()
            await scatter(writer)
            await here.operations.checkpoint()
            await writer.verify()  # files are open now
            done = await here.sweeper.clean(force=True)
            assert done.packs > 0
            await writer.verify()
            await writer.write(200)
            await here.operations.snapshot("after")
            await writer.verify()
            assert await stat_of(here.operations, "cleaned_packs") == done.packs
        assert await world.content("vm") == writer.model

    in_world(work)


async def stat_of(operations: Operations, name: str) -> object:
    return (await operations.stats())[name]


def test_the_policy_is_asked_with_bytes_and_ages_that_make_sense() -> None:
    async def work(world: World) -> None:
        await prepared(world)
        survey = await cleaner_of(world).survey()
        assert all(isinstance(use, FileUse) and 0 <= use.live_bytes <= use.size_bytes for use in survey.uses)
        ages = [use.age_bytes for use in survey.uses]
        assert min(ages) >= 0
        assert len(set(ages)) == len(ages)
        assert SIZE_BYTES * 0.9 < survey.live_bytes < SIZE_BYTES * 1.5

    in_world(work)


def test_a_full_pool_takes_overwrites_for_ever() -> None:
    """W2 of the sweeper: writers wait while space is made, and none of them is told that there is no space."""

    async def work(world: World) -> None:
        async with world.open() as here, trio.open_nursery() as nursery:
            nursery.start_soon(here.sweeper.run)
            writer = Writer(here, 1)
            await writer.fill()
            rng = random.Random(2)
            for _ in range(8 * SIZE_BYTES // BLOCK):
                await writer.put(rng.randrange(SIZE_BYTES // BLOCK) * BLOCK, rng.randbytes(BLOCK))
            await writer.verify()
            nursery.cancel_scope.cancel()
        assert here.sweeper.cleaned.packs > 0

    in_world(work, capacity_bytes=SIZE_BYTES * 3 // 2 + (8 << 20))
