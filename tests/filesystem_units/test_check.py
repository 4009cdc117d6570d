"""The check of a filesystem: silent about every sound one, and not about any damage."""

import random
import stat
import struct
from collections.abc import Callable

import pytest

from sds.core.keys import ATTR, DATASET_INODE, SYMLINK, XATTR, key
from sds.dataset.blockmap import INODE_SHIFT
from sds.filesystem.acl import ACL_ACCESS, ACL_DEFAULT, AclEntry, encode_acl
from sds.filesystem.attributes import CAPABILITY, ROOT_INODE, XATTRS, decode_attr, encode_attr
from sds.filesystem.attributes import INLINE as INLINE_FLAG
from sds.filesystem.check import PROBLEMS_MAX, check_tree
from sds.filesystem.entries import Link, encode_links, entry_key, hash_of
from sds.filesystem.filesystem import Filesystem
from sds.filesystem.inodes import (
    COUNTERS_KEY,
    SEED_KEY,
    attr_key,
    inline_key,
    orphan_key,
    store_chunks,
    symlink_prefix,
    xattr_prefix,
)
from tests.filesystem_units.home import NAME, ROOT, Worker, file, home, new_world, run, view_at
from tests.sim.world import World

SEED = 7


@pytest.mark.parametrize("seed", range(4))
def test_whatever_was_done_there_are_no_problems(seed: int) -> None:
    """In memory, in the tree, in snapshots, after closing and after a crash."""

    async def body() -> None:
        async with home(world) as fs:
            worker = Worker(fs, seed)
            for round_ in range(10):
                await worker.work(100)
                assert await check_tree(fs, reads_tails=True) == []
                if round_ % 3 == 0:
                    await fs.dataset.snapshot(f"s{round_}")
                    await worker.work(20)
                    await fs.dataset.checkpoint()
                    assert await check_tree(fs, reads_tails=True) == []
            assert worker.done > 300
            for row in world.catalog.snapshots(fs.dataset.row.id):
                assert row.root is not None
                with view_at(fs.dataset, row.root) as view:
                    assert await check_tree(view, reads_tails=True) == []
            crashed.append(world.kill())
            crashed.extend(world.power_cuts(3, random.Random(seed)))
        async with home(world) as fs:
            assert await check_tree(fs, reads_tails=True) == []
        for other in crashed:
            async with home(other) as fs:
                assert await check_tree(fs, reads_tails=True) == []
            other.close()

    world = new_world()
    crashed: list[World] = []
    run(body, seed)
    world.close()


def test_directories_that_were_removed_with_what_they_were_in_are_no_problem() -> None:
    """While somebody is still in them."""

    async def body() -> None:
        async with home(new_world()) as fs:
            d = (await fs.mkdir(ROOT_INODE, b"d", 0o755, ROOT)).inode
            sub = (await fs.mkdir(d, b"sub", 0o755, ROOT)).inode
            await fs.rmdir(d, b"sub")
            await fs.rmdir(ROOT_INODE, b"d")
            await fs.forget([d])
            assert (await fs.getattr(sub)).parent == d
            assert await check_tree(fs) == []

    run(body)


def test_what_was_deleted_and_is_still_in_the_tree_is_no_problem() -> None:
    """The next checkpoint takes it away."""

    async def body() -> None:
        async with home(new_world()) as fs:
            inode = (await file(fs, ROOT_INODE, b"file", bytes(range(256)) * 40)).inode
            await fs.dataset.checkpoint()
            await fs.unlink(ROOT_INODE, b"file")
            await fs.forget([inode])
            assert await check_tree(fs) == []
            await fs.dataset.checkpoint()
            assert await check_tree(fs) == []

    run(body)


def test_a_dataset_that_never_was_a_filesystem_has_no_root() -> None:
    async def body() -> None:
        async with new_world().open(NAME) as dataset:
            with view_at(dataset, 0) as view:
                found = await check_tree(view)
        assert "there is no root directory" in found

    run(body)


# What `populate` makes, in this order.
SMALL, BIG, LINK, D, SUB, TWICE, ATTRIBUTED, ORPHANED, HIGHEST = range(2, 11)

