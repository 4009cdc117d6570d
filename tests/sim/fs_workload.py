"""Operations on a filesystem in a world, each of them checked against the model as it happens."""

import stat
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from sds.core.errors import Busy
from sds.dataset.dataset import Dataset, Settings
from sds.dataset.nodes import Nodes
from sds.filesystem.attributes import Attr, Changes, Entry, Owner
from sds.filesystem.check import check_tree
from sds.filesystem.filesystem import Filesystem
from sds.filesystem.opening import open_filesystem
from sds.log.reader import FrameReader
from sds.maintenance.sweep import sweep_family
from sds.pool.rows import SnapshotRow
from tests.sim import fs_model as model
from tests.sim.fs_model import Change
from tests.sim.fs_oracle import Clock, FsHistory, FsIntent, FsTap
from tests.sim.fs_state import Moment, Tree, difference, read_raw, seen, tree_of
from tests.sim.fs_view import bytes_of, match_view
from tests.sim.workload import content_of
from tests.sim.world import QUIET, World

T = TypeVar("T")
OWNER: Final = Owner(1000, 1000)
SEED: Final = 5
FILE: Final = stat.S_IFREG | 0o644
SETTINGS: Final = QUIET


@dataclass(slots=True)
class FsScript:
    """The histories of all filesystems of a world, the clock, and the content for the next write."""

    world: World
    models: dict[str, FsHistory] = field(default_factory=dict)
    counter: int = 0
    swept: int = 0
    clock: Clock = field(default_factory=Clock)

    def create(self, name: str) -> FsHistory:
        self.world.catalog.create_dataset(name, "fs", 0)
        history = self.models[name] = FsHistory.new(name, Moment())
        return history

    def content(self, length: int) -> bytes:
        self.counter += 1
        return content_of(self.counter, length)

    @asynccontextmanager
    async def open(self, name: str, settings: Settings = SETTINGS, relatime: bool = False) -> "AsyncIterator[FsActor]":
        async with self.world.open(name, settings) as dataset:
            yield await open_actor(self, dataset, relatime)

    def expected(self, power_cut: bool) -> dict[str, FsHistory]:
        return {name: history.after_crash(power_cut) for name, history in self.models.items()}


async def open_actor(script: FsScript, dataset: Dataset, relatime: bool = False) -> "FsActor":
    """Opening a filesystem is an operation, too: the root is made, orphans are deleted."""
    history = script.models[dataset.row.name]
    tap = FsTap(dataset, history, script.clock)
    is_new = not history.now.tree.nodes
    with tap.intent(FsIntent("open", (model.format_root(OWNER),) if is_new else ())):
        filesystem = await open_filesystem(dataset, OWNER, script.clock, SEED, relatime)
    assert not history.now.tree.orphans, "orphans are left"
    return FsActor(script, dataset, filesystem, history, tap)


