"""Items against a dict: whatever lies in the tree, in frozen layers and in the current one."""

import random
from functools import partial

import pytest
import trio

from sds.core.keys import ATTR, DIRENT, XATTR, key, kind_range
from sds.dataset import items as items_module
from sds.dataset import nodes
from sds.dataset.dataset import Dataset
from sds.dataset.section import run
from sds.dataset.transaction import Transaction
from tests.sim.world import SEGMENT_SIZE, Shape, World

INODES = 12


def random_key(rng: random.Random) -> bytes:
    kind = rng.choice((ATTR, DIRENT, XATTR))
    return key(rng.randrange(1, INODES), kind, rng.randbytes(rng.randrange(3)) if kind != ATTR else b"")


async def change(dataset: Dataset, model: dict[bytes, bytes], rng: random.Random) -> None:
    tx = Transaction(dataset)
    gone = rng.randrange(1, INODES) if rng.random() < 0.1 else 0
    touched = {}
    for _ in range(rng.randrange(1, 6)):
        name = random_key(rng)
        if int.from_bytes(name[:8], "big") == gone:
            continue
        value = rng.randbytes(rng.randrange(40)) if rng.random() < 0.7 else None
        touched[name] = value
        tx.delete(name) if value is None else tx.put(name, value)
        assert tx.get(name) == value, "a transaction sees its own changes"
    if gone:
        tx.drop(gone)
    await run(tx.commit)
    for name in [name for name in model if int.from_bytes(name[:8], "big") == gone]:
        del model[name]
    for name, value in touched.items():
        if value is None:
            model.pop(name, None)
        else:
            model[name] = value


async def check(dataset: Dataset, model: dict[bytes, bytes], rng: random.Random) -> None:
    items = dataset.items
    for name in [random_key(rng) for _ in range(5)] + rng.sample(sorted(model), min(5, len(model))):
        assert await run(partial(items.get, name)) == model.get(name)
    low, high = sorted((random_key(rng), random_key(rng)))
    found = []
    while low < high:
        part, end = await run(partial(items.batch, low, high))
        assert low < end <= high
        assert all(low <= name < end for name, _ in part)
        found.append((low, end, part))
        low = end
    for start, end, part in found:
        assert part == sorted((k, v) for k, v in model.items() if start <= k < end)


@pytest.mark.parametrize("seed", range(20))
def test_items_are_those_of_a_dict_whatever_is_merged_and_cached(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "NODES_MAX", 8)  # so that sections really wait
    monkeypatch.setattr(items_module, "BATCH_MAX", 3)
    rng = random.Random(seed)
    world = World.new(Shape(), seed)
    world.catalog.create_dataset("home", "fs", 0)
    model: dict[bytes, bytes] = {}

    async def work(dataset: Dataset) -> None:
        for _ in range(60):
            await change(dataset, model, rng)
            choice = rng.random()
            if choice < 0.2:
                await dataset.checkpointer.wait_turn()
                dataset.checkpointer.freeze()
            elif choice < 0.3:
                await dataset.checkpoint()
            await check(dataset, model, rng)

    async def main() -> None:
        for _ in range(3):
            async with world.open("home") as dataset:
                await work(dataset)

    trio.run(main)
    world.close()


def test_a_killed_dataset_has_all_items_that_were_committed() -> None:
    rng = random.Random(1)
    world = World.new(Shape())
    world.catalog.create_dataset("home", "fs", 0)
    model: dict[bytes, bytes] = {}

    async def main() -> None:
        async with world.open("home") as dataset:
            for number in range(100):
                await change(dataset, model, rng)
                if number == 50:
                    await dataset.checkpoint()
            after = world.kill()
        async with after.open("home") as dataset:
            low, high = kind_range(1, 0)[0], kind_range(INODES, 254)[1]
            assert await run(partial(dataset.items.all, low, high)) == sorted(model.items())
        after.close()

    trio.run(main)
    world.close()


def test_a_transaction_that_does_not_fit_now_changes_nothing_until_it_does() -> None:
    world = World.new(Shape())
    world.catalog.create_dataset("home", "fs", 0)

    async def main() -> None:
        async with world.open("home") as dataset:
            for number in range(4 * SEGMENT_SIZE // 2048):
                tx = Transaction(dataset)
                tx.put(key(1, ATTR), b"%d" % number)
                tx.put(key(2, ATTR), b"x" * 2048)
                await run(tx.commit)
                assert dataset.items.get(key(1, ATTR)) == b"%d" % number

    trio.run(main)
    world.close()