FAR = 140 << 12


async def populate(fs: Filesystem) -> None:
    small = await file(fs, ROOT_INODE, b"small", b"contents")
    big = await file(fs, ROOT_INODE, b"big", bytes(range(256)) * 40)
    await fs.write(big.inode, FAR, b"in the second map page")
    link = await fs.symlink(ROOT_INODE, b"link", b"t" * 3000, ROOT)
    d = await fs.mkdir(ROOT_INODE, b"d", 0o755, ROOT)
    users = (AclEntry(2, 7, number) for number in range(300))
    long_acl = AclEntry(1, 7), *users, AclEntry(4, 5), AclEntry(16, 7), AclEntry(32, 5)
    await fs.setxattr(d.inode, ACL_DEFAULT, encode_acl(long_acl))
    await fs.setxattr(d.inode, ACL_ACCESS, encode_acl(long_acl))
    sub = await fs.mkdir(d.inode, b"sub", 0o755, ROOT)
    await fs.setxattr(sub.inode, ACL_DEFAULT, encode_acl((AclEntry(1, 7), AclEntry(4, 5), AclEntry(32, 5))))
    twice = await file(fs, d.inode, b"twice")
    await fs.link(twice.inode, sub.inode, b"again")
    attributed = await file(fs, sub.inode, b"attributed")
    await fs.setxattr(attributed.inode, b"user.long", bytes(5000))
    await fs.setxattr(attributed.inode, b"security.capability", b"c")
    entries = AclEntry(1, 6), AclEntry(2, 7, 1000), AclEntry(4, 4), AclEntry(16, 4), AclEntry(32, 0)
    await fs.setxattr(attributed.inode, ACL_ACCESS, encode_acl(entries))
    orphaned = await file(fs, d.inode, b"orphaned", bytes(5000))
    await fs.open(orphaned.inode)
    await fs.unlink(d.inode, b"orphaned")
    highest = await file(fs, ROOT_INODE, b"highest")
    made = [attr.inode for attr in (small, big, link, d, sub, twice, attributed, orphaned, highest)]
    assert made == [SMALL, BIG, LINK, D, SUB, TWICE, ATTRIBUTED, ORPHANED, HIGHEST]


Damage = Callable[[Filesystem], None]


def attr(inode: int, **changes: int) -> Damage:
    """Other attributes."""

    def damage(fs: Filesystem) -> None:
        value = fs.items.get(attr_key(inode))
        assert value is not None
        fs.items.put(attr_key(inode), encode_attr(decode_attr(inode, value)._replace(**changes)))

    return damage


def gone(name: bytes) -> Damage:
    return lambda fs: fs.items.delete(name)


def there(name: bytes, value: bytes) -> Damage:
    return lambda fs: fs.items.put(name, value)


def entry(directory: int, name: bytes, *links: Link) -> Damage:
    """The group of this name is these links now."""
    place = entry_key(directory, hash_of(name, SEED))
    return there(place, encode_links(links)) if links else gone(place)


def target(value: bytes) -> Damage:
    return lambda fs: store_chunks(fs.items, symlink_prefix(LINK), value)


def xattr(inode: int, name: bytes, value: bytes) -> Damage:
    return lambda fs: store_chunks(fs.items, xattr_prefix(inode, name), value)


def xattr_chunk(inode: int, name: bytes, number: int, value: bytes) -> Damage:
    return there(xattr_prefix(inode, name) + bytes((number,)), value)


def both(one: Damage, other: Damage) -> Damage:
    def damage(fs: Filesystem) -> None:
        one(fs)
        other(fs)

    return damage


def blocks_beyond_the_end(fs: Filesystem) -> None:
    attr(BIG, size_bytes=100)(fs)


def lost_blocks(fs: Filesystem) -> None:
    fs.map.punch(BIG, 0, 1)


def blocks_of_nobody(fs: Filesystem) -> None:
    fs.map.pages[99 << INODE_SHIFT] = fs.map.pages[BIG << INODE_SHIFT][:]
    fs.map.writable(99 << INODE_SHIFT)


