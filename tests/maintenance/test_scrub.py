"""Whatever is bad is found, told and healed; what cannot be healed is told precisely and left as it is."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from backends.base import Reader
from backends.faulty import FaultPlan, Faulty
from sds.core.errors import BackendError, Corrupt
from sds.maintenance.limiter import Limiter
from sds.maintenance.scrub import PROGRESS, RESULT, Scrub, Scrubbed, Step, last_result
from sds.pool.backup import PREFIX
from sds.pool.files import StoredFile
from sds.pool.label import LABEL, read_label
from tests.maintenance.wide import Wide, in_wide_world
from tests.maintenance.world import BLOCK, SIZE_BYTES, Writer


async def scrub(world: Wide, anew: bool = False, report: Callable[[Step], None] = lambda step: None) -> Scrubbed:
    return await Scrub(world.pool, world.env, world.turn, lambda: 2000.0, world.limiter, report).run(anew)


def damage(world: Wide, file: StoredFile, copy: int, rng: random.Random) -> None:
    """One of: a flipped bit, a torn sector, a shorter file, no file. What verification does not cover (VF2) is spared
    by trying again."""
    while world.is_good(file, copy):
        data = world.raw(copy, file.name)
        match rng.randrange(8):
            case 0:
                del data[rng.randrange(len(data)) :]
            case 1:
                del world.disks[copy]._files[file.name]
            case 2:
                start = rng.randrange(len(data) // 512) * 512
                data[start : start + 512] = rng.randbytes(512)
            case _:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


@pytest.mark.parametrize("seed", range(8))
def test_random_damage_to_one_of_two_copies_is_found_told_and_healed(seed: int) -> None:
    """About 33 files in each of the 8 worlds: some 260 cases."""

    async def work(world: Wide) -> None:
        model = await world.fill(seed)
        rng = random.Random(seed)
        before = {file.name: file.copies for file in world.files()}
        wanted = set()
        for file in world.files():
            copy = rng.choice(file.copies)
            damage(world, file, copy, rng)
            wanted.add((file.name, world.disks[copy].url))
        assert len(wanted) > 30
        scrubbed = await scrub(world)
        assert {(finding.name, finding.backend) for finding in scrubbed.findings} == wanted
        assert scrubbed.counters.healed == len(wanted) and scrubbed.is_sound
        assert len([event for event in world.pool.catalog.events() if event.kind == "scrub-healed"]) == len(wanted)
        world.expect_tidy()
        assert {file.name: set(file.copies) for file in world.files()} == {
            name: set(copies) for name, copies in before.items()
        }
        assert (await scrub(world, anew=True)).findings == []
        assert await world.content("vm") == model

    in_wide_world(work, count=2, copies=2)


def test_with_both_copies_bad_it_is_told_who_needs_them_and_everything_else_can_be_read() -> None:
    async def work(world: Wide) -> None:
        model = await world.fill()
        file = world.files()[5]
        offset = len(world.raw(file.copies[0], file.name)) // 2
        for copy in file.copies:
            world.raw(copy, file.name)[offset] ^= 8
        before = [bytes(world.raw(copy, file.name)) for copy in file.copies]
        scrubbed = await scrub(world)
        (finding,) = scrubbed.findings
        assert (finding.name, finding.outcome, finding.datasets) == (file.name, "lost", ("tank/vm",))
        assert scrubbed.counters.lost == 1 and not scrubbed.is_sound
        assert [bytes(world.raw(copy, file.name)) for copy in file.copies] == before
        assert {row.verified_at for row in world.files()[5].rows} == {0}
        lost = 0
        async with world.open() as here:
            for start in range(0, SIZE_BYTES, BLOCK):
                try:
                    assert b"".join(await here.volume.read(start, BLOCK)) == model[start : start + BLOCK]
                except Corrupt:
                    lost += 1
        assert 1 <= lost <= 32

    in_wide_world(work, count=2, copies=2)


def test_a_scrub_that_was_interrupted_goes_on_where_it_was() -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        total = len(world.files())
        with trio.CancelScope() as scope:
            await scrub(world, report=lambda step: scope.cancel() if step.done_bytes * 2 > step.total_bytes else None)
        assert scope.cancelled_caught
        verified = {file.name for file in world.files() if file.rows[0].verified_at}
        assert total // 3 < len(verified) < total
        kept = last_result(world.pool.catalog.progress(PROGRESS))
        assert kept is not None and kept.started_at == 2000
        steps: list[Step] = []
        scrubbed = await scrub(world, report=steps.append)
        assert scrubbed.was_resumed and len(steps) == total - len(verified)
        assert all(file.rows[0].verified_at == 2000 for file in world.files())
        assert world.pool.catalog.progress(PROGRESS) is None
        result = last_result(world.pool.catalog.progress(RESULT))
        assert result is not None and result.ended_at == 2000
        again = await scrub(world)
        assert not again.was_resumed and again.counters.files == total
        assert all(file.rows[0].verified_at == again.counters.started_at > 2000 for file in world.files())

    in_wide_world(work, count=2, copies=2)


def test_a_scrub_anew_does_not_trust_what_the_interrupted_one_verified() -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        with trio.CancelScope() as scope:
            await scrub(world, report=lambda step: scope.cancel() if step.done_bytes * 2 > step.total_bytes else None)
        file = next(file for file in world.files()[1:] if file.rows[0].verified_at)
        world.raw(1, file.name)[1000] ^= 1
        scrubbed = await scrub(world, anew=True)
        assert [finding.name for finding in scrubbed.findings] == [file.name]

    in_wide_world(work, count=2, copies=2)


def test_a_segment_that_is_swept_or_moved_beside_a_scrub_is_no_finding() -> None:
    async def work(world: Wide) -> None:
        async with world.open() as here:
            writer = Writer(here, 1)
            await writer.fill()
            await here.operations.checkpoint()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(writer.fill)
                for _ in range(3):
                    scrubbed = await scrub(world, anew=True)
                    assert scrubbed.findings == []
                    here.sweeper.note_change()
                    nursery.start_soon(here.sweeper.sweep)
            await writer.verify()

    in_wide_world(work, copies=2)


def test_a_backend_that_is_another_one_now_gets_nothing_and_is_told() -> None:
    """As a directory does whose disk is not mounted any more."""

    async def work(world: Wide) -> None:
        await world.fill()
        world.disks[2]._files.clear()
        scrubbed = await scrub(world)
        assert not world.names_on(2) and scrubbed.counters.unhealed >= 1 and not scrubbed.counters.healed
        assert scrubbed.counters.not_reached == len([file for file in world.files() if 2 in file.copies])
        assert all(file.rows[0].verified_at == 0 for file in world.files())

    in_wide_world(work, count=2, copies=2)


def test_a_sector_that_cannot_be_read_is_written_anew() -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        file = world.files()[0]

        healed: list[str] = []

        class Unreadable(Faulty):
            async def open(self, name: str) -> Reader:
                if name == file.name and not healed:
                    raise BackendError(f"{self.url}: {name}: Input/output error")
                return await super().open(name)

            async def create(self, name: str, size_bytes: int) -> None:
                healed.append(name)
                await super().create(name, size_bytes)

        world.pool.backends[1] = Unreadable(world.disks[1], FaultPlan())
        scrubbed = await scrub(world)
        assert healed == [file.name] and scrubbed.counters.healed == 1
        world.expect_tidy()

    in_wide_world(work, count=2, copies=2)


def test_damaged_labels_and_catalog_backups_are_healed() -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        disk = world.disks[1]
        disk._files[LABEL].data[0] = 0
        backups = sorted(name for name in disk._files if name.startswith(PREFIX))
        disk._files[backups[-1]].data[-1] ^= 1
        label = replace(await read_label(world.disks[2]))
        scrubbed = await scrub(world)
        assert {finding.name for finding in scrubbed.findings} == {"label", backups[-1]}
        assert scrubbed.is_sound and scrubbed.counters.healed == 2
        assert (await read_label(disk)).pool == label.pool
        assert backups[-1] not in disk._files
        assert max(name for name in disk._files if name.startswith(PREFIX)) > backups[-1]

    in_wide_world(work, count=2, copies=2)


def test_a_limit_holds_whoever_asks_and_in_order() -> None:
    async def body() -> None:
        limiter = Limiter(1000)
        passed: list[tuple[int, float]] = []

        async def take(number: int) -> None:
            await limiter.take(500)
            passed.append((number, trio.current_time() - begin))

        begin = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(take, number)
        assert [at for _, at in sorted(passed, key=lambda one: one[1])] == pytest.approx([0, 0.5, 1, 1.5, 2])
        await trio.sleep(100)  # nothing is saved up
        begin = trio.current_time()
        for number in range(3):
            await take(number)
        assert passed[-1][1] == pytest.approx(1.0)
        begin = trio.current_time()
        for _ in range(100):
            await Limiter().take(1 << 30)
        assert trio.current_time() == begin

    trio.run(body, clock=MockClock(autojump_threshold=0))


def test_a_scrub_takes_as_long_as_its_limit_says() -> None:
    async def work(world: Wide) -> None:
        await world.fill()
        stored = sum(file.size_bytes * len(file.copies) for file in world.files())
        world.limiter = Limiter(4 * stored)
        begin = trio.current_time()
        await scrub(world)
        assert 0.2 <= trio.current_time() - begin < 5

    in_wide_world(work, count=2, copies=2)
