"""A small pool whose stored files are at hand, to be damaged: over directories and over an S3 server in this process.

  DA1  A damage changes a file for good: it is checked that its bytes are others than before, or that it is gone.
  DA2  Everything comes from the seed of the generator that is passed.
"""

import random
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import trio

from backends.registry import connect
from sds.core.errors import SdsError
from sds.daemon.cleaning import clean_pool, sweep_pool
from sds.daemon.opened import Opened, opened
from sds.daemon.scrubbing import scrub_pool
from sds.dataset.dataset import Settings
from sds.log.env import real_env
from sds.maintenance.mover import Tally
from sds.maintenance.scrub import Scrubbed
from sds.pool.create import create_pool
from sds.pool.files import StoredFile, files_of
from sds.pool.home import Home
from sds.pool.lease import Holder
from sds.pool.pool import Pool, open_pool
from tests.servers.lying import Liar, lying_server

T = TypeVar("T")
ME = Holder.me("test")
QUIET = Settings(stage_slots=2, flush_delay_s=1e9, checkpoint_delay_s=1e9, checkpoint_bytes=1 << 40, idle_delay_s=1e9)
BLOCK = 4096
SIZE_BYTES = 4 << 20
BLOCKS = SIZE_BYTES // BLOCK
SEGMENT_SIZE = 64 << 10
PAGE = 4096


