"""Changed paths between two states of a filesystem: exactly those, at the price of the changes."""

import stat
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import pytest

from sds.core.errors import Corrupt
from sds.dataset.blockmap import BlockMap
from sds.dataset.items import Items
from sds.dataset.layer import Layers
from sds.dataset.nodes import Nodes
from sds.filesystem.attributes import ROOT_INODE, Changes
from sds.filesystem.diff import Change, changed_paths
from sds.filesystem.entries import insert
from sds.filesystem.filesystem import Filesystem
from sds.filesystem.inodes import store_attr
from sds.filesystem.view import FilesystemView
from sds.log.reader import FrameReader
from tests.filesystem_units.home import ROOT, Worker, file, home, list_all, new_world, run, view_at

Step = Callable[[Filesystem], Awaitable[None]]
EXCHANGE = 2


async def diff(fs: Filesystem, old_root: int) -> list[Change]:
    """From a root that was to the present."""
    with view_at(fs.dataset, old_root) as old, view_at(fs.dataset, await fs.dataset.newest_root()) as new:
        return await changed_paths(old, new)


async def inode_of(fs: Filesystem, path: bytes) -> int:
    inode = ROOT_INODE
    for name in path.split(b"/"):
        inode = (await fs.lookup(inode, name)).inode
    return inode


async def populate(fs: Filesystem) -> None:
    """/a, /b, /d/a, /d/sub/x, and /d/two and /e/two which are one file."""
    for name in (b"a", b"b"):
        await file(fs, ROOT_INODE, name, name)
    d = (await fs.mkdir(ROOT_INODE, b"d", 0o755, ROOT)).inode
    e = (await fs.mkdir(ROOT_INODE, b"e", 0o755, ROOT)).inode
    sub = (await fs.mkdir(d, b"sub", 0o755, ROOT)).inode
    await file(fs, d, b"a", b"another")
    await file(fs, sub, b"x", bytes(9000))
    two = await file(fs, d, b"two", b"2")
    await fs.link(two.inode, e, b"two")


async def nothing(fs: Filesystem) -> None:
    await fs.read(await inode_of(fs, b"a"), 0, 1)


async def make(fs: Filesystem) -> None:
    await file(fs, await inode_of(fs, b"d"), b"new")


async def make_deep(fs: Filesystem) -> None:
    one = (await fs.mkdir(await inode_of(fs, b"d/sub"), b"one", 0o700, ROOT)).inode
    await fs.symlink(one, b"link", b"target", ROOT)


async def write_inline(fs: Filesystem) -> None:
    await fs.write(await inode_of(fs, b"d/a"), 3, b"more")


async def write_blocks(fs: Filesystem) -> None:
    """With the time of before: the blocks tell."""
    inode = await inode_of(fs, b"d/sub/x")
    before = await fs.getattr(inode)
    await fs.write(inode, 5000, b"y")
    await fs.setattr(inode, Changes(mtime_ns=before.mtime_ns))


async def chmod_directory(fs: Filesystem) -> None:
    await fs.setattr(await inode_of(fs, b"d"), Changes(mode=0o700))


async def chmod_root(fs: Filesystem) -> None:
    await fs.setattr(ROOT_INODE, Changes(mode=0o700))


async def set_xattr(fs: Filesystem) -> None:
    await fs.setxattr(await inode_of(fs, b"a"), b"user.x", b"1")


async def set_xattr_for_a_moment(fs: Filesystem) -> None:
    await set_xattr(fs)
    await fs.removexattr(await inode_of(fs, b"a"), b"user.x")


async def write_linked(fs: Filesystem) -> None:
    await fs.write(await inode_of(fs, b"d/two"), 0, b"3")


async def unlink_one(fs: Filesystem) -> None:
    await fs.unlink(await inode_of(fs, b"d"), b"two")


async def link_more(fs: Filesystem) -> None:
    await fs.link(await inode_of(fs, b"a"), await inode_of(fs, b"e"), b"a too")


async def rename_file(fs: Filesystem) -> None:
    await fs.rename(ROOT_INODE, b"a", await inode_of(fs, b"e"), b"moved")