REGULAR, DIRECTORY = stat.S_IFREG >> 12, stat.S_IFDIR >> 12
DAMAGES: list[tuple[Damage, list[str]]] = [
    (gone(attr_key(SMALL)), [
        "inode 2: contents, but no attributes",
        "directory 1: b'small' leads to inode 2, which does not exist",
        "there are 9 inodes, the counters say 10",
    ]),
    (there(attr_key(SMALL), b"x"), [
        "inode 2: the attributes of inode 2 are damaged (1 bytes, version 78); restore it from a snapshot or a backup",
        "directory 1: b'small' leads to inode 2, which does not exist",
        "there are 9 inodes, the counters say 10",
    ]),
    (there(key(77, XATTR, b"user.x\0\0"), b""), ["inode 77: extended attributes, but no attributes"]),
    (there(key(SMALL, 9), b""), [
        "inode 2: an item of kind 9 that nobody writes ()",
        "inode 2: kind 9, but it is a file",
    ]),
    (there(key(DATASET_INODE, ATTR), b""), ["the dataset: an item of kind 1 that nobody writes ()"]),
    (attr(SMALL, flags=0), ["inode 2: the INLINE flag is False, but there are contents"]),
    (gone(inline_key(SMALL)), ["inode 2: the INLINE flag is True, but there are no contents"]),
    (there(inline_key(SMALL), b"longer contents"), ["inode 2: 15 bytes inline and 0 blocks, but its size is 8"]),
    (there(inline_key(BIG), b"contents"), ["inode 3: the INLINE flag is False, but there are contents"]),
    (there(inline_key(D), b"contents"), [
        "inode 5: contents, but it is a directory",
        "inode 5: the INLINE flag is False, but there are contents",
    ]),
    (gone(key(LINK, SYMLINK, b"\1")), ["inode 4: a target of 2048 bytes, but its size is 3000"]),
    (gone(key(LINK, SYMLINK, b"\0")), [
        "inode 4: chunk 1 of 952 bytes after chunks of [] bytes",
        "inode 4: a target of 952 bytes, but its size is 3000",
    ]),
    (both(target(b""), attr(LINK, size_bytes=0)), ["inode 4: a target of 0 bytes, but its size is 0"]),
    (both(target(b"t" * 5000), attr(LINK, size_bytes=5000)), ["inode 4: a target of 5000 bytes, but its size is 5000"]),
    (both(there(key(LINK, SYMLINK, b"\0"), b"t" * 2049), attr(LINK, size_bytes=3001)), [
        "inode 4: chunk 0 of 2049 bytes after chunks of [] bytes",
        "inode 4: chunk 1 of 952 bytes after chunks of [2049] bytes",
    ]),
    (attr(LINK, size_bytes=2999), ["inode 4: a target of 3000 bytes, but its size is 2999"]),
    (attr(SMALL, mode=stat.S_IFIFO | 0o644), [
        "inode 2: contents, but it is a fifo",
        "directory 1: b'small' leads to a file, but 2 is a fifo",
    ]),
    (attr(ROOT_INODE, mode=stat.S_IFREG | 0o644), [
        "inode 1: entries, but it is a file",
        "inode 1: the root is not a directory, but a file",
        "inode 1: nlink is 3, should be 0",
        "inode 2: lost, no name leads to it (nlink 1)",
        "inode 3: lost, no name leads to it (nlink 1)",
        "inode 4: lost, no name leads to it (nlink 1)",
        "inode 5: lost, no name leads to it (nlink 3)",
        "inode 10: lost, no name leads to it (nlink 1)",
    ]),
    (attr(ATTRIBUTED, flags=CAPABILITY), [
        "inode 8: extended attributes that nobody finds, for the XATTRS flag is not set",
    ]),
    (attr(ATTRIBUTED, flags=XATTRS), ["inode 8: the CAPABILITY flag is False, which is wrong"]),
    (attr(SMALL, flags=INLINE_FLAG | CAPABILITY), ["inode 2: the CAPABILITY flag is True, which is wrong"]),
    (gone(xattr_prefix(ATTRIBUTED, b"user.long") + b"\1"), [
        "inode 8: chunk 2 of 904 bytes after chunks of [2048] bytes",
    ]),
    (both(xattr(ATTRIBUTED, b"user.x", bytes(2048)), xattr_chunk(ATTRIBUTED, b"user.x", 1, b"")), [
        "inode 8: chunk 1 of 0 bytes after chunks of [2048] bytes",
    ]),
    (attr(ATTRIBUTED, mode=stat.S_IFREG | 0o600), [
        "inode 8: system.posix_acl_access implies the mode 640, but it is 600",
    ]),
    (xattr(ATTRIBUTED, b"user." + b"n" * 251, b""), ["inode 8: an extended attribute of 256 + 0 bytes"]),
    (xattr(ATTRIBUTED, b"user.", bytes(65537)), ["inode 8: an extended attribute of 5 + 65537 bytes"]),
    (xattr(ATTRIBUTED, ACL_ACCESS, encode_acl((AclEntry(1, 6), AclEntry(4, 4), AclEntry(32, 0)))), [
        "inode 8: system.posix_acl_access is kept, but the mode says it all",
    ]),
    (both(attr(LINK, flags=XATTRS), xattr(LINK, ACL_ACCESS, b"x")), [
        "inode 4: system.posix_acl_access of a symlink",
        "inode 4: system.posix_acl_access is damaged (Invalid argument)",
    ]),
    (there(xattr_prefix(ATTRIBUTED, ACL_ACCESS) + b"\0", b"x"), [
        "inode 8: system.posix_acl_access is damaged (Invalid argument)",
    ]),
    (there(xattr_prefix(ATTRIBUTED, ACL_DEFAULT) + b"\0", encode_acl(())), [
        "inode 8: system.posix_acl_default of a file",
        "inode 8: system.posix_acl_default is damaged (Invalid argument)",
    ]),
    (blocks_beyond_the_end, [
        "inode 3: 2 blocks of map page 0 lie beyond its end",
        "inode 3: 1 blocks of map page 1 lie beyond its end",
        "inode 3: its last block is not zeros behind its end, 100 bytes",
    ]),
    (lost_blocks, ["inode 3: 3 blocks are mapped, its attributes say 4"]),
    (blocks_of_nobody, [
        "inode 99: 3 blocks, but no attributes",
        "9 blocks are mapped, the dataset says 6",
    ]),
    (attr(BIG, size_bytes=FAR - 5), ["inode 3: 1 blocks of map page 1 lie beyond its end"]),
    (attr(BIG, size_bytes=FAR + 5), ["inode 3: its last block is not zeros behind its end, 573445 bytes"]),
    (attr(SMALL, blocks=1), [
        "inode 2: 8 bytes inline and 1 blocks, but its size is 8",
        "inode 2: 0 blocks are mapped, its attributes say 1",
    ]),
    (entry(ROOT_INODE, b"small"), ["inode 2: lost, no name leads to it (nlink 1)"]),
    (entry(D, b"sub"), [
        "inode 5: nlink is 3, should be 2",
        "inode 6: lost, no name leads to it (nlink 2)",
    ]),
    (entry(ROOT_INODE, b"small", Link(99, REGULAR, b"small")), [
        "directory 1: b'small' leads to inode 99, which does not exist",
        "inode 2: lost, no name leads to it (nlink 1)",
    ]),
    (entry(ROOT_INODE, b"small", Link(SMALL, DIRECTORY, b"small")), [
        "directory 1: b'small' leads to a directory, but 2 is a file",
    ]),
    (entry(ROOT_INODE, b"small", Link(SMALL, REGULAR, b"other")), [
        "directory 1: nobody finds b'other', for it is stored under a wrong hash",
    ]),
    (entry(ROOT_INODE, b"small", Link(SMALL, REGULAR, b"small"), Link(BIG, REGULAR, b"small", 1)), [
        "directory 1: [b'small', b'small'] are not told apart",
        "inode 3: nlink is 1, should be 2",
    ]),
    (entry(D, b"x", Link(ORPHANED, REGULAR, b"x"), Link(TWICE, REGULAR, b"y")), [
        "directory 5: [b'x', b'y'] are not told apart",
        "directory 5: nobody finds b'y', for it is stored under a wrong hash",
        "inode 7: nlink is 2, should be 3",
        "inode 9: nlink is 0, should be 1",
    ]),
    (entry(ROOT_INODE, b"a/b", Link(SMALL, REGULAR, b"a/b")), [
        "directory 1: b'a/b' cannot be a name",
        "inode 2: nlink is 1, should be 2",
    ]),
    (there(entry_key(D, 5), b"garbage"), [
        "an entry of directory 5 is damaged; restore it from a snapshot or a backup",
    ]),
    (entry(SUB, b"root", Link(ROOT_INODE, DIRECTORY, b"root")), [
        "directory 6: b'root' leads to the root",
        "inode 6: nlink is 2, should be 3",
    ]),
    (entry(ROOT_INODE, b"sub", Link(SUB, DIRECTORY, b"sub")), [
        "directory 1: b'sub' leads to directory 6, whose parent is 5",
        "inode 1: nlink is 3, should be 4",
        "directory 6: 2 names lead to it",
    ]),
    (entry(SMALL, b"x", Link(BIG, REGULAR, b"x")), ["inode 2: entries, but it is a file"]),
    (both(entry(ROOT_INODE, b"d"), both(entry(SUB, b"d", Link(D, DIRECTORY, b"d")), attr(D, parent=SUB))), [
        "inode 1: nlink is 3, should be 2",
        "inode 6: nlink is 2, should be 3",
        "directory 5: its parents do not lead to the root",
    ]),
    (attr(SUB, parent=ROOT_INODE), ["directory 5: b'sub' leads to directory 6, whose parent is 1"]),
    (attr(D, nlink=2), ["inode 5: nlink is 2, should be 3"]),
    (attr(D, nlink=0), [
        "directory 5: removed, but there are entries in it",
        "inode 5: nlink is 0, should be 3",
        "inode 5: nlink is 0, but it is not marked as an orphan",
    ]),
    (attr(TWICE, nlink=3), ["inode 7: nlink is 3, should be 2"]),
    (gone(orphan_key(ORPHANED)), ["inode 9: nlink is 0, but it is not marked as an orphan"]),
    (there(orphan_key(SMALL), b""), ["inode 2: nlink is 1, but it is marked as an orphan"]),
    (there(orphan_key(99), b""), ["orphan 99 does not exist"]),
    (there(COUNTERS_KEY, struct.pack("<QQ", HIGHEST + 1, 9)), ["there are 10 inodes, the counters say 9"]),
    (there(COUNTERS_KEY, struct.pack("<QQ", HIGHEST, HIGHEST)), [
        "the next inode would be 10, but there is 10 already",
    ]),
    (gone(COUNTERS_KEY), ["the filesystem's counters are damaged; restore it from a snapshot or a backup"]),
    (there(SEED_KEY, b"1234"), ["the seed of the hash of names is damaged"]),
]


@pytest.mark.parametrize("number", range(len(DAMAGES)))
def test_every_damage_is_told_and_nothing_else(number: int) -> None:
    async def body() -> None:
        async with home(new_world()) as fs:
            await populate(fs)
            assert await check_tree(fs, reads_tails=True) == []
            if number % 2:
                await fs.dataset.checkpoint()
            damage, expected = DAMAGES[number]
            damage(fs)
            assert await check_tree(fs, reads_tails=True) == expected

    run(body)


def test_a_flood_of_problems_is_counted_and_not_kept() -> None:
    async def body() -> None:
        async with home(new_world()) as fs:
            for number in range(PROBLEMS_MAX + 7):
                fs.items.put(orphan_key(1000 + number), b"")
            found = await check_tree(fs)
            assert len(found) == PROBLEMS_MAX + 1
            assert found[-1] == "and 7 more problems"

    run(body)