class FsActor:
    """An open filesystem and its history."""

    def __init__(
        self, script: FsScript, dataset: Dataset, filesystem: Filesystem, history: FsHistory, tap: FsTap
    ) -> None:
        self.script = script
        self.dataset = dataset
        self.fs = filesystem
        self.model = history
        self.tap = tap
        self.opened: Counter[int] = Counter()
        self.busy: Counter[int] = Counter()
        """Inodes that operations under way are about."""

    @property
    def tree(self) -> Tree:
        return self.model.now.tree

    def inode(self, path: str) -> int:
        """By the model."""
        found = model.ROOT
        for name in filter(None, path.split("/")):
            found = self.tree.nodes[found].entries[name.encode()]
        return found

    def place(self, path: str) -> tuple[int, bytes]:
        """(inode of the directory, name)."""
        above, _, name = path.rpartition("/")
        return self.inode(above), name.encode()

    async def _do(self, name: str, call: Awaitable[T], *changes: Change, reads: int = 0) -> T:
        """FO3."""
        with self.tap.intent(FsIntent(name, changes, reads=reads, open_inodes=self._open_inodes)) as intent:
            try:
                result = await call
            except OSError as error:
                self._must_fail(intent, error)
                raise
            finally:
                assert not intent.frames, "a record without an end"
        for change in changes[intent.done :]:
            assert change(self.tree, 0) == self.tree, f"{name} succeeded and did nothing"
        return result

    def _must_fail(self, intent: FsIntent, error: OSError) -> None:
        change = intent.next
        assert change is not None, f"{intent.name}: {error}"
        expected = None
        try:
            change(self.tree, 0)
        except OSError as foreseen:
            expected = foreseen.errno
        assert error.errno == expected, f"{intent.name}: {error}, but should be {expected}"

    def _open_inodes(self) -> frozenset[int]:
        return frozenset(self.opened)

    def _shows(self, attr: Attr) -> Attr:
        """What was returned is what the model has now."""
        node = self.tree.nodes[attr.inode]
        bare = node._replace(content={}, target=b"", xattrs={}, entries={})
        assert seen(attr) == bare, f"inode {attr.inode} was returned as {attr}, should be {bare}"
        return attr

    # -- by inode -----------------------------------------------------------------------------------------------------

    async def make(self, parent: int, name: bytes, mode: int = FILE, target: bytes = b"", rdev: int = 0) -> int:
        change = model.make(parent, name, mode, rdev, OWNER, target)
        call: Awaitable[Attr]
        if stat.S_ISDIR(mode):
            call = self.fs.mkdir(parent, name, mode, OWNER)
        elif stat.S_ISLNK(mode):
            call = self.fs.symlink(parent, name, target, OWNER)
        else:
            call = self.fs.mknod(parent, name, mode, rdev, OWNER)
        return self._shows(await self._do(f"make {parent}/{name!r}", call, change)).inode

    async def link_to(self, inode: int, parent: int, name: bytes) -> None:
        call = self.fs.link(inode, parent, name)
        self._shows(await self._do(f"link {inode} {parent}/{name!r}", call, model.link(inode, parent, name)))

    async def remove(self, parent: int, name: bytes, directory: bool) -> None:
        call = self.fs.rmdir(parent, name) if directory else self.fs.unlink(parent, name)
        await self._do(f"remove {parent}/{name!r}", call, model.remove(parent, name, directory))

    async def move(self, old_parent: int, old: bytes, parent: int, name: bytes, flags: int = 0) -> None:
        call = self.fs.rename(old_parent, old, parent, name, flags)
        what = f"rename {old_parent}/{old!r} {parent}/{name!r} {flags}"
        await self._do(what, call, model.rename(old_parent, old, parent, name, flags))

    async def write_to(self, inode: int, offset: int, data: bytes) -> None:
        piece = self.fs._files.piece_bytes
        changes = [model.write(inode, offset + at, data[at : at + piece]) for at in range(0, len(data), piece)]
        call = self.fs.write(inode, offset, data)
        assert await self._do(f"write {inode} {offset}+{len(data)}", call, *changes) == len(data)

    async def change(self, inode: int, changes: Changes) -> None:
        call = self.fs.setattr(inode, changes)
        self._shows(await self._do(f"setattr {inode} {changes}", call, model.setattr_(inode, changes)))

    async def set_xattr(self, inode: int, name: bytes, value: bytes) -> None:
        await self._do(
            f"setxattr {inode} {name!r}", self.fs.setxattr(inode, name, value), model.setxattr(inode, name, value)
        )

    async def remove_xattr(self, inode: int, name: bytes) -> None:
        await self._do(
            f"removexattr {inode} {name!r}", self.fs.removexattr(inode, name), model.removexattr(inode, name)
        )

    async def hold(self, inode: int) -> None:
        """Open it."""
        await self._do(f"open {inode}", self.fs.open(inode), model.exists(inode))
        self.opened[inode] += 1

    async def let_go(self, inode: int) -> None:
        self.opened[inode] -= 1
        if not self.opened[inode]:
            del self.opened[inode]
        await self._do(f"release {inode}", self.fs.release(inode))

    async def forget(self, inodes: list[int]) -> None:
        await self._do(f"forget {inodes}", self.fs.forget(inodes))

    async def settle(self) -> None:
        """What waits for company is deleted."""
        await self._do("settle", self.fs.orphans.settle())

    async def forget_all(self) -> None:
        """What has no name and is not open is gone afterwards, if nothing has failed."""
        await self.forget(sorted(self.tree.orphans))
        await self.settle()
        if not any(disk.faults.fired for disk in self.script.world.disks):
            assert self.tree.orphans <= self._open_inodes()

    # -- reading beside others ----------------------------------------------------------------------------------------

    async def look_up(self, parent: int, name: bytes) -> None:
        call = self.fs.lookup(parent, name)
        attr = await self._do(f"lookup {parent}/{name!r}", call, model.lookup_in(parent, name))
        assert self.tree.nodes[parent].entries[name] == attr.inode
        self._shows(attr)

    async def get_attr(self, inode: int) -> None:
        self._shows(await self._do(f"getattr {inode}", self.fs.getattr(inode), model.exists(inode)))

    async def list(self, inode: int, limit: int) -> None:
        """The names that are there all the time are shown once, others once or not at all."""
        before = self.tree.nodes[inode].entries if inode in self.tree.nodes else {}
        since = len(self.model.states) - 1
        found: list[Entry] = []
        while True:
            cookie = found[-1].cookie if found else 0
            call = self.fs.readdir(inode, cookie, limit)
            more = await self._do(f"readdir {inode}", call, model.is_directory(inode), reads=inode)
            for entry in more:
                assert self.tree.nodes[inode].entries[entry.name] == entry.attr.inode
                self._shows(entry.attr)
            found += more
            if not more:
                break
        names = [entry.name for entry in found]
        for _, state in self.model.states[since:]:
            before = {name: to for name, to in before.items() if state.tree.nodes[inode].entries.get(name) == to}
        assert before.keys() <= set(names), f"directory {inode}: {before.keys()} were there, shown are {names}"

    async def read(self, inode: int, offset: int, length: int) -> None:
        since = len(self.model.states) - 1
        call = self.fs.read(inode, offset, length)
        found = bytes(await self._do(f"read {inode}", call, model.exists(inode), reads=inode))
        moments = [state.tree.nodes.get(inode) for _, state in self.model.states[since:]]
        allowed = [bytes_of(node, offset, length) for node in moments if node is not None]
        assert found in allowed, f"read {inode} {offset}+{length}: {found[:20]!r} ({len(found)} bytes) was never there"

    # -- by path ------------------------------------------------------------------------------------------------------

    async def create(self, path: str, mode: int = FILE, target: bytes = b"") -> int:
        return await self.make(*self.place(path), mode, target)

    async def mkdir(self, path: str) -> int:
        return await self.create(path, stat.S_IFDIR | 0o755)

    async def symlink(self, path: str, target: bytes) -> int:
        return await self.create(path, stat.S_IFLNK | 0o777, target)

    async def write(self, path: str, offset: int, length: int) -> None:
        await self.write_to(self.inode(path), offset, self.script.content(length))

    async def truncate(self, path: str, size_bytes: int) -> None:
        await self.change(self.inode(path), Changes(size_bytes=size_bytes))

    async def rename(self, old: str, new: str, flags: int = 0) -> None:
        await self.move(*self.place(old), *self.place(new), flags)

    async def link(self, old: str, new: str) -> None:
        await self.link_to(self.inode(old), *self.place(new))

    async def unlink(self, path: str) -> None:
        await self.remove(*self.place(path), False)

    async def rmdir(self, path: str) -> None:
        await self.remove(*self.place(path), True)

    # -- of the dataset -----------------------------------------------------------------------------------------------

    async def fsync(self) -> None:
        target = self.model.acknowledged
        await self.fs.fsync()
        self.model.promise(target)

    async def checkpoint(self) -> None:
        target = self.model.acknowledged
        await self.dataset.checkpoint()
        self.model.promise(target)

    async def snapshot(self, name: str) -> None:
        with self.tap.intent(FsIntent(f"snapshot {name}", snapshot=name)) as intent:
            await self.dataset.snapshot(name)
        self.model.snapshots[name].acknowledged = True
        self.model.promise(intent.last_sequence)

    async def rollback(self, name: str) -> None:
        row = self._snapshot_row(name)
        if row.root is None:
            await self.checkpoint()
            row = self._snapshot_row(name)
        intent = FsIntent(f"rollback {name}", snapshot=name, open_inodes=self._open_inodes)
        with self.tap.intent(intent), self.fs.paused():
            intent.next_inode = await self.fs.next_inode()
            await self.dataset.rollback(row)
            self.model.promise(intent.last_sequence)
            await self.fs.rolled_back(intent.next_inode)

    async def destroy(self, name: str) -> None:
        row = self._snapshot_row(name)
        self.model.snapshots[name].destroying = True
        await self.dataset.env.run_blocking(self.script.world.catalog.destroy_snapshot, row.id)
        del self.model.snapshots[name]

    async def clone(self, snapshot: str, name: str) -> None:
        """The clone exists from the commit of its row on."""
        catalog = self.script.world.catalog
        state = self.model.snapshots[snapshot].state

        def create() -> None:
            catalog.create_dataset(name, "fs", 0, origin=self._snapshot_row(snapshot))
            self.script.models[name] = FsHistory.new(name, state)

        try:
            await self.dataset.env.run_blocking(create)
        except Busy:
            await self.checkpoint()
            await self.dataset.env.run_blocking(create)

    async def sweep(self) -> None:
        dataset = self.dataset
        reader = FrameReader(dataset.pool, dataset.env, {})
        try:
            swept = await sweep_family(dataset.pool, dataset.row.family, Nodes(reader, None), dataset.env)
            self.script.swept += swept.segments
        finally:
            reader.close()

    def _snapshot_row(self, name: str) -> SnapshotRow:
        return self.script.world.catalog.snapshot(self.dataset.row.id, name)

    # -- checking -----------------------------------------------------------------------------------------------------

    async def check(self) -> None:
        """Nobody else is at work: what is in memory is the state, whoever asks, and the internal check agrees."""
        raw = await read_raw(self.dataset.items, self.dataset.map, self.dataset.reader)
        if raw != self.model.now.raw:
            tree = tree_of(raw)
            raise AssertionError(f"{self.model.name} is not what its log says\n{difference(self.tree, tree)}")
        relatime, self.fs.relatime = self.fs.relatime, False
        await match_view(self.fs, self.tree)
        self.fs.relatime = relatime
        problems = await check_tree(self.fs, reads_tails=True)
        assert not problems, "\n".join(problems)
