"""Names on the filesystem itself, without a kernel that checks anything before."""

import errno
import stat

import pytest

from sds.filesystem.attributes import ROOT_INODE, Attr, Entry, Owner
from tests.filesystem.engine import Engine
from tests.filesystem.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE

ROOT = Owner(0, 0)
FILE = stat.S_IFREG | 0o644


def refused(engine: Engine, operation: str, *arguments: object) -> str:
    with pytest.raises(OSError) as refusal:
        engine.fs(operation, *arguments)
    return errno.errorcode[refusal.value.errno or 0]


def mkdir(engine: Engine, parent: int, name: bytes) -> Attr:
    attr = engine.fs("mkdir", parent, name, 0o755, ROOT)
    assert isinstance(attr, Attr)
    return attr


def mknod(engine: Engine, parent: int, name: bytes) -> Attr:
    attr = engine.fs("mknod", parent, name, FILE, 0, ROOT)
    assert isinstance(attr, Attr)
    return attr


def names(engine: Engine, inode: int) -> list[bytes]:
    return sorted(entry.name for entry in engine.fs("readdir", inode, 0, 1000))


def test_a_directory_does_not_go_below_itself_in_any_way(engine: Engine) -> None:
    a = mkdir(engine, ROOT_INODE, b"a")
    b = mkdir(engine, a.inode, b"b")
    c = mkdir(engine, b.inode, b"c")
    for flags in (0, RENAME_NOREPLACE):
        for below in (a, b, c):
            assert refused(engine, "rename", ROOT_INODE, b"a", below.inode, b"x", flags) == "EINVAL"
    assert refused(engine, "rename", ROOT_INODE, b"a", b.inode, b"c", RENAME_EXCHANGE) == "EINVAL"
    assert refused(engine, "rename", b.inode, b"c", ROOT_INODE, b"a", RENAME_EXCHANGE) == "EINVAL"
    assert refused(engine, "rename", b.inode, b"c", ROOT_INODE, b"a", 0) == "ENOTEMPTY"
    assert names(engine, ROOT_INODE) == [b"a"] and names(engine, b.inode) == [b"c"]


def test_types_and_content_are_respected_in_a_rename(engine: Engine) -> None:
    full, empty = mkdir(engine, ROOT_INODE, b"full"), mkdir(engine, ROOT_INODE, b"empty")
    mknod(engine, full.inode, b"x")
    mknod(engine, ROOT_INODE, b"file")
    assert refused(engine, "rename", ROOT_INODE, b"empty", ROOT_INODE, b"full", 0) == "ENOTEMPTY"
    assert refused(engine, "rename", ROOT_INODE, b"empty", ROOT_INODE, b"file", 0) == "ENOTDIR"
    assert refused(engine, "rename", ROOT_INODE, b"file", ROOT_INODE, b"empty", 0) == "EISDIR"
    assert refused(engine, "rename", ROOT_INODE, b"file", ROOT_INODE, b"empty", RENAME_NOREPLACE) == "EEXIST"
    assert refused(engine, "rename", ROOT_INODE, b"file", ROOT_INODE, b"none", RENAME_EXCHANGE) == "ENOENT"
    assert refused(engine, "rename", ROOT_INODE, b"none", ROOT_INODE, b"file", 0) == "ENOENT"
    assert refused(engine, "rename", ROOT_INODE, b"file", ROOT_INODE, b"x", 3) == "EINVAL"
    assert refused(engine, "rename", ROOT_INODE, b"file", ROOT_INODE, b"x", 1 << 4) == "EINVAL"
    engine.fs("rename", ROOT_INODE, b"full", ROOT_INODE, b"empty", 0)
    assert engine.fs("lookup", ROOT_INODE, b"empty").inode == full.inode
    assert engine.fs("getattr", empty.inode).nlink == 0
    engine.fs("forget", [empty.inode])


def test_other_operations_respect_types_too(engine: Engine) -> None:
    directory, file = mkdir(engine, ROOT_INODE, b"d"), mknod(engine, ROOT_INODE, b"f")
    assert refused(engine, "unlink", ROOT_INODE, b"d") == "EISDIR"
    assert refused(engine, "rmdir", ROOT_INODE, b"f") == "ENOTDIR"
    assert refused(engine, "link", directory.inode, ROOT_INODE, b"x") == "EPERM"
    assert refused(engine, "lookup", file.inode, b"x") == "ENOTDIR"
    assert refused(engine, "mknod", file.inode, b"x", FILE, 0, ROOT) == "ENOTDIR"
    assert refused(engine, "readdir", file.inode, 0, 10) == "ENOTDIR"
    assert refused(engine, "write", directory.inode, 0, b"x") == "EISDIR"
    assert refused(engine, "readlink", file.inode) == "EINVAL"
    assert refused(engine, "mkdir", ROOT_INODE, b"f", 0o755, ROOT) == "EEXIST"


