"""A filesystem in a simulated world, views of its published trees, and somebody who works in it at random."""

import random
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count

from sds.dataset.blockmap import BlockMap
from sds.dataset.dataset import Dataset, Settings
from sds.dataset.items import Items
from sds.dataset.layer import Layers
from sds.dataset.nodes import Nodes
from sds.filesystem.attributes import ROOT_INODE, Attr, Changes, Entry, Owner
from sds.filesystem.filesystem import Filesystem
from sds.filesystem.opening import open_filesystem
from sds.filesystem.view import FilesystemView
from sds.log.reader import FrameReader
from tests.sim.schedule import run_seeded
from tests.sim.world import QUIET, Shape, World

NAME = "home"
ROOT = Owner(0, 0)
NAMES = [b"n%d" % number for number in range(12)]


def new_world() -> World:
    world = World.new(Shape())
    world.catalog.create_dataset(NAME, "fs", 0)
    return world


@asynccontextmanager
async def home(world: World, settings: Settings = QUIET) -> AsyncIterator[Filesystem]:
    """The filesystem, open. Its time goes on by itself."""
    async with world.open(NAME, settings) as dataset:
        yield await open_filesystem(dataset, ROOT, count(10**18).__next__, seed=7)


@contextmanager
def view_at(dataset: Dataset, root: int) -> Iterator[FilesystemView]:
    """Of a published tree."""
    reader = FrameReader(dataset.pool, dataset.env, {})
    nodes, layers = Nodes(reader, None), Layers(root)
    rows = dataset.pool.catalog.snapshots(dataset.row.id)
    mapped = [row.mapped_blocks for row in rows if row.root == root] or [dataset.map.mapped_blocks]
    try:
        yield FilesystemView(Items(nodes, layers), BlockMap(nodes, layers, mapped[0], 64), reader)
    finally:
        reader.close()


def run(body: Callable[[], Awaitable[None]], seed: int = 1) -> None:
    run_seeded(body, seed)


async def file(fs: Filesystem, parent: int, name: bytes, content: bytes = b"") -> Attr:
    attr = await fs.mknod(parent, name, stat.S_IFREG | 0o644, 0, ROOT)
    if content:
        await fs.write(attr.inode, 0, content)
    return await fs.getattr(attr.inode)


class Worker:
    """Does one thing after the other in a filesystem, whether it works or not."""

    def __init__(self, fs: Filesystem, seed: int) -> None:
        self._fs = fs
        self._rng = random.Random(seed)
        self._directories = [ROOT_INODE]
        self._files: list[int] = []
        self.done = 0

    async def work(self, steps: int) -> None:
        for _ in range(steps):
            try:
                await self._rng.choice(self._verbs)(self)
                self.done += 1
            except OSError:
                continue

    def _directory(self) -> int:
        return self._rng.choice(self._directories)

    def _name(self) -> bytes:
        return self._rng.choice(NAMES)

    def _file(self) -> int:
        return self._rng.choice(self._files or self._directories)

    def _any(self) -> int:
        return self._rng.choice(self._files + self._directories)

    def _size(self) -> int:
        return self._rng.randrange(1 << self._rng.randrange(1, 21))

    async def _mkdir(self) -> None:
        self._directories.append((await self._fs.mkdir(self._directory(), self._name(), 0o755, ROOT)).inode)

    async def _mknod(self) -> None:
        self._files.append((await file(self._fs, self._directory(), self._name())).inode)

    async def _symlink(self) -> None:
        await self._fs.symlink(self._directory(), self._name(), b"x" * self._rng.randrange(1, 4096), ROOT)

    async def _link(self) -> None:
        await self._fs.link(self._file(), self._directory(), self._name())

    async def _unlink(self) -> None:
        await self._fs.unlink(self._directory(), self._name())

    async def _rmdir(self) -> None:
        await self._fs.rmdir(self._directory(), self._name())

    async def _rename(self) -> None:
        flags = self._rng.randrange(3)
        await self._fs.rename(self._directory(), self._name(), self._directory(), self._name(), flags)

    async def _write(self) -> None:
        await self._fs.write(self._file(), self._size(), self._rng.randbytes(self._rng.randrange(1, 9000)))

    async def _truncate(self) -> None:
        await self._fs.setattr(self._file(), Changes(size_bytes=self._size()))

    async def _chmod(self) -> None:
        await self._fs.setattr(self._any(), Changes(mode=self._rng.randrange(0o10000)))

    async def _setxattr(self) -> None:
        name = b"user." + self._name()
        await self._fs.setxattr(self._any(), name, self._rng.randbytes(self._rng.choice((0, 9, 2048, 5000))))

    async def _removexattr(self) -> None:
        await self._fs.removexattr(self._any(), b"user." + self._name())

    async def _forget(self) -> None:
        await self._fs.forget([self._any()])

    _verbs = (
        _mkdir, _mknod, _symlink, _link, _unlink, _rmdir, _rename, _write, _write, _truncate, _chmod, _setxattr,
        _removexattr, _forget,
    )  # fmt: skip


async def list_all(view: FilesystemView, inode: int) -> list[Entry]:
    entries: list[Entry] = []
    while more := await view.readdir(inode, entries[-1].cookie if entries else 0, 1 << 20):
        entries += more
    return entries
