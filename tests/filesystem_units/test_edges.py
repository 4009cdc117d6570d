"""Edges: quotas of small files, times that cannot be stored, blocks that tar believes, many snapshots."""

import errno

import pytest
import trio

from fuse.operations import _attributes
from sds.filesystem.attributes import ROOT_INODE, Attr, Changes, Entry, Owner
from sds.filesystem.node_tree import SNAPSHOTS_NODE, NodeTree
from sds.filesystem.opening import open_filesystem
from sds.filesystem.snapshots import OPEN_MAX, SnapshotViews
from sds.pool.home import Home
from sds.pool.lease import Holder
from tests.sim.world import Shape, World

ME = Owner(0, 0)


def new_world() -> World:
    world = World.new(Shape())
    world.catalog.create_dataset("home", "fs", 0)
    return world


def test_a_small_file_that_gets_blocks_is_counted_against_the_quota() -> None:
    async def main() -> int:
        async with new_world().open("home") as dataset:
            filesystem = await open_filesystem(dataset, ME)
            inode = (await filesystem.create(ROOT_INODE, b"f", 0o644, ME)).inode
            await filesystem.write(inode, 0, b"x" * 2000)
            filesystem.space.quota_bytes = 2 * 512
            with pytest.raises(OSError) as refused:
                await filesystem.write(inode, 2000, b"x" * 2000)
            return refused.value.errno or 0

    assert trio.run(main) == errno.EDQUOT


@pytest.mark.parametrize(("asked", "stored"), [(1 << 70, (1 << 63) - 1), (-(1 << 70), -(1 << 63)), (-1, -1)])
def test_a_time_that_cannot_be_stored_becomes_the_nearest_that_can(asked: int, stored: int) -> None:
    async def main() -> Attr:
        async with new_world().open("home") as dataset:
            filesystem = await open_filesystem(dataset, ME)
            return await filesystem.setattr(ROOT_INODE, Changes(atime_ns=asked, mtime_ns=asked))

    attr = trio.run(main)
    assert (attr.atime_ns, attr.mtime_ns) == (stored, stored)


def test_a_small_file_says_that_it_has_blocks_so_that_nobody_takes_it_for_a_hole() -> None:
    async def main() -> Attr:
        async with new_world().open("home") as dataset:
            filesystem = await open_filesystem(dataset, ME)
            inode = (await filesystem.create(ROOT_INODE, b"f", 0o644, ME)).inode
            await filesystem.write(inode, 0, b"x" * 600)
            return await filesystem.getattr(inode)

    attr = trio.run(main)
    assert attr.blocks == 0
    assert _attributes(attr).st_blocks == 2


def test_a_listing_of_many_snapshots_opens_none_and_looking_into_all_keeps_few_open(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async def main() -> None:
        async with new_world().open("home") as dataset:
            filesystem = await open_filesystem(dataset, ME)
            dataset.pool.home = Home(tmp_path_factory.mktemp("home"))
            dataset.pool.home.run_dir.mkdir(parents=True, exist_ok=True)
            for number in range(OPEN_MAX + 10):
                await filesystem.mknod(ROOT_INODE, b"f%d" % number, 0o100644, 0, ME)
                await dataset.snapshot(f"s{number}")
            views = SnapshotViews(dataset, Holder.me("test"))
            tree = NodeTree(filesystem, views)
            listed: list[Entry] = []
            while more := await tree.readdir(SNAPSHOTS_NODE, listed[-1].cookie if listed else 0, 7):
                listed += more
            listed.sort(key=lambda entry: int(entry.name[1:]))
            assert [entry.name for entry in listed] == [b"s%d" % number for number in range(OPEN_MAX + 10)]
            assert not views._open
            for number, entry in enumerate(listed):
                inside = [found.name for found in await tree.readdir(entry.attr.inode, 0, 1000)]
                assert sorted(inside) == sorted(b"f%d" % each for each in range(number + 1))
                assert len(views._open) <= OPEN_MAX
            views.close_all()

    trio.run(main)
