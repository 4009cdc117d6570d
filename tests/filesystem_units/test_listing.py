"""Listing directories that are larger than what fits into memory at once."""

import pytest
import trio

from sds.dataset import nodes
from sds.filesystem.attributes import ROOT_INODE, Owner
from sds.filesystem.opening import open_filesystem
from tests.sim.world import Shape, World

ME = Owner(0, 0)
FILES = 3000


def test_a_listing_that_is_asked_for_in_one_piece_ends_though_its_inodes_do_not_fit_into_the_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some callers have the kernel ask for a MiB of entries; their attributes lie in thousands of nodes."""
    monkeypatch.setattr(nodes, "NODES_MAX", 30)

    async def main() -> list[bytes]:
        world = World.new(Shape(segment_size=1 << 20))
        world.catalog.create_dataset("home", "fs", 0)
        async with world.open("home") as dataset:
            filesystem = await open_filesystem(dataset, ME, seed=1)
            for number in range(FILES):
                await filesystem.mknod(ROOT_INODE, b"%08d" % number, 0o100644, 0, ME)
                for other in range(4):  # so that few attributes share a leaf
                    await filesystem.setxattr(2 + number, b"user.%d" % other, bytes(500))
        names, cookie = [], 0
        async with world.open("home") as dataset:
            filesystem = await open_filesystem(dataset, ME)
            with trio.fail_after(60):
                while entries := await filesystem.readdir(ROOT_INODE, cookie, 1 << 20):
                    names += [entry.name for entry in entries]
                    cookie = entries[-1].cookie
        return names

    assert sorted(trio.run(main)) == [b"%08d" % number for number in range(FILES)]
