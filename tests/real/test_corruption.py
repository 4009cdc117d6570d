"""Damage to what is stored, 1,000 cases and more: with another copy nothing is lost and everything is told and healed;
without one, exactly what is damaged cannot be read, and nothing reads as something else.
"""

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from sds.daemon.opened import Opened
from sds.maintenance.moving import check
from sds.pool.files import StoredFile
from sds.pool.label import LABEL
from tests.real.damage import BLOCK, BLOCKS, Store, Tank, damage, make_tank, places

CASES = {"dd": 600, "ds": 400}
"""Over two directories; over a directory and an object store."""
SHARE = 0.5
"""Of the files of one backend, per round."""
SPARED_PART_MAX = 0.1
"""Damage where nobody reads (VF2 of sds.maintenance.verify)."""


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory: what power cuts do is not the subject here."""
    with tempfile.TemporaryDirectory(prefix="sds-", dir="/dev/shm") as name:
        yield Path(name)


@pytest.mark.parametrize("kinds", CASES)
def test_damage_to_any_file_of_one_backend_is_told_and_healed_and_data_stays_right(memory: Path, kinds: str) -> None:
    async def body(stores: dict[str, Store]) -> None:
        rng = random.Random(f"corruption {kinds}")
        tank = await make_tank(memory, stores, 2, rng)
        done: Counter[str] = Counter()
        rounds = 0
        while done["segments"] + done["packs"] + done["catalog"] < CASES[kinds]:
            done += await one_round(tank, list(tank.stores)[rounds % 2], rounds % 4 < 2, rng)
            rounds += 1
        for what in ("deleted", "cut", "zeroed", "flipped", "packs", "segments", "catalog"):
            assert done[what] > CASES[kinds] / 100, f"{what}: {done}"
        assert done["spared"] < SPARED_PART_MAX * CASES[kinds], done

    with places(memory, kinds) as stores:
        trio.run(body, stores)


async def one_round(tank: Tank, url: str, reads_first: bool, rng: random.Random) -> Counter[str]:
    """How often what was done, and where."""
    store, done = tank.stores[url], Counter[str]()
    await renew(tank, rng)
    files, newest = await tank.files(), await tank.newest_event()
    names = [name for name in store.names() if name in files or name.startswith("catalog/")]
    expected: dict[str, StoredFile | None] = {}
    for name in rng.sample(names, int(SHARE * len(names))):
        what = damage(store, name, rng)
        done[what] += 1
        done[name.partition("/")[0]] += 1
        if is_noticeable(tank, store, name, what, files):
            expected[name] = files.get(name)
        else:
            done["spared"] += 1
    if reads_first:
        assert await tank.read() == {}, f"on {url}"
    await expect_healed(tank, store, expected, newest)
    assert await tank.read() == {}
    return done


def is_noticeable(tank: Tank, store: Store, name: str, what: str, files: dict[str, StoredFile]) -> bool:
    """A backup of the catalog that is gone may have been pruned."""
    if name not in files:
        return what not in ("deleted", "unchanged")
    return what == "deleted" or bool(check(files[name], memoryview(store.read(name)), tank.uuid))


async def expect_healed(tank: Tank, store: Store, expected: dict[str, StoredFile | None], newest: int) -> None:
    """`expected`: what was damaged; None: a backup of the catalog, which a newer one may have replaced meanwhile."""
    left = set(store.names())
    scrubbed, resilvered = await tank.scrub()
    assert scrubbed.is_sound and not resilvered.problems, [*map(str, scrubbed.findings), *resilvered.problems]
    told = "\n".join(await tank.events_since(newest))
    for name, file in expected.items():
        if file is not None:
            assert name in told, f"nothing was said about {name}"
            assert not check(file, memoryview(store.read(name)), tank.uuid), f"{name} was not healed"
        elif name in left:
            assert name in told, f"nothing was said about {name}"
            assert name not in store.names(), f"{name} is still there"
    again, more = await tank.scrub()
    assert again.findings == [] and more.is_idle, [*map(str, again.findings)]


async def renew(tank: Tank, rng: random.Random) -> None:
    """New segments; packs of the older ones; and what was read must not come from a cache."""
    await tank.write(rng, 0.05)
    if rng.random() < 0.3:
        await tank.clean()
    if rng.random() < 0.5:
        tank.drop_cache()


def test_damage_to_both_copies_of_some_blocks_is_an_error_for_exactly_those(memory: Path) -> None:
    async def body(stores: dict[str, Store]) -> None:
        rng = random.Random("both")
        tank = await make_tank(memory, stores, 2, rng)
        blocks = set(rng.sample(range(BLOCKS), 40))
        for block in blocks:
            spoil(tank, bytes(tank.model[block * BLOCK : (block + 1) * BLOCK]), rng)
        newest = await tank.newest_event()
        assert set(await tank.read()) == blocks
        scrubbed, _ = await tank.scrub()
        assert scrubbed.counters.lost > 0 and not scrubbed.is_sound
        lost = [finding for finding in scrubbed.findings if finding.outcome == "lost"]
        assert {finding.datasets for finding in lost} == {("tank/vm",)}
        told = "\n".join(await tank.events_since(newest))
        assert all(finding.name in told for finding in lost)
        assert set(await tank.read()) == blocks, "a scrub changed what it could not heal"
        await rewrite(tank, blocks, rng)
        assert await tank.read() == {}

    with places(memory, "dd") as stores:
        trio.run(body, stores)


def spoil(tank: Tank, content: bytes, rng: random.Random) -> None:
    """Wherever this block is stored: in each copy another byte of it."""
    found = 0
    for store in tank.stores.values():
        for name in store.names():
            data = bytearray(store.read(name))
            at = data.find(content)
            if at >= 0:
                data[at + rng.randrange(BLOCK)] ^= rng.randrange(1, 256)
                store.write(name, bytes(data))
                found += 1
    assert found >= 2, "the block is not stored in two copies"


async def rewrite(tank: Tank, blocks: set[int], rng: random.Random) -> None:
    async def work(here: Opened) -> None:
        for block in blocks:
            data = rng.randbytes(BLOCK)
            await here.volume.write(block * BLOCK, memoryview(data))
            tank.model[block * BLOCK : (block + 1) * BLOCK] = data

    await tank.opened(work)


@pytest.mark.parametrize("kinds", CASES)
def test_a_damaged_label_takes_its_backend_away_and_nothing_else(memory: Path, kinds: str) -> None:
    """Nobody can tell any more that it is the right one; so nothing is written there, and the others do."""

    async def body(stores: dict[str, Store]) -> None:
        rng = random.Random("label")
        tank = await make_tank(memory, stores, 2, rng)
        for url, store in tank.stores.items():
            label = store.read(LABEL)
            data = bytearray(label)
            data[rng.randrange(len(data))] ^= 0x80
            store.write(LABEL, bytes(data))
            before = {name: store.read(name) for name in store.names()}
            assert await tank.read() == {}
            assert [why for why in await tank.missing() if url in why and "damaged" in why]
            assert {name: store.read(name) for name in store.names()} == before
            store.write(LABEL, label)
            assert (await tank.scrub())[0].is_sound
            assert await tank.missing() == []
            assert (await tank.scrub())[0].findings == []

    with places(memory, kinds) as stores:
        trio.run(body, stores)
