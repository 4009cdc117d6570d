"""The object backend over simulated store and journal: what shows without a crash. Crashes: test_object_crashes.py."""

import random
from collections.abc import Awaitable, Callable

import pytest
import trio

from backends.base import PAGE, Backend
from backends.cache import MemoryCache
from backends.faulty import FaultPlan
from backends.object_backend import Limits, ObjectBackend
from sds.core.errors import BackendError, BadInput, Corrupt, Missing, NoSpace
from tests.backends.places import pages, read_back
from tests.sim.disk import SimDisk
from tests.sim.objects import Rates, SimObjects
from tests.sim.schedule import run_seeded

FIRST, SECOND = "segments/000001/0000000001-1", "segments/000001/0000000002-1"


class World:
    """A backend with its parts at hand."""

    def __init__(
        self, store: SimObjects | None = None, journal_size_bytes: int = 1 << 30, journal: Backend | None = None
    ) -> None:
        self.store = store or SimObjects(seed=3)
        self.disk = SimDisk(seed=4)
        self.cache = MemoryCache()
        limits = Limits(journal_size_bytes)
        self.backend = ObjectBackend(self.store, journal or self.disk, self.cache, limits)

    async def sealed(self, name: str, count: int = 2, fill: int = 1) -> bytes:
        await self.backend.create(name, 4 * PAGE if count <= 4 else count * PAGE)
        await self.backend.write(name, 0, pages(count, fill))
        await self.backend.seal(name, count * PAGE)
        return bytes(pages(count, fill))

    async def journalled(self) -> list[str]:
        return [stat.name for stat in await self.disk.list("")]


def run(body: Callable[[World], Awaitable[None]], world: World | None = None) -> None:
    world = world or World()
    run_seeded(lambda: body(world), seed=5)


def test_settle_uploads_what_was_sealed_and_empties_the_journal_without_a_task() -> None:
    async def body(world: World) -> None:
        content = await world.sealed(FIRST)
        assert await world.journalled() == ["sealed/" + FIRST, FIRST]
        assert world.store.names() == []
        await world.backend.settle("segments/")
        assert world.store.peek(FIRST) == content
        assert await world.journalled() == []
        assert await read_back(world.backend, FIRST, 0, 2 * PAGE) == content
        await world.backend.seal(FIRST, 2 * PAGE)  # Sealing again is fine, after the upload too.
        with pytest.raises(BadInput, match="is sealed"):
            await world.backend.seal(FIRST, PAGE)

    run(body)


def test_a_running_task_uploads_by_itself_and_several_at_once() -> None:
    async def body(world: World) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(world.backend.run)
            for index in range(8):
                await world.sealed(f"segments/1/{index}")
            await trio.sleep(60)
            assert len(world.store.names()) == 8
            nursery.cancel_scope.cancel()
        assert world.store.under_way_most > 1

    run(body)


def test_uploads_start_with_the_lowest_name() -> None:
    async def body(world: World) -> None:
        for index in random.Random(1).sample(range(9), 9):
            await world.sealed(f"segments/1/{index}")
        await world.backend.settle("")
        assert [key for kind, key, _ in world.store.log if kind == "put"] == [f"segments/1/{i}" for i in range(9)]

    run(body, World(SimObjects(seed=3, parallelism=1)))


def test_an_open_file_stays_in_the_journal() -> None:
    async def body(world: World) -> None:
        await world.backend.create(FIRST, PAGE)
        await world.backend.write(FIRST, 0, pages(1), sync=True)
        await world.backend.settle("")
        assert world.store.names() == []
        assert await read_back(world.backend, FIRST, 0, PAGE) == pages(1)

    run(body)