@pytest.mark.parametrize("name", [b"n" * 256, b"", b".", b"..", b"a/b", b"a\0b"])
def test_what_cannot_be_a_name_is_refused_everywhere(engine: Engine, name: bytes) -> None:
    mknod(engine, ROOT_INODE, b"f")
    expected = ("ENAMETOOLONG",) if len(name) > 255 else ("EINVAL", "ENOENT", "EEXIST")
    inode = engine.fs("lookup", ROOT_INODE, b"f").inode
    for operation in (
        ("lookup", ROOT_INODE, name), ("mknod", ROOT_INODE, name, FILE, 0, ROOT),
        ("mkdir", ROOT_INODE, name, 0o755, ROOT), ("symlink", ROOT_INODE, name, b"t", ROOT),
        ("link", inode, ROOT_INODE, name), ("unlink", ROOT_INODE, name),
        ("rmdir", ROOT_INODE, name), ("rename", ROOT_INODE, b"f", ROOT_INODE, name, 0),
    ):  # fmt: skip
        assert refused(engine, operation[0], *operation[1:]) in expected, operation[0]
    assert names(engine, ROOT_INODE) == [b"f"]


def test_an_inode_that_does_not_exist_is_stale(engine: Engine) -> None:
    for operation in (("getattr", 999), ("read", 999, 0, 10), ("write", 999, 0, b"x"), ("lookup", 999, b"x")):
        assert refused(engine, operation[0], *operation[1:]) == "ESTALE"
    gone = mknod(engine, ROOT_INODE, b"f").inode
    engine.fs("unlink", ROOT_INODE, b"f")
    engine.fs("forget", [gone])
    assert refused(engine, "getattr", gone) == "ESTALE"
    assert mknod(engine, ROOT_INODE, b"f").inode != gone, "numbers are never used again"


def test_nothing_is_made_in_a_directory_that_was_removed(engine: Engine) -> None:
    directory = mkdir(engine, ROOT_INODE, b"d").inode
    mknod(engine, ROOT_INODE, b"f")
    engine.fs("rmdir", ROOT_INODE, b"d")
    assert refused(engine, "mknod", directory, b"x", FILE, 0, ROOT) == "ENOENT"
    assert refused(engine, "mkdir", directory, b"x", 0o755, ROOT) == "ENOENT"
    assert refused(engine, "rename", ROOT_INODE, b"f", directory, b"x", 0) == "ENOENT"
    assert names(engine, directory) == []
    engine.fs("forget", [directory])


def test_cookies_stay_true_in_a_directory_of_20_000_entries_that_changes(engine: Engine) -> None:
    directory = mkdir(engine, ROOT_INODE, b"d").inode
    count = 20_000

    async def make() -> None:
        for number in range(count):
            await engine.vfs.fs.mknod(directory, b"%d" % number, FILE, 0, ROOT)

    async def list_and_change() -> tuple[list[bytes], set[bytes]]:
        fs = engine.vfs.fs
        seen: list[bytes] = []
        deleted: set[bytes] = set()
        cookie = 0
        while entries := await fs.readdir(directory, cookie, 100):
            assert [entry.cookie for entry in entries] == sorted({entry.cookie for entry in entries})
            seen += [entry.name for entry in entries]
            cookie = entries[-1].cookie
            for entry in entries[::3]:
                other = b"%d" % (int(entry.name) * 7 % count) if entry.name.isdigit() else entry.name
                for victim in {entry.name, other} - deleted:
                    inode = (await fs.lookup(directory, victim)).inode
                    await fs.unlink(directory, victim)
                    await fs.forget([inode])
                    deleted.add(victim)
            await fs.mknod(directory, b"new %d" % len(seen), FILE, 0, ROOT)
        return seen, deleted

    engine.call(make)
    engine.checkpoint()
    seen, deleted = engine.call(list_and_change)
    assert len(seen) == len(set(seen)), "something was listed twice"
    there = {b"%d" % number for number in range(count)}
    assert there - deleted <= set(seen)
    assert len(deleted) > count // 3


def listed(engine: Engine, cookie: int) -> list[Entry]:
    """All entries of the root directory behind the cookie."""
    entries: list[Entry] = []
    while more := engine.fs("readdir", ROOT_INODE, entries[-1].cookie if entries else cookie, 1000):
        entries += more
    return entries


def test_cookies_are_the_same_after_a_reopen(engine: Engine) -> None:
    for number in range(300):
        mknod(engine, ROOT_INODE, b"%d" % number)
    before = listed(engine, 0)
    for end in (engine.checkpoint, engine.kill, engine.reopen):
        end()
        for at in (0, 1, 150, 298):
            rest = listed(engine, before[at].cookie)
            assert [(entry.name, entry.cookie) for entry in rest] == [
                (entry.name, entry.cookie) for entry in before[at + 1 :]
            ]
        assert engine.fs("readdir", ROOT_INODE, before[-1].cookie, 10) == []
