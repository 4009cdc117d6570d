"""Damaged pools: whatever is wrong on the disks, what is read is right or an error that names the object."""

import random
from collections import Counter

import trio

from sds.core.errors import SdsError
from sds.volume.volume import Volume
from tests.sim.check import read_root
from tests.sim.effects import Fate, File
from tests.sim.image import Image
from tests.sim.oracle import BLOCK, State
from tests.sim.schedule import run_seeded
from tests.sim.workload import VOLUME_SIZE, Actor, Script
from tests.sim.world import Shape, World


async def history(script: Script, flushed_tail: bool) -> None:
    """Some of everything; the log goes on behind the checkpoint, all of it flushed."""
    script.create("v")
    async with script.open("v") as actor:
        await actor.write(0, 20 * BLOCK)
        await actor.snapshot("s")
        await actor.write(126 * BLOCK, 4 * BLOCK)
        await actor.trim(2 * BLOCK, BLOCK)
    if flushed_tail:
        with trio.CancelScope() as scope:
            async with script.open("v") as actor:
                await tail(actor)
                scope.cancel()
                await trio.lowlevel.checkpoint()


async def tail(actor: Actor) -> None:
    await actor.write(5 * BLOCK, 8 * BLOCK)
    await actor.flush()
    await actor.checkpoint()
    for block in range(10, 50, 10):
        await actor.write(block * BLOCK, 9 * BLOCK)
        await actor.flush()
    await actor.write(BLOCK, BLOCK)
    await actor.flush()


def damaged(world: World, rng: random.Random, disks: list[int]) -> str:
    """One piece of damage on one of these disks; what was done."""
    disk = world.disks[rng.choice(disks)]
    names = sorted(disk._names)
    name = rng.choice(names)
    file = disk._names[name]
    kind = rng.choice(("bit", "bit", "bit", "page", "cut", "delete", "swap", "stale"))
    if kind == "delete":
        disk._names.pop(name)
    elif kind == "swap":
        other = rng.choice(names)
        disk._names[name], disk._names[other] = disk._names[other], disk._names[name]
    elif kind == "cut":
        size = rng.randrange(0, file.live.size, BLOCK) if file.live.size else 0
        disk._names[name] = File.of(cut(file.live, size))
    else:
        image = cut(file.live, file.live.size)
        used = sorted(image.pages)
        if not used:
            return "nothing"
        index = rng.choice(used)
        page = bytearray(image.page(index))
        if kind == "bit":
            page[rng.randrange(BLOCK)] ^= 1 << rng.randrange(8)
        elif kind == "stale":
            page = bytearray(BLOCK)
        else:
            page = bytearray(image.page(rng.choice(used)))
        image.pages[index] = bytes(page)
        disk._names[name] = File.of(image)
    disk._durable_names = dict(disk._names)
    return f"{kind} {name}"


def cut(image: Image, size: int) -> Image:
    return Image(size, {index: page for index, page in image.pages.items() if index * BLOCK < size})


async def outcome(world: World, script: Script) -> Counter[str]:
    """Read everything there is: right, or an SdsError that names what is wrong."""
    seen: Counter[str] = Counter()
    model = script.models["v"]
    head, snapshot = model.now, model.snapshots["s"].state
    try:
        async with world.open("v") as dataset:
            volume = Volume(dataset)
            assert volume.size_bytes == head.size_bytes
            for block in range(VOLUME_SIZE // BLOCK):
                await compare(lambda b=block: read_block(volume, b), head, block, seen)
    except SdsError as error:
        assert_names_something(error)
        seen["refused"] += 1
    row = world.catalog.snapshot(world.catalog.dataset("v").id, "s")
    assert row.root is not None
    try:
        assert await read_root(world, row.root, row.size_bytes) == snapshot
        seen["right"] += 1
    except SdsError as error:
        assert_names_something(error)
        seen["error"] += 1
    return seen


async def read_block(volume: Volume, block: int) -> bytes:
    return b"".join(bytes(part) for part in await volume.read(block * BLOCK, BLOCK))


async def compare(read, state: State, block: int, seen: Counter[str]) -> None:  # noqa: ANN001
    try:
        found = await read()
    except SdsError as error:
        assert_names_something(error)
        seen["error"] += 1
    else:
        assert found == state.blocks.get(block, bytes(BLOCK)), f"block {block} is wrong, and nobody says so"
        seen["right"] += 1


def assert_names_something(error: SdsError) -> None:
    text = str(error)
    assert "segment" in text or "tree node" in text or "v:" in text or "map page" in text, text


def damage_round(shape: Shape, flushed_tail: bool, seeds: range, disks: list[int], pieces: int) -> Counter[str]:
    script = Script(World.new(shape))
    run_seeded(lambda: history(script, flushed_tail), 1)
    total: Counter[str] = Counter()
    for seed in seeds:
        rng = random.Random(seed)
        after = [disk.crash_state(Fate.KEEP) for disk in script.world.disks]
        world = World(shape, after, script.world._catalog_copy(), {})
        done = [damaged(world, rng, disks) for _ in range(pieces)]
        try:
            total += run_seeded(lambda: outcome(world, script), seed)  # noqa: B023
        except BaseException as error:
            error.add_note(f"seed {seed}: {done}")
            raise
        world.close()
    return total


def test_damage_to_the_only_copy_is_an_error_and_never_wrong_data() -> None:
    total = damage_round(Shape(), False, range(400), [0], 1)
    assert total["right"] > 0 < total["error"] + total["refused"]


def test_damage_to_a_flushed_log_behind_the_checkpoint_is_noticed_before_it_is_cut_off() -> None:
    """What nothing can prove is left out: the last flush itself, behind which nothing was written."""
    total = damage_round(Shape(), True, range(400), [0], 1)
    assert total["refused"] > 0


def test_with_two_copies_damage_to_one_changes_nothing() -> None:
    for flushed_tail in (False, True):
        total = damage_round(Shape(disks=2, copies=2), flushed_tail, range(200), [0], 3)
        assert not total["error"]
        assert not total["refused"]


def test_a_lost_disk_out_of_two_changes_nothing() -> None:
    shape = Shape(disks=3, copies=2)
    script = Script(World.new(shape))
    run_seeded(lambda: history(script, True), 1)
    for lost in range(3):
        world = script.world.kill()
        world.stages.clear()

        async def body(world: World = world, lost: int = lost) -> None:
            async with world.open("v", without=frozenset((lost,))) as dataset:
                volume = Volume(dataset)
                for block in range(VOLUME_SIZE // BLOCK):
                    expected = script.models["v"].now.blocks.get(block, bytes(BLOCK))
                    assert await read_block(volume, block) == expected
                await volume.write(0, memoryview(bytes(BLOCK)))
                await volume.flush()

        run_seeded(body, lost)


