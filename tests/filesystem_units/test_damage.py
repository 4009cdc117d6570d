"""Damaged filesystems: what is read is right or an error of what is damaged; the rest works."""

import random
from collections.abc import Awaitable, Callable

import pytest
import trio

from sds.core.errors import SdsError
from sds.core.names import segment_name
from sds.dataset import tree
from sds.dataset.blockmap import INODE_SHIFT
from sds.dataset.dataset import Dataset
from sds.filesystem.attributes import DAMAGED, ROOT_INODE, Entry, Owner
from sds.filesystem.filesystem import Filesystem
from sds.filesystem.inodes import attr_key
from sds.filesystem.opening import open_filesystem
from tests.sim.effects import File
from tests.sim.test_damage import cut, damaged
from tests.sim.world import Shape, World

ME = Owner(0, 0)
FILES = 60
CONTENT = {b"file%02d" % n: random.Random(n).randbytes(9000 if n % 3 else 700) for n in range(FILES)}


async def make_files(world: World) -> None:
    world.catalog.create_dataset("home", "fs", 0)
    async with world.open("home") as dataset:
        filesystem = await open_filesystem(dataset, ME, seed=1)
        for name, content in CONTENT.items():
            inode = (await filesystem.create(ROOT_INODE, name, 0o644, ME)).inode
            await filesystem.write(inode, 0, content)
            await filesystem.release(inode)


async def broken_files(world: World) -> set[bytes]:
    """Names of files that cannot be read; all others have what was written to them."""
    broken = set()
    async with world.open("home") as dataset:
        filesystem = await open_filesystem(dataset, ME)
        for name, content in CONTENT.items():
            try:
                attr = await filesystem.lookup(ROOT_INODE, name)
                assert bytes(await filesystem.read(attr.inode, 0, 1 << 20)) == content
            except SdsError:
                broken.add(name)
                assert (await filesystem.path_of(attr.inode)).startswith("/")
    return broken


def flip(world: World, segment: int, offset: int) -> None:
    """Change one byte on the disk, as a bit that has rotted."""
    row = next(row for row in world.catalog.all_segments() if row.id == segment)
    name = segment_name(row.dataset, row.id, row.epoch)
    disk = world.disks[0]
    image = cut(disk._names[name].live, disk._names[name].live.size)
    page = bytearray(image.page(offset >> 12))
    page[offset & 4095] ^= 0x10
    image.pages[offset >> 12] = bytes(page)
    disk._names[name] = File.of(image)
    disk._durable_names = dict(disk._names)


def place(address: int) -> tuple[int, int]:
    """(segment, offset of the first byte of the payload)."""
    return address >> 24, ((address >> 5 & 0x7FFFF) << 6) + 64


async def address_of_block(dataset: Dataset, name: bytes) -> int:
    filesystem = Filesystem(dataset)
    inode = (await filesystem.lookup(ROOT_INODE, name)).inode
    return (await dataset.map.page(inode << INODE_SHIFT))[0]


async def address_of_leaf(dataset: Dataset, name: bytes) -> int:
    filesystem = Filesystem(dataset)
    wanted = attr_key((await filesystem.lookup(ROOT_INODE, name)).inode)
    async for address, node in tree.walk(dataset.nodes, await dataset.newest_root(), set()):
        if node.level == 0 and wanted in node.keys:
            return address
    raise AssertionError("the file is in no leaf")


async def damage_at(world: World, find: Callable[[Dataset, bytes], Awaitable[int]], name: bytes) -> None:
    async with world.open("home") as dataset:
        address = await find(dataset, name)
    flip(world, *place(address))


def test_a_damaged_block_is_an_error_of_that_file_only() -> None:
    async def main() -> set[bytes]:
        world = World.new(Shape())
        await make_files(world)
        await damage_at(world, address_of_block, b"file31")
        return await broken_files(world)

    assert trio.run(main) == {b"file31"}


def test_a_damaged_leaf_is_an_error_of_what_it_holds_and_the_rest_works() -> None:
    async def main() -> set[bytes]:
        world = World.new(Shape())
        await make_files(world)
        await damage_at(world, address_of_leaf, b"file31")
        return await broken_files(world)

    broken = trio.run(main)
    assert b"file31" in broken
    assert len(broken) < FILES // 2


def test_a_directory_with_damaged_files_in_it_can_be_listed() -> None:
    async def main() -> tuple[list[bytes], int]:
        world = World.new(Shape())
        await make_files(world)
        await damage_at(world, address_of_leaf, b"file31")
        async with world.open("home") as dataset:
            filesystem = await open_filesystem(dataset, ME)
            entries: list[Entry] = []
            while more := await filesystem.readdir(ROOT_INODE, entries[-1].cookie if entries else 0, 1000):
                entries += more
            return [entry.name for entry in entries], sum(bool(entry.attr.flags & DAMAGED) for entry in entries)

    names, damaged_count = trio.run(main)
    assert sorted(names) == sorted(CONTENT)
    assert damaged_count


@pytest.mark.parametrize("seed", range(40))
def test_no_damage_makes_a_file_read_as_what_it_is_not(seed: int) -> None:
    async def main() -> None:
        world = World.new(Shape())
        await make_files(world)
        rng = random.Random(seed)
        for _ in range(rng.randrange(1, 4)):
            damaged(world, rng, [0])
        try:
            await broken_files(world)
        except SdsError:
            return  # it cannot even be opened, and says so

    trio.run(main)