async def rename_and_write(fs: Filesystem) -> None:
    await rename_file(fs)
    await fs.write(await inode_of(fs, b"e/moved"), 0, b"z")


async def rename_directory(fs: Filesystem) -> None:
    """And change what is in it."""
    await fs.rename(ROOT_INODE, b"d", await inode_of(fs, b"e"), b"dd")
    dd = await inode_of(fs, b"e/dd")
    await fs.unlink(dd, b"a")
    await file(fs, dd, b"new")
    await fs.write(await inode_of(fs, b"e/dd/sub/x"), 0, b"z")


async def exchange(fs: Filesystem) -> None:
    await fs.rename(ROOT_INODE, b"a", ROOT_INODE, b"b", EXCHANGE)


async def save_like_an_editor(fs: Filesystem) -> None:
    await file(fs, ROOT_INODE, b".a.swp", b"new contents")
    await fs.rename(ROOT_INODE, b".a.swp", ROOT_INODE, b"a")


async def rename_over(fs: Filesystem) -> None:
    await fs.rename(ROOT_INODE, b"b", ROOT_INODE, b"a")


async def change_type(fs: Filesystem) -> None:
    await fs.unlink(ROOT_INODE, b"a")
    await fs.mkdir(ROOT_INODE, b"a", 0o755, ROOT)


async def remove_tree(fs: Filesystem) -> None:
    d, sub = await inode_of(fs, b"d"), await inode_of(fs, b"d/sub")
    await fs.unlink(sub, b"x")
    await fs.rmdir(d, b"sub")
    for name in (b"a", b"two"):
        await fs.unlink(d, name)
    await fs.rmdir(ROOT_INODE, b"d")


async def unlink_open(fs: Filesystem) -> None:
    inode = await inode_of(fs, b"d/sub/x")
    await fs.open(inode)
    await fs.unlink(await inode_of(fs, b"d/sub"), b"x")
    await fs.write(inode, 0, b"z")


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (nothing, []),
        (make, ["M /d", "+ /d/new"]),
        (make_deep, ["M /d/sub", "+ /d/sub/one", "+ /d/sub/one/link"]),
        (write_inline, ["M /d/a"]),
        (write_blocks, ["M /d/sub/x"]),
        (chmod_directory, ["M /d"]),
        (chmod_root, ["M /"]),
        (set_xattr, ["M /a"]),
        (set_xattr_for_a_moment, []),
        (write_linked, ["M /d/two", "M /e/two"]),
        (unlink_one, ["M /d", "- /d/two"]),
        (link_more, ["M /e", "+ /e/a too"]),
        (rename_file, ["M /", "R /a /e/moved", "M /e"]),
        (rename_and_write, ["M /", "R /a /e/moved", "M /e", "M /e/moved"]),
        (rename_directory, [
            "M /", "R /d /e/dd", "- /d/a", "M /e", "M /e/dd", "+ /e/dd/new", "M /e/dd/sub/x",
        ]),
        (exchange, ["M /", "R /a /b", "R /b /a"]),
        (save_like_an_editor, ["M /", "M /a"]),
        (rename_over, ["M /", "- /a", "R /b /a"]),
        (change_type, ["M /", "+ /a", "- /a"]),
        (remove_tree, ["M /", "- /d", "- /d/a", "- /d/sub", "- /d/sub/x", "- /d/two"]),
        (unlink_open, ["M /d/sub", "- /d/sub/x"]),
    ],
)  # fmt: skip
def test_what_was_done_is_told(step: Step, expected: list[str]) -> None:
    async def body() -> None:
        async with home(new_world()) as fs:
            await populate(fs)
            root = await fs.dataset.newest_root()
            await step(fs)
            found = await diff(fs, root)
        assert [b" ".join(filter(None, (kind.encode(), *paths))).decode() for kind, *paths in found] == expected

    run(body)


class Name(NamedTuple):
    path: bytes
    inode: int
    type: int


class Known(NamedTuple):
    """Of a state, from reading all of it."""

    names: dict[tuple[int, bytes], Name]
    """By (directory, name)."""
    contents: dict[int, object]
    """By inode."""


