"""Inodes without names: as long as they are open or known, and not a moment longer than the worker that had them."""

import errno
import os
import stat

import pytest

from sds.filesystem.attributes import ROOT_INODE, Changes, Owner
from tests.filesystem.engine import Engine

ROOT = Owner(0, 0)
RW = os.O_RDWR | os.O_CREAT


def inodes_used(engine: Engine) -> int:
    facts = engine.fs("statfs")
    return int(facts.inodes - facts.inodes_free)


@pytest.mark.parametrize("end", ["kill", "reopen", "checkpoint and kill"])
def test_what_was_unlinked_and_open_is_gone_after_the_worker(engine: Engine, end: str) -> None:
    before = inodes_used(engine)
    for number in range(3):
        assert engine.run("open", number, b"f%d" % number, RW, 0o644) == "open"
        assert engine.run("write", number, 0, bytes([number + 1]) * 50_000) == 50_000
    assert engine.run("unlink", b"f0") is None
    assert engine.run("rename", b"f1", b"f2", 0) is None
    assert engine.run("mkdir", b"d", 0o755) is None
    directory = engine.fs("lookup", ROOT_INODE, b"d").inode
    engine.fs("open", directory)
    engine.fs("rmdir", ROOT_INODE, b"d")
    lost = [engine.vfs.handles[number].inode for number in (0, 2)] + [directory]
    assert inodes_used(engine) == before + 4
    if end == "checkpoint and kill":
        engine.checkpoint()
    engine.vfs.handles.clear()
    engine.reopen() if end == "reopen" else engine.kill()
    for inode in lost:
        with pytest.raises(OSError) as refusal:
            engine.fs("getattr", inode)
        assert refusal.value.errno == errno.ESTALE
    assert inodes_used(engine) == before + 1
    assert engine.problems() == []
    assert engine.run("open", 0, b"f2", os.O_RDWR, 0) == "open"
    assert engine.run("read", 0, 0, 50_001) == bytes([2]) * 50_000


def test_an_unlinked_file_is_whole_until_the_last_one_closes_it(engine: Engine) -> None:
    inode = engine.fs("create", ROOT_INODE, b"f", stat.S_IFREG | 0o644, ROOT).inode
    engine.fs("open", inode)
    engine.fs("unlink", ROOT_INODE, b"f")
    engine.fs("release", inode)
    engine.fs("write", inode, 100_000, b"end")
    engine.fs("setattr", inode, Changes(size_bytes=100_002))
    engine.fs("setxattr", inode, b"user.a", b"1")
    engine.checkpoint()
    assert bytes(engine.fs("read", inode, 99_999, 10)) == b"\0en"
    assert engine.problems() == []
    engine.fs("forget", [inode])
    assert engine.fs("getattr", inode).size_bytes == 100_002, "it is still open"
    engine.fs("release", inode)
    with pytest.raises(OSError):
        engine.fs("getattr", inode)


def test_a_file_that_is_known_and_not_open_waits_for_the_kernel_to_forget_it(engine: Engine) -> None:
    """Between unlink and forget the kernel may open it again (by /proc, by a handle)."""
    inode = engine.fs("mknod", ROOT_INODE, b"f", stat.S_IFREG | 0o644, 0, ROOT).inode
    engine.fs("write", inode, 0, b"content")
    engine.fs("unlink", ROOT_INODE, b"f")
    engine.fs("open", inode)
    assert bytes(engine.fs("read", inode, 0, 10)) == b"content"
    engine.fs("release", inode)
    assert engine.fs("getattr", inode).nlink == 0
    engine.fs("forget", [inode])
    with pytest.raises(OSError):
        engine.fs("getattr", inode)


def test_large_files_that_were_unlinked_give_their_room_back(engine: Engine) -> None:
    before = engine.fs("statfs").blocks_free
    inode = engine.fs("create", ROOT_INODE, b"f", stat.S_IFREG | 0o644, ROOT).inode
    for at in range(0, 2 << 20, 64 << 10):
        engine.fs("write", inode, at, os.urandom(64 << 10))
    engine.fs("unlink", ROOT_INODE, b"f")
    engine.fs("release", inode)
    engine.fs("forget", [inode])
    assert engine.dataset.map.mapped_blocks == 0
    engine.checkpoint()
    assert engine.fs("statfs").blocks_free <= before
    assert engine.problems() == []
