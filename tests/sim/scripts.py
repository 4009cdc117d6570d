"""Scripted workloads: each takes an open volume through some part of the engine."""

from collections.abc import Awaitable, Callable

from sds.core.errors import NoSpace
from tests.sim.oracle import BLOCK
from tests.sim.workload import VOLUME_SIZE, Actor, Script
from tests.sim.world import SEGMENT_SIZE, Shape

Body = Callable[[Actor], Awaitable[None]]


async def writes_and_flushes(a: Actor) -> None:
    for block in (0, 5, 130):
        await a.write(block * BLOCK, BLOCK)
        await a.flush()


async def unaligned(a: Actor) -> None:
    await a.write(100, 5000)
    await a.write(3 * BLOCK - 7, 20)
    await a.flush()
    await a.write(0, 17)
    await a.checkpoint()


async def several_segments(a: Actor) -> None:
    for block in range(0, 60, 10):
        await a.write(block * BLOCK, 9 * BLOCK)
    await a.flush()
    await a.write(0, 9 * BLOCK)
    await a.flush()


async def checkpoints(a: Actor) -> None:
    for block in (1, 140, 2):
        await a.write(block * BLOCK, 2 * BLOCK)
        await a.checkpoint()


async def snapshots(a: Actor) -> None:
    await a.write(0, 2 * BLOCK)
    await a.snapshot("one")
    await a.write(BLOCK, 2 * BLOCK)
    await a.snapshot("two")
    await a.destroy("one")


async def rollback(a: Actor) -> None:
    await a.write(0, 2 * BLOCK)
    await a.snapshot("one")
    await a.write(BLOCK, 2 * BLOCK)
    await a.trim(0, VOLUME_SIZE)
    await a.rollback("one")
    await a.write(5 * BLOCK, BLOCK)
    await a.flush()


async def clones(a: Actor) -> None:
    await a.write(0, 2 * BLOCK)
    await a.snapshot("one")
    await a.clone("one", "c")
    async with a.script.open("c") as clone:
        await clone.write(BLOCK, BLOCK)
        await clone.flush()
        await clone.check()


async def holes(a: Actor) -> None:
    await a.write(0, 4 * BLOCK)
    await a.write(126 * BLOCK, 4 * BLOCK)
    await a.zero(100, 2 * BLOCK, True)
    await a.checkpoint()
    await a.trim(0, 128 * BLOCK)
    await a.zero(127 * BLOCK, 2 * BLOCK, False)
    await a.flush()


async def resizes(a: Actor) -> None:
    await a.write(VOLUME_SIZE - 2 * BLOCK, 2 * BLOCK)
    await a.resize(VOLUME_SIZE - BLOCK)
    await a.resize(2 * VOLUME_SIZE)
    await a.write(VOLUME_SIZE, BLOCK)
    await a.flush()


async def fills_the_pool(a: Actor) -> None:
    try:
        for block in range(0, 240, 8):
            await a.write(block * BLOCK, 8 * BLOCK)
    except NoSpace:
        await a.flush()
        await a.check()
        await a.trim(0, 64 * BLOCK)
        await a.flush()


async def reads_cold(a: Actor) -> None:
    await a.write(0, 40 * BLOCK)
    await a.checkpoint()
    await a.dataset.log.rest()
    for block in range(0, 240, 8):
        await a.write(block * BLOCK, BLOCK)
    await a.flush()
    await a.check()


BODIES: tuple[Body, ...] = (
    writes_and_flushes, unaligned, several_segments, checkpoints, snapshots, rollback, clones, holes, resizes,
    reads_cold,
)  # fmt: skip
TIGHT = 14 * SEGMENT_SIZE
WORKLOADS: tuple[tuple[Body, Shape], ...] = (
    *((body, Shape()) for body in BODIES),
    (fills_the_pool, Shape(capacity_bytes=TIGHT)),
    (several_segments, Shape(disks=2, copies=2)),
    (snapshots, Shape(disks=2, copies=2, sync_failure="zero")),
    (several_segments, Shape(disks=3, copies=2, sync_failure="keep")),
    (rollback, Shape(disks=3, copies=2)),
    (checkpoints, Shape(disks=2, copies=1)),
)


def name_of(workload: tuple[Body, Shape]) -> str:
    body, shape = workload
    return f"{body.__name__}-{shape.copies}of{shape.disks}"


async def prepared(script: Script) -> None:
    """What the workloads start from: a volume with a little in it, closed."""
    script.create("v")
    async with script.open("v") as actor:
        await actor.write(0, BLOCK)
        await actor.write(131 * BLOCK, BLOCK)