async def read_all(view: FilesystemView) -> Known:
    known = Known({}, {ROOT_INODE: await contents_of(view, ROOT_INODE)})
    directories = [(ROOT_INODE, b"")]
    while directories:
        inode, path = directories.pop()
        for entry in await list_all(view, inode):
            attr, below = entry.attr, path + b"/" + entry.name
            known.names[inode, entry.name] = Name(below, attr.inode, stat.S_IFMT(attr.mode))
            known.contents[attr.inode] = await contents_of(view, attr.inode)
            if attr.is_directory:
                directories.append((attr.inode, below))
    return known


async def contents_of(view: FilesystemView, inode: int) -> object:
    attr = await view.getattr(inode)
    data = bytes(await view.read(inode, 0, attr.size_bytes)) if attr.is_file else b""
    target = await view.readlink(inode) if attr.is_symlink else b""
    xattrs = [(name, await view.getxattr(inode, name)) for name in sorted(await view.listxattr(inode))]
    return data, target, xattrs, attr.mode, attr.uid, attr.gid, attr.rdev, attr.size_bytes, attr.mtime_ns


def expected_changes(old: Known, new: Known) -> set[Change]:
    """By comparing everything with everything."""
    both = {(place, name.inode) for place, name in old.names.items()} & {
        (place, name.inode) for place, name in new.names.items()
    }
    gone: dict[int, list[tuple[int, bytes]]] = {}
    come: dict[int, list[tuple[int, bytes]]] = {}
    for names, found in ((old.names, gone), (new.names, come)):
        for place, name in sorted(names.items()):
            if (place, name.inode) not in both:
                found.setdefault(name.inode, []).append(place)
    changes, minus, plus = set(), set(), set()
    for inode in gone.keys() | come.keys():
        before, after = gone.get(inode, []), come.get(inode, [])
        while before and after:
            changes.add(Change("R", old.names[before.pop(0)].path, new.names[place := after.pop(0)].path))
            both.add((place, inode))
        minus |= {old.names[place][::2] for place in before}
        plus |= {new.names[place][::2] for place in after}
    changes |= {Change("M", path) for path, _ in minus & plus}
    changes |= {Change("-", path) for path, _ in minus - plus} | {Change("+", path) for path, _ in plus - minus}
    in_both = old.contents.keys() & new.contents.keys()
    changed = {inode for inode in in_both if old.contents[inode] != new.contents[inode]}
    changes |= {Change("M", new.names[place].path) for place, inode in both if inode in changed and place in new.names}
    return changes | ({Change("M", b"/")} if ROOT_INODE in changed else set())


@pytest.mark.parametrize("seed", range(6))
def test_whatever_was_done_the_changed_paths_are_those_of_a_full_comparison(seed: int) -> None:
    async def body() -> None:
        async with home(new_world()) as fs:
            worker = Worker(fs, seed)
            await worker.work(150)
            for steps in (0, 1, 5, 20, 60, 200):
                root = await fs.dataset.newest_root()
                with view_at(fs.dataset, root) as old:
                    before = await read_all(old)
                await worker.work(steps)
                with view_at(fs.dataset, root) as old, view_at(fs.dataset, await fs.dataset.newest_root()) as new:
                    found = await changed_paths(old, new)
                    assert set(found) == expected_changes(before, await read_all(new))
                    assert found == sorted(set(found), key=lambda change: (change.path, change.kind))
                    assert await changed_paths(new, new) == []

    run(body, seed)


