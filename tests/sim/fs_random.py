"""Random operations of several tasks on few names: they shall meet.

  FR1  What an operation works on is drawn from the tree of this moment; when its turn comes it may be something else.
  FR2  As the kernel does: an inode that an operation is about, or that is open, is not forgotten; one without names is
       only worked on by whoever has it open.
  FR3  Whatever fails is held against the model (FO3), and so is what a reader was shown: lookups and lists at the
       moment when they return, the bytes of a read at some moment while it ran.
"""

import random
import stat
from collections.abc import Awaitable, Callable
from typing import Final

from sds.filesystem.attributes import Changes
from tests.sim import fs_model as model
from tests.sim.fs_model import EXCHANGE, NOREPLACE
from tests.sim.fs_state import BLOCK, Node
from tests.sim.fs_workload import FILE, FsActor

NAMES: Final = (b"a", b"b", b"c", b"d", *(b"%d" % number * 30 for number in range(10, 36)))
OFFSETS: Final = (0, 0, 1, 100, 2000, 2047, BLOCK - 1, BLOCK, 3 * BLOCK + 5, 127 * BLOCK, 1 << 40)
LENGTHS: Final = (0, 1, 10, 300, 2048, 2049, BLOCK, BLOCK + 1, 3 * BLOCK, 40_000)
MODES: Final = (0o644, 0o4755, 0o2755, 0o2644, 0o777)
XATTRS: Final = (b"user.a", b"user.b", model.CAPABILITY)
TYPES: Final = (
    FILE, FILE, FILE, stat.S_IFDIR | 0o755, stat.S_IFDIR | 0o2755, stat.S_IFLNK | 0o777, stat.S_IFIFO | 0o600,
)  # fmt: skip


class Hands:
    """One task that works on a filesystem. `rng` belongs to the whole world, so that a seed replays."""

    def __init__(self, actor: FsActor, rng: random.Random, names: tuple[bytes, ...] = NAMES) -> None:
        self.a = actor
        self.rng = rng
        self.few = names
        self.held: list[int] = []
        self.busy: list[int] = []

    async def step(self) -> None:
        """One operation. OSError: as the model says. SdsError: the world is to blame."""
        kinds: tuple[tuple[int, Callable[[], Awaitable[object]]], ...] = (
            (8, self.make), (10, self.write), (4, self.truncate), (6, self.rename), (3, self.link), (6, self.remove),
            (2, self.attributes), (3, self.xattr), (2, self.open), (2, self.release), (3, self.forget), (4, self.look),
            (5, self.read), (2, self.names), (2, self.a.fsync),
        )  # fmt: skip
        weights, operations = zip(*kinds, strict=True)
        try:
            await self.rng.choices(operations, weights)[0]()
        finally:
            self.a.busy.subtract(self.busy)
            self.busy.clear()

    async def finish(self) -> None:
        for inode in self.held:
            await self.a.let_go(inode)
        self.held.clear()

    # -- choosing -----------------------------------------------------------------------------------------------------

    def any(self, wanted: Callable[[Node], bool]) -> int:
        """An inode, mostly one that will do; it is busy until the operation ends (FR2)."""
        tree = self.a.tree
        hidden = tree.orphans.difference(self.held)
        inodes = [inode for inode, node in tree.nodes.items() if wanted(node) and inode not in hidden]
        if not inodes or self.rng.random() < 0.03:
            inodes = [inode for inode in range(1, tree.counters.next_inode + 1) if inode not in hidden]
        chosen = self.rng.choice(inodes)
        self.busy.append(chosen)
        self.a.busy[chosen] += 1
        return chosen

    def directory(self) -> int:
        return self.any(lambda node: node.is_directory and node.nlink > 0)

    def file(self) -> int:
        return self.any(lambda node: node.is_file)

    def place(self) -> tuple[int, bytes]:
        """Of an entry, mostly one that is there."""
        parent = self.directory()
        node = self.a.tree.nodes.get(parent)
        if node is not None and node.entries and self.rng.random() < 0.8:
            return parent, self.rng.choice(sorted(node.entries))
        return parent, self.rng.choice(self.few)

    # -- changing -----------------------------------------------------------------------------------------------------

    async def make(self) -> None:
        mode = self.rng.choice(TYPES)
        target = b"t" * self.rng.choice((1, 100, 2048, 4095)) if stat.S_ISLNK(mode) else b""
        await self.a.make(self.directory(), self.rng.choice(self.few), mode, target)

    async def write(self) -> None:
        length = self.rng.choice(LENGTHS)
        await self.a.write_to(self.file(), self.rng.choice(OFFSETS), self.a.script.content(length))

    async def truncate(self) -> None:
        inode = self.file()
        node = self.a.tree.nodes.get(inode)
        size = self.rng.choice((0, 1, 2000, 2049, BLOCK, 5000, 130 * BLOCK + 1, node.size // 2 if node else 0))
        await self.a.change(inode, Changes(size_bytes=size))

    async def rename(self) -> None:
        flags = self.rng.choice((0, 0, 0, NOREPLACE, EXCHANGE, EXCHANGE))
        await self.a.move(*self.place(), *self.place(), flags)

    async def link(self) -> None:
        await self.a.link_to(self.any(lambda node: not node.is_directory), *self.place())

    async def remove(self) -> None:
        parent, name = self.place()
        node = self.a.tree.nodes.get(parent)
        target = self.a.tree.nodes[node.entries[name]] if node is not None and name in node.entries else None
        is_directory = target is not None and target.is_directory
        await self.a.remove(parent, name, is_directory != (self.rng.random() < 0.05))

    async def attributes(self) -> None:
        rng = self.rng
        changes = rng.choice((
            Changes(mode=rng.choice(MODES)), Changes(uid=rng.randint(0, 2)), Changes(gid=3, mode=0o6755),
            Changes(atime_ns=rng.randint(-5, 5), mtime_ns=rng.randint(1, 1 << 40)),
        ))  # fmt: skip
        await self.a.change(self.any(lambda node: True), changes)

    async def xattr(self) -> None:
        inode, name = self.any(lambda node: True), self.rng.choice(XATTRS)
        if self.rng.random() < 0.3:
            await self.a.remove_xattr(inode, name)
        else:
            value = self.a.script.content(self.rng.choice((0, 1, 20, 2048, 2049, 5000)))
            await self.a.set_xattr(inode, name, value)

    # -- lifetimes ----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        inode = self.any(lambda node: node.is_file)
        await self.a.hold(inode)
        self.held.append(inode)

    async def release(self) -> None:
        if self.held:
            await self.a.let_go(self.held.pop(self.rng.randrange(len(self.held))))

    async def forget(self) -> None:
        orphans = [inode for inode in sorted(self.a.tree.orphans) if not self.a.busy[inode]]
        await self.a.forget([inode for inode in orphans if self.rng.random() < 0.7])

    # -- reading (FR3) ------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        parent, name = self.place()
        if self.rng.random() < 0.5:
            await self.a.look_up(parent, name)
        else:
            await self.a.get_attr(self.any(lambda node: True))

    async def names(self) -> None:
        await self.a.list(self.directory(), self.rng.choice((1, 2, 5)))

    async def read(self) -> None:
        await self.a.read(self.file(), self.rng.choice(OFFSETS), self.rng.choice(LENGTHS))