class Store(Protocol):
    """Where the files of one backend lie."""

    def names(self) -> list[str]: ...

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, data: bytes) -> None: ...

    def delete(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class DirectoryStore:
    root: Path

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        (self.root / name).write_bytes(data)

    def delete(self, name: str) -> None:
        (self.root / name).unlink()


@dataclass(frozen=True, slots=True)
class LiarStore:
    liar: Liar

    def names(self) -> list[str]:
        return sorted(self.liar.objects)

    def read(self, name: str) -> bytes:
        return self.liar.objects[name]

    def write(self, name: str, data: bytes) -> None:
        self.liar.objects[name] = data

    def delete(self, name: str) -> None:
        del self.liar.objects[name]


@dataclass(frozen=True, slots=True)
class Tank:
    """A pool `tank` with a volume `vm`, and what it must hold. Opened anew for whatever is done."""

    home: Home
    uuid: bytes
    stores: dict[str, Store]
    """By URL, as the catalog has it."""
    model: bytearray

    async def pool(self) -> Pool:
        return await open_pool(self.home, "tank", connect, allow_missing=True)

    async def opened(self, work: Callable[[Opened], Awaitable[T]], with_repairs: bool = False) -> T:
        """By a fresh worker. `with_repairs`: what reads found bad is healed before it ends."""
        pool = await self.pool()
        try:
            row = pool.catalog.dataset("vm")
            with pool.lease(row, ME):
                async with opened(pool, row.id, ME, real_env(), QUIET) as here, trio.open_nursery() as nursery:
                    nursery.start_soon(here.healer.repairs.run)
                    result = await work(here)
                    while with_repairs and here.healer.repairs.waiting:  # noqa: ASYNC110 - it has no event for that
                        await trio.sleep(0.002)
                    nursery.cancel_scope.cancel()
                    return result
        finally:
            await pool.close()

    async def write(self, rng: random.Random, share: float) -> None:
        """Overwrites a share of the blocks at random, in no order."""

        async def work(here: Opened) -> None:
            for block in rng.sample(range(BLOCKS), int(share * BLOCKS)):
                data = rng.randbytes(BLOCK)
                await here.volume.write(block * BLOCK, memoryview(data))
                self.model[block * BLOCK : (block + 1) * BLOCK] = data

        await self.opened(work)

    async def read(self) -> dict[int, str]:
        """Every block by itself; those that cannot be read with the reason. Wrong data fails here."""

        async def work(here: Opened) -> dict[int, str]:
            errors = {}
            for block in range(BLOCKS):
                at = block * BLOCK
                try:
                    data = b"".join(await here.volume.read(at, BLOCK))
                except SdsError as error:
                    errors[block] = str(error)
                else:
                    assert data == self.model[at : at + BLOCK], f"block {block} reads as something else"
            return errors

        return await self.opened(work, with_repairs=True)

    async def clean(self) -> None:
        pool = await self.pool()
        try:
            await sweep_pool(pool, real_env(), ME)
            await clean_pool(pool, real_env(), ME)
            await pool.backup()
        finally:
            await pool.close()

    async def scrub(self) -> tuple[Scrubbed, Tally]:
        pool = await self.pool()
        try:
            return await scrub_pool(pool, real_env(), ME, lambda: 1e9, 0, True, lambda step: None)
        finally:
            await pool.close()

    async def files(self) -> dict[str, StoredFile]:
        """By name."""
        return await self._ask(lambda pool: {file.name: file for file in files_of(pool.catalog.all_segments())})

    async def newest_event(self) -> int:
        return await self._ask(lambda pool: max((event.id for event in pool.catalog.events()), default=0))

    async def events_since(self, newest: int) -> list[str]:
        events = await self._ask(lambda pool: pool.catalog.events())
        return [f"{event.kind}: {event.text}" for event in events if event.id > newest]

    async def missing(self) -> list[str]:
        """Why backends are."""
        return await self._ask(lambda pool: list(pool.missing.values()))

    async def _ask(self, question: Callable[[Pool], T]) -> T:
        pool = await self.pool()
        try:
            return question(pool)
        finally:
            await pool.close()

    def drop_cache(self) -> None:
        for cache in self.home.path.glob("local/*/cache"):
            shutil.rmtree(cache)


@contextmanager
def places(root: Path, kinds: str) -> Iterator[dict[str, Store]]:
    """`kinds`: `d` for a directory, `s` for an object store; e.g. "ds"."""
    with lying_server() as liar:
        stores: dict[str, Store] = {}
        for number, kind in enumerate(kinds):
            if kind == "s":
                stores[liar.url()] = LiarStore(liar)
            else:
                (root / f"d{number}").mkdir()
                stores[str(root / f"d{number}")] = DirectoryStore(root / f"d{number}")
        yield stores


async def make_tank(root: Path, stores: dict[str, Store], copies: int, rng: random.Random) -> Tank:
    """Filled, overwritten, swept and cleaned: with segments, packs and several backups of the catalog."""
    home = Home(root / "home")
    pool = await create_pool(home, "tank", list(stores), connect, lambda: 1000.0, copies, SEGMENT_SIZE)
    pool.catalog.create_dataset("vm", "volume", SIZE_BYTES)
    rows = pool.catalog.backends()
    await pool.close()
    by_url = {row.url: store for row, store in zip(rows, stores.values(), strict=True)}
    tank = Tank(home, pool.uuid, by_url, bytearray(SIZE_BYTES))
    for share in (1.0, 0.2, 0.2):
        await tank.write(rng, share)
    await tank.clean()
    await tank.write(rng, 0.1)
    return tank


def damage(store: Store, name: str, rng: random.Random) -> str:
    """DA1. What was done."""
    before = store.read(name)
    match rng.randrange(10):
        case 0:
            store.delete(name)
            return "deleted"
        case 1:
            store.write(name, before[: rng.randrange(len(before))])
            return "cut"
        case 2 | 3:
            return zero_page(store, name, before, rng)
    data = bytearray(before)
    for at in rng.sample(range(len(data)), rng.randint(1, 8)):
        data[at] ^= rng.randrange(1, 256)
    assert data != before
    store.write(name, bytes(data))
    return "flipped"


def zero_page(store: Store, name: str, before: bytes, rng: random.Random) -> str:
    page = rng.randrange(-(-len(before) // PAGE)) * PAGE
    data = before[:page] + bytes(len(before[page : page + PAGE])) + before[page + PAGE :]
    store.write(name, data)
    return "zeroed" if data != before else "unchanged"
