"""What a flush promises, whatever was written before it and how."""

import random

import pytest
import trio
import trio.testing

from sds.core.frame import DATA, HEADER_SIZE, NODE, RAW, ZERO
from sds.core.names import segment_name
from sds.log.log import Log
from sds.log.stage import MemoryStage
from tests.sim.disk import SimDisk
from tests.sim.effects import Fate
from tests.sim.schedule import run_seeded
from tests.sim.world import SEGMENT_SIZE, Shape, World


async def with_log(world: World, body) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    row = world.catalog.create_dataset("v", "volume", 1 << 20)
    epoch = world.catalog.acquire(row.id, "test")
    log = Log(world.pool(), row.id, epoch, MemoryStage(4, world.shape.segment_size), world.env(), 0, 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        await body(log)
        log.stop()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("rest", [0, 1, 100, 4095])
def test_a_flush_syncs_what_was_written_before_without_a_sync(rest: int) -> None:
    """With nothing left to write (rest 0: the log ends with a page that is on its way already) it still syncs."""
    world = World.new(Shape())
    payload = random.Random(1).randbytes(5 * 4096 - HEADER_SIZE - 128 + rest)

    async def body(log: Log) -> None:
        address = log.append(NODE, RAW, 0, 0, payload, len(payload))
        assert address
        await trio.testing.wait_all_tasks_blocked()
        await log.flush()
        row = world.catalog.all_segments()[0]
        after = world.disks[0].crash_state(Fate.DROP)
        data = after.peek(segment_name(row.dataset, row.id, row.epoch))
        assert data is not None
        assert data[128 + HEADER_SIZE :].startswith(payload)

    run_seeded(lambda: with_log(world, body), 1)


def test_sequence_numbers_rise_by_one_over_all_segments_and_addresses_differ() -> None:
    world = World.new(Shape())

    async def body(log: Log) -> None:
        seen = set()
        before = log.sequence
        for _ in range(40):
            await log.wait_room(4096 + HEADER_SIZE)
            seen.add(log.append(NODE, RAW, 0, 0, bytes(4096), 4096))
        assert len(seen) == 40
        assert 0 not in seen
        sealed = len({address >> 24 for address in seen}) - 1
        assert sealed > 1
        assert log.sequence == before + 40 + sealed
        await log.flush()
        assert log.durable_sequence >= before + 40 + sealed

    run_seeded(lambda: with_log(world, body), 1)


def test_a_stage_that_is_full_holds_writers_back_until_a_segment_is_durable() -> None:
    world = World.new(Shape(latency=4))

    async def body(log: Log) -> None:
        appended = 0
        while log.append(NODE, RAW, 0, 0, bytes(4096), 4096):
            appended += 1
            assert appended < 100, "no bound"
        assert appended * 4096 < 4 * SEGMENT_SIZE
        await log.wait_room(4096 + HEADER_SIZE)
        assert log.append(NODE, RAW, 0, 0, bytes(4096), 4096)

    run_seeded(lambda: with_log(world, body), 1)


class HeldDisk(SimDisk):
    """Writes to the first segment wait for a gate."""

    gate: trio.Event

    async def write(self, name: str, offset: int, data: memoryview, sync: bool = False) -> None:
        if "/0000000001-" in name:
            await self.gate.wait()
        await super().write(name, offset, data, sync)


def test_a_flush_waits_for_earlier_segments_too() -> None:
    """The newest segment is durable long before the one before it: that is not enough."""
    world = World.new(Shape())
    disk = HeldDisk(url="sim:0")
    world.disks[0] = disk
    done: list[int] = []

    async def body(log: Log) -> None:
        disk.gate = trio.Event()
        for _ in range(16):
            await log.wait_room(4096 + HEADER_SIZE)
            assert log.append(NODE, RAW, 0, 0, bytes(4096), 4096)
        target = log.sequence

        async def flush() -> None:
            await log.flush()
            done.append(log.durable_sequence)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush)
            await trio.testing.wait_all_tasks_blocked()
            assert done == []
            assert log.durable_sequence < target
            disk.gate.set()
        assert done[0] >= target

    run_seeded(lambda: with_log(world, body), 1)


@pytest.mark.parametrize("blocks", [1, 8, 32])
def test_what_has_room_is_appended(blocks: int) -> None:
    """Up to the last byte of the last segment, whatever the codec."""
    world = World.new(Shape())

    async def body(log: Log) -> None:
        while log._ready:
            assert log.append(NODE, RAW, 0, 0, bytes(100), 100)
        while log.has_room(HEADER_SIZE, metadata=True):
            assert log.append(DATA, ZERO, 0, blocks, b"", blocks * 4096, 1, 0)
        assert not log.append(DATA, ZERO, 0, blocks, b"", blocks * 4096, 1, 0)

    run_seeded(lambda: with_log(world, body), 1)
