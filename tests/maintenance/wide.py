"""A pool in memory over several backends, its files at hand: to be damaged, counted and compared."""

import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import trio

from backends.base import Backend
from sds.maintenance.limiter import Limiter
from sds.maintenance.moving import check, turn_of
from sds.pool.create import create_pool
from sds.pool.files import StoredFile, files_of
from sds.pool.home import Home
from tests.maintenance.world import ME, SEGMENT_SIZE, SIZE_BYTES, RecordingBackend, World, Writer

CAPACITY_BYTES: Final = 1 << 28


class Wide(World):
    def __init__(self, world: World, disks: dict[int, RecordingBackend]) -> None:
        super().__init__(world.pool, world.backend)
        self.disks = disks
        """By backend id; as the pool's, without what a test puts around them."""
        self.turn = turn_of(self.pool, ME)
        self.limiter = Limiter()

    def files(self) -> list[StoredFile]:
        return files_of(self.pool.catalog.all_segments())

    def names_on(self, copy: int) -> set[str]:
        return {name for name in self.disks[copy]._files if name.startswith(("segments/", "packs/"))}

    def raw(self, copy: int, name: str) -> bytearray:
        return self.disks[copy]._files[name].data

    def is_good(self, file: StoredFile, copy: int) -> bool:
        if file.name not in self.names_on(copy):
            return False
        return not check(file, memoryview(bytes(self.raw(copy, file.name))), self.pool.uuid)

    def expect_live(self, name: str = "") -> None:
        """P5, P6: of every file that the catalog has (or this one), a copy that it lists is whole."""
        for file in self.files():
            if name in ("", file.name):
                assert any(self.is_good(file, copy) for copy in file.copies), f"{file.name} is lost"

    def expect_tidy(self) -> None:
        """Every copy in the catalog is whole, and there is no file without a row."""
        listed: dict[int, set[str]] = {copy: set() for copy in self.disks}
        for file in self.files():
            for copy in file.copies:
                assert self.is_good(file, copy), f"{file.name} on {copy}"
                listed[copy].add(file.name)
        for copy in self.disks:
            assert self.names_on(copy) == listed[copy]

    async def fill(self, seed: int = 1) -> bytes:
        """The content of `vm` afterwards; it is closed again."""
        async with self.open() as here:
            writer = Writer(here, seed)
            await writer.fill()
        return bytes(writer.model)


class Cut(Exception):
    """The process ends here."""


class Ending:
    """A backend that ends the process before or after its operation number `at`; after every one, `look` is called."""

    def __init__(self, inner: Any, steps: "Steps") -> None:
        self._inner = inner
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._inner, name)
        if name not in ("create", "write", "sync", "seal", "put", "delete", "list", "settle", "open"):
            return operation

        async def call(*arguments: Any) -> Any:
            self._steps.step("before")
            result = await operation(*arguments)
            self._steps.step("after")
            return result

        return call


class Steps:
    def __init__(self, look: Callable[[], None], at: int | None = None) -> None:
        self._look = look
        self.at = at
        self.seen = 0

    def step(self, when: str) -> None:
        self._look()
        self.seen += 1
        if self.has_ended:
            raise Cut

    @property
    def has_ended(self) -> bool:
        return self.at is not None and self.seen >= self.at

    @contextmanager
    def until_the_end(self) -> Iterator[None]:
        try:
            yield
        except (Cut, BaseExceptionGroup):
            assert self.has_ended


def in_wide_world(
    work: Callable[[Wide], Awaitable[None]], count: int = 3, copies: int = 1, capacity_bytes: int = CAPACITY_BYTES
) -> None:
    async def body() -> None:
        disks: dict[str, RecordingBackend] = {}

        def connect(url: str, local: Path | None) -> Backend:
            if url not in disks:
                disks[url] = RecordingBackend(capacity_bytes)
                disks[url]._url = url
            return disks[url]

        with tempfile.TemporaryDirectory() as directory:
            home = Home(Path(directory) / "home")
            urls = [f"memory:{number}" for number in range(1, count + 1)]
            pool = await create_pool(home, "tank", urls, connect, lambda: 1000.0, copies, SEGMENT_SIZE)
            pool.catalog.create_dataset("vm", "volume", SIZE_BYTES)
            by_id = {row.id: disks[row.url] for row in pool.catalog.backends()}
            try:
                await work(Wide(World(pool, by_id[1]), by_id))
            finally:
                await pool.close()

    trio.run(body)
