"""The cleaner in the simulator: each point at which it can be cut off, and what others do beside it."""

import random
from collections import Counter

import pytest
import trio

from tests.sim.oracle import BLOCK
from tests.sim.schedule import run_seeded
from tests.sim.store_check import missing_files, recover, verify
from tests.sim.store_explore import StoreExplorer
from tests.sim.store_sequences import PART, SHAPES, base, fork
from tests.sim.store_workload import StoreActor, StoreScript

STEPS = (
    ("pack-created", "create:end", "packs/"),
    ("pack-sealed", "seal:end", "packs/"),
    ("rows-change", "catalog:start", "pack_segments"),
    ("rows-changed", "catalog:end", "pack_segments"),
    ("backed-up", "put:end", "catalog/"),
    ("old-file-goes", "delete:start", "segments/"),
    ("old-file-gone", "delete:end", "segments/"),
)
"""Point of a clean, the event it is seen by, and how the name begins."""


async def half_dead(a: StoreActor) -> None:
    for number in range(6):
        await a.write((number + 1) * PART, PART)
        await a.write((number + 1) * PART + BLOCK, 7 * BLOCK)
    await a.upload()


@pytest.mark.parametrize("which", SHAPES)
def test_every_point_of_a_clean_is_visited_in_this_order_and_survives_every_crash(which: str) -> None:
    script = fork(base(SHAPES[which], False))
    seen: list[str] = []
    explorer = StoreExplorer(script, random.Random(1), cuts=1)
    left = {name: 2 for name, _, _ in STEPS}

    def heard(place: str, event: str, name: str) -> None:
        points = [point for point, wanted, start in STEPS if event == wanted and name.startswith(start)]
        if not points or ("pack-created" not in seen and points[0] != "pack-created"):
            return
        seen.extend(points)
        if left[points[0]]:
            left[points[0]] -= 1
            for kind in ("kill", "power", "loss", "home"):
                if explorer._is_possible(kind):
                    explorer._crash(kind, points[0])

    async def body() -> None:
        async with script.open("v") as a:
            await half_dead(a)
            script.here.listen = heard
            cleaned = await a.clean()
            script.here.listen = None
            assert cleaned.packs and cleaned.files
            await a.check()

    run_seeded(body, 1)
    firsts = list(dict.fromkeys(seen))
    assert firsts == [point for point, _, _ in STEPS]
    news = [point for point in seen if point in ("rows-changed", "backed-up", "old-file-goes")]
    assert "rows-changed old-file-goes" not in " ".join(news), "a file went before the backup that does not need it"
    explorer.check_all(1)
    assert explorer.tally["kill"] > 2 and explorer.tally["power"] > 2


@pytest.mark.parametrize("which", ["store", "2of3"])
def test_what_is_done_beside_a_clean_is_neither_lost_nor_disturbed(which: str) -> None:
    """Snapshot, clone, rollback, destroy and writes, begun at every few events of a clean."""
    done: Counter[str] = Counter()
    start = base(SHAPES[which], False)
    for seed, other in enumerate(("snapshot", "clone", "rollback", "destroy", "write", "sweep") * 2):
        script = fork(start)

        async def body(script: StoreScript = script, other: str = other, seed: int = seed) -> None:
            async with script.open("v") as a:
                await half_dead(a)
                waiting = trio.Event()
                countdown = 5 + 17 * seed % 60

                def heard(place: str, event: str, name: str) -> None:
                    nonlocal countdown
                    countdown -= 1
                    if countdown == 0:
                        waiting.set()
                    assert event != "catalog:end" or not missing_files(script.here)

                async def beside() -> None:
                    await waiting.wait()
                    match other:
                        case "clone":
                            await a.clone("s", "c")
                        case "snapshot":
                            await a.snapshot("new")
                        case "write":
                            await a.write(0, PART)
                        case "sweep":
                            await a.sweep()
                        case _:
                            await getattr(a, other)("s")
                    done[other] += 1

                script.here.listen = heard
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(beside)
                    cleaned = await a.clean()
                    waiting.set()
                done["cleaned"] += cleaned.packs
                done["busy"] += not cleaned.packs
                await a.check()
                script.here.listen = None
            await verify(script.here)
            await recover(script.here.kill(), script.expected(False))

        run_seeded(body, seed)
        script.here.close()
    assert len(done) == 8, done


@pytest.mark.parametrize("which", ["store", "2of2"])
def test_cleaning_after_every_few_writes_changes_nothing(which: str) -> None:
    script = fork(base(SHAPES[which], False))

    async def body() -> None:
        async with script.open("v") as a:
            for number in range(10):
                await a.write(number % 4 * PART, PART)
                await a.upload()
                await a.clean()
                await a.check()
            generations = {row.generation for row in script.here.catalog.all_segments()}
            assert max(generations) > 0, "nothing was cleaned"
        await verify(script.here)
        left = next(script.here.losses(1, random.Random(1), which == "store"))
        world = await left.imported()
        await recover(world, script.expected_after_loss(which == "store"), orderly=False)

    run_seeded(body, 3)
