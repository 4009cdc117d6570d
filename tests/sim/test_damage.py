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
        for block in range(60, 80):
            await actor.write(block * BLOCK, BLOCK)
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
    if not names:
        return "nothing"
    name = rng.choice(names)
    file = disk._names[name]
    kind = rng.choice(("bit", "bit", "bit", "page", "cut", "delete", "swap", "stale"))
    other = rng.choice(names)
    if kind == "delete":
        disk._names.pop(name)
    elif kind == "swap":
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
    return f"{kind} {name}" + (f" {other}" if kind == "swap" else "")


def cut(image: Image, size: int) -> Image:
    return Image(size, {index: page for index, page in image.pages.items() if index * BLOCK < size})


async def outcome(world: World, script: Script, may_lose: int) -> Counter[str]:
    """Read everything there is: right, or an SdsError that names what is wrong.

    What is right is one of the states the volume went through, the newest but for `may_lose` or later.
    """
    seen: Counter[str] = Counter()
    model = script.models["v"]
    snapshot = model.snapshots["s"].state
    try:
        async with world.open("v") as dataset:
            volume = Volume(dataset)
            blocks = [await read_block(volume, block, seen) for block in range(VOLUME_SIZE // BLOCK)]
        allowed = [state for _, state in model.states[-1 - may_lose :]]
        assert any(agrees(blocks, state) for state in allowed), "wrong data, and nobody says so"
        seen["older"] += not agrees(blocks, allowed[-1])
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


async def read_block(volume: Volume, block: int, seen: Counter[str]) -> bytes | None:
    try:
        parts = volume.read_nowait(block * BLOCK, BLOCK) or await volume.read(block * BLOCK, BLOCK)
        found = b"".join(bytes(part) for part in parts)
    except SdsError as error:
        assert_names_something(error)
        seen["error"] += 1
        return None
    seen["right"] += 1
    return found


def agrees(blocks: list[bytes | None], state: State) -> bool:
    return all(found is None or found == state.blocks.get(at, bytes(BLOCK)) for at, found in enumerate(blocks))


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
            may_lose = flushes_without_proof(done, script) if shape.copies == 1 else 0
            total += run_seeded(lambda: outcome(world, script, may_lose), seed)  # noqa: B023
        except BaseException as error:
            error.add_note(f"seed {seed}: {done}")
            raise
        world.close()
    return total


def flushes_without_proof(done: list[str], script: Script) -> int:
    """Damage that nothing can prove: to the last used segment, as if it had never been written: its four last writes;
    a flipped bit there may cost the last flush, for nothing was written behind it."""
    disk = script.world.disks[0]
    used = [name for name, file in sorted(disk._names.items()) if file.live.pages]
    if not any(used[-1] in what for what in done):
        return 0
    return 1 if all(what.startswith("bit") for what in done) else 4


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


def test_a_missing_disk_with_the_only_copy_is_an_error_that_names_it() -> None:
    script = Script(World.new(Shape(disks=2)))
    run_seeded(lambda: history(script, True), 1)
    refused: list[str] = []
    for lost in range(2):
        world = script.world.kill()
        world.stages.clear()

        async def body(world: World = world, lost: int = lost) -> None:
            async with world.open("v", without=frozenset((lost,))) as dataset:
                blocks = [await read_block(Volume(dataset), block, Counter()) for block in range(VOLUME_SIZE // BLOCK)]
            assert agrees(blocks, script.models["v"].now)

        try:
            run_seeded(body, lost)
        except SdsError as error:
            refused.append(str(error))
    assert refused
    assert all("backend" in text for text in refused)


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
                    assert await read_block(volume, block, Counter()) == expected
                await volume.write(0, memoryview(bytes(BLOCK)))
                await volume.flush()

        run_seeded(body, lost)