@pytest.mark.parametrize("fault", ["down", "expired", "full"])
def test_uploads_are_tried_for_ever_and_settle_says_so(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    async def body(world: World) -> None:
        content = await world.sealed(FIRST)
        break_store(world.store, fault, True)
        async with trio.open_nursery() as nursery:
            await nursery.start(world.backend.run)
            with pytest.raises(BackendError, match="not uploaded yet"):
                await world.backend.settle("")
            await trio.sleep(7200)
            assert world.backend.stats().pending_bytes == 2 * PAGE
            assert (world.backend.usage().free_bytes == 0) == (fault == "full")
            assert fault == "full" or world.backend.stats().failing_s > 7200
            break_store(world.store, fault, False)
            await trio.sleep(60)
            await world.backend.settle("")
            nursery.cancel_scope.cancel()
        assert world.store.peek(FIRST) == content
        assert world.backend.stats().error == ""
        assert world.backend.usage().free_bytes > 0

    run(body)
    assert [record.message.split(":")[0] for record in caplog.records] == ["uploads fail, trying on", "sim-objects"]


def break_store(store: SimObjects, fault: str, is_broken: bool) -> None:
    store.down = is_broken and fault == "down"
    store.expired = is_broken and fault == "expired"
    store.capacity_bytes = 0 if is_broken and fault == "full" else None


def test_a_put_that_timed_out_is_not_lost_and_not_replaced() -> None:
    async def body(world: World) -> None:
        world.store.faults = FaultPlan(at=1, kind="put", when="after")
        content = await world.sealed(FIRST)
        await world.backend.settle("")
        assert world.store.peek(FIRST) == content
        assert world.store.count("put") == 2

    run(body)


def test_an_object_that_differs_is_never_replaced() -> None:
    async def body(world: World) -> None:
        world.store.plant(FIRST, b"of somebody else")
        content = await world.sealed(FIRST)
        with pytest.raises(BackendError, match="differs"):
            await world.backend.settle("")
        assert world.store.peek(FIRST) == b"of somebody else"
        assert await read_back(world.backend, FIRST, 0, 2 * PAGE) == content
        await world.sealed(SECOND)
        await world.backend.settle(SECOND)  # The others go on.
        assert world.store.peek(SECOND) is not None

    run(body)


def test_create_waits_for_uploads_when_the_journal_is_full() -> None:
    async def body(world: World) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(world.backend.run)
            for index in range(20):
                await world.sealed(f"segments/1/{index:02}", 4)
                stored = [s for s in await world.disk.list("") if not s.name.startswith("sealed/")]
                assert sum(stat.size_bytes for stat in stored) <= 12 * PAGE
            await world.backend.settle("")
            nursery.cancel_scope.cancel()
        assert len(world.store.names()) == 20

    run(body, World(journal_size_bytes=12 * PAGE))


def test_create_uploads_itself_when_no_task_does() -> None:
    async def body(world: World) -> None:
        for index in range(5):
            await world.sealed(f"segments/1/{index}", 4)
        assert len(world.store.names()) >= 3

    run(body, World(journal_size_bytes=8 * PAGE))


def test_a_full_journal_is_no_space_if_waiting_is_no_use() -> None:
    async def body(world: World) -> None:
        with pytest.raises(NoSpace, match="make the journal larger"):
            await world.backend.create(FIRST, 16 * PAGE)
        await world.backend.create(FIRST, 8 * PAGE)
        with pytest.raises(NoSpace, match="full of open files"):
            await world.backend.create(SECOND, PAGE)
        await world.backend.seal(FIRST, 8 * PAGE)
        world.store.down = True
        with pytest.raises(NoSpace, match=r"uploads fail: .*503"):
            await world.backend.create(SECOND, PAGE)
        world.store.down = False
        await world.backend.create(SECOND, PAGE)

    run(body, World(journal_size_bytes=8 * PAGE))


def test_a_file_that_moves_while_it_is_read_gives_no_error_and_no_other_bytes() -> None:
    async def body(world: World) -> None:
        content = await world.sealed(FIRST, 64)
        reader = await world.backend.open(FIRST)
        reads = 0

        async def read_on() -> None:
            nonlocal reads
            into = bytearray(PAGE)
            for at in range(300):
                offset = at * 7 % 64 * PAGE
                if not reader.read_nowait(offset, memoryview(into)):
                    await reader.read(offset, memoryview(into))
                assert into == content[offset : offset + PAGE]
                reads += 1
                await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(read_on)
            await world.backend.settle("")
            assert 0 < reads < 1200
            other = await world.sealed(SECOND, 64, fill=9)  # May get the room of the first.
            assert other != content
        reader.close()

    run(body)


def test_a_deleted_file_leaves_nothing_even_if_its_upload_is_under_way() -> None:
    async def body(world: World) -> None:
        for delay_s in (0.0, 0.01, 0.03, 0.06, 0.1, 0.2):
            name = f"segments/1/{int(delay_s * 100)}"
            async with trio.open_nursery() as nursery:
                await nursery.start(world.backend.run)
                await world.sealed(name)
                await trio.sleep(delay_s)
                await world.backend.delete(name)
                await world.backend.settle("")
                nursery.cancel_scope.cancel()
            assert await world.backend.list("") == []
            assert await world.journalled() == []
            with pytest.raises(Missing):
                await world.backend.open(name)

    run(body)


def test_list_shows_each_file_once_wherever_it_is_and_raises_if_the_store_cannot_be_listed() -> None:
    async def body(world: World) -> None:
        await world.sealed(FIRST)
        await world.backend.settle("")
        await world.sealed(SECOND)
        assert [stat.name for stat in await world.backend.list("se")] == [FIRST, SECOND]
        world.store.down = True
        with pytest.raises(BackendError):
            await world.backend.list("")

    run(body)


def test_without_a_journal_small_files_and_reading_work() -> None:
    async def body(world: World) -> None:
        content = await world.sealed(FIRST)
        await world.backend.settle("")
        bare = ObjectBackend(world.store, None, MemoryCache(), Limits())
        await bare.put("pool.json", b"label")
        assert await bare.get("pool.json", 10) == b"label"
        assert await read_back(bare, FIRST, 0, 2 * PAGE) == content
        with pytest.raises(BadInput, match="without a local directory"):
            await bare.create(SECOND, PAGE)
        await bare.delete(FIRST)
        assert [stat.name for stat in await bare.list("")] == ["pool.json"]
        await bare.close()

    run(body)


def test_a_late_duplicate_of_an_older_put_does_not_win() -> None:
    async def body(world: World) -> None:
        await world.backend.put("pool.json", b"first")
        world.store.rates = Rates(zombie=1.0)
        with pytest.raises(BackendError):
            await world.backend.put("pool.json", b"second")
        world.store.rates = Rates()
        await world.backend.put("pool.json", b"third")
        await trio.sleep(60)
        assert await world.backend.get("pool.json", 100) == b"third"

    run(body)


def test_cancelled_at_any_moment_a_sealed_file_still_gets_up() -> None:
    for step in range(1, 40):
        world = World()

        async def body(world: World, limit_s: float) -> None:
            content = await world.sealed(FIRST)
            with trio.move_on_after(limit_s):
                await world.backend.settle("")
            await world.backend.settle("")
            assert world.store.peek(FIRST) == content

        run(lambda world, step=step: body(world, step * 0.005), world)  # type: ignore[misc]


def test_small_files_cost_one_put_each_and_no_more_requests() -> None:
    async def body(world: World) -> None:
        for index in range(10):
            await world.sealed(f"segments/1/{index}")
            await world.backend.settle(f"segments/1/{index}")
        assert [kind for kind, *_ in world.store.log] == ["put"] * 10
        assert world.backend.stats().requests["put"] == 10
        assert world.backend.stats().bytes["put"] == 10 * 2 * PAGE

    run(body)


def test_a_damaged_local_copy_is_forgotten_on_request() -> None:
    async def body(world: World) -> None:
        content = await world.sealed(FIRST)
        await world.backend.settle("")
        reader = await world.backend.open(FIRST)
        world.cache.keep(FIRST, 2 * PAGE, 0, memoryview(bytes(2 * PAGE)))
        into = bytearray(2 * PAGE)
        await reader.read(0, memoryview(into))
        assert into == bytes(2 * PAGE)
        assert reader.distrust()  # type: ignore[attr-defined]
        await reader.read(0, memoryview(into))
        assert into == content
        reader.close()

    run(body)


def test_a_foreign_file_that_came_back_in_the_journal_gives_way_to_the_object_on_request() -> None:
    async def body(world: World) -> None:
        content = await world.sealed(FIRST)
        await world.backend.settle("")
        await world.disk.create(FIRST, 2 * PAGE)
        reader = await world.backend.open(FIRST)
        into = bytearray(2 * PAGE)
        await reader.read(0, memoryview(into))
        assert into != content
        assert reader.distrust()  # type: ignore[attr-defined]
        await reader.read(0, memoryview(into))
        assert into == content
        reader.close()

    run(body)


def test_what_is_only_in_the_journal_can_not_be_distrusted_away() -> None:
    async def body(world: World) -> None:
        content = await world.sealed(FIRST)
        reader = await world.backend.open(FIRST)
        into = bytearray(2 * PAGE)
        assert reader.distrust()  # type: ignore[attr-defined]
        await reader.read(0, memoryview(into))
        assert into == content
        assert not reader.distrust()  # type: ignore[attr-defined]
        reader.close()

    run(body)


def test_an_object_that_is_shorter_than_listed_is_corrupt() -> None:
    async def body(world: World) -> None:
        world.store.plant(FIRST, bytes(4 * PAGE))
        reader = await world.backend.open(FIRST)
        world.store.plant(FIRST, bytes(PAGE))
        with pytest.raises(Corrupt):
            await reader.read(3 * PAGE, memoryview(bytearray(PAGE)))
        reader.close()

    run(body)