class CountingItems(Items):
    """Counts the steps in which directories are read."""

    batches = 0

    def batch(self, low: bytes, high: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
        self.batches += 1
        return super().batch(low, high)


async def batches_of_diff(fs: Filesystem, old_root: int) -> tuple[list[Change], int]:
    reader = FrameReader(fs.dataset.pool, fs.dataset.env, {})
    views = []
    for root in (old_root, await fs.dataset.newest_root()):
        nodes, layers = Nodes(reader, None), Layers(root)
        views.append(FilesystemView(CountingItems(nodes, layers), BlockMap(nodes, layers, 0, 64), reader))
    found = await changed_paths(views[0], views[1])
    reader.close()
    return found, sum(view.items.batches for view in views if isinstance(view.items, CountingItems))


def test_directories_without_changes_are_read_only_for_lost_names_of_linked_files() -> None:
    """DP4."""

    async def body() -> None:
        async with home(new_world()) as fs:
            inodes = []
            for number in range(100):
                directory = (await fs.mkdir(ROOT_INODE, b"d%d" % number, 0o755, ROOT)).inode
                inodes.append((await file(fs, directory, b"file", b"x")).inode)
            root = await fs.dataset.newest_root()
            await fs.write(inodes[50], 0, b"y")
            await fs.rename(await inode_of(fs, b"d60"), b"file", ROOT_INODE, b"moved")
            await fs.write(inodes[60], 0, b"y")
            found, batches = await batches_of_diff(fs, root)
            assert [change.path for change in found] == [b"/", b"/d50/file", b"/d60", b"/d60/file", b"/moved"]
            assert batches < 20
            await fs.link(inodes[50], await inode_of(fs, b"d7"), b"linked")
            root = await fs.dataset.newest_root()
            await fs.write(inodes[50], 0, b"z")
            found, batches = await batches_of_diff(fs, root)
            assert found == [Change("M", b"/d50/file"), Change("M", b"/d7/linked")]
            assert 20 < batches < 300

    run(body)


def test_a_file_whose_newest_name_is_gone_is_found_under_its_old_one() -> None:
    async def body() -> None:
        async with home(new_world()) as fs:
            await populate(fs)
            inode = await inode_of(fs, b"d/sub/x")
            await fs.link(inode, await inode_of(fs, b"e"), b"x")
            await fs.unlink(await inode_of(fs, b"e"), b"x")
            root = await fs.dataset.newest_root()
            await fs.write(inode, 0, b"y")
            assert await diff(fs, root) == [Change("M", b"/d/sub/x")]

    run(body)


def test_a_directory_that_is_not_in_its_parent_is_told_as_damage() -> None:
    async def body() -> None:
        async with home(new_world()) as fs:
            await populate(fs)
            sub = await fs.getattr(await inode_of(fs, b"d/sub"))
            store_attr(fs.items, sub._replace(parent=await inode_of(fs, b"e")))
            root = await fs.dataset.newest_root()
            await file(fs, sub.inode, b"new")
            with pytest.raises(Corrupt, match=f"directory {sub.inode} is not in its parent"):
                await diff(fs, root)

    run(body)


def test_directories_in_a_circle_are_told_as_damage() -> None:
    async def body() -> None:
        async with home(new_world()) as fs:
            await populate(fs)
            d, sub = await fs.getattr(await inode_of(fs, b"d")), await fs.getattr(await inode_of(fs, b"d/sub"))
            insert(fs.items, fs.seed(), sub.inode, b"d", d)
            store_attr(fs.items, d._replace(parent=sub.inode))
            root = await fs.dataset.newest_root()
            await file(fs, sub.inode, b"new")
            with pytest.raises(Corrupt, match="is not in its parent"):
                await diff(fs, root)

    run(body)


def test_the_search_for_names_ends_in_a_damaged_filesystem() -> None:
    """One of the names does not exist, and the directories below /d have no end."""

    async def body() -> None:
        async with home(new_world()) as fs:
            await populate(fs)
            insert(fs.items, fs.seed(), await inode_of(fs, b"d/sub"), b"d", await fs.getattr(await inode_of(fs, b"d")))
            two = await fs.getattr(await inode_of(fs, b"d/two"))
            store_attr(fs.items, two._replace(nlink=3))
            root = await fs.dataset.newest_root()
            await fs.write(two.inode, 0, b"3")
            assert await diff(fs, root) == [Change("M", b"/d/two"), Change("M", b"/e/two")]

    run(body)


def test_states_that_are_not_in_their_trees_yet_are_refused() -> None:
    """DP1."""

    async def body() -> None:
        async with home(new_world()) as fs:
            with view_at(fs.dataset, await fs.dataset.newest_root()) as old:
                await populate(fs)
                with pytest.raises(AssertionError, match="DP1"):
                    await changed_paths(old, fs)

    run(body)
