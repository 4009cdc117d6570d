"""Contents on the filesystem itself: far offsets, the border of what is stored inline, xattrs, and no more room."""

import errno
import os
import random
import stat
from collections.abc import Iterator

import pytest

from sds.filesystem.attributes import FILE_SIZE_MAX, ROOT_INODE, Changes, Owner
from tests.filesystem.engine import Engine
from tests.sim.world import SEGMENT_SIZE, Shape

ROOT = Owner(0, 0)
FILE = stat.S_IFREG | 0o644


def make(engine: Engine, name: bytes = b"f") -> int:
    return int(engine.fs("mknod", ROOT_INODE, name, FILE, 0, ROOT).inode)


@pytest.fixture
def roomy() -> Iterator[Engine]:
    """In segments that hold any operation."""
    engine = Engine(Shape(segment_size=1 << 20))
    try:
        yield engine
        assert engine.problems() == []
    finally:
        engine.close()


def read(engine: Engine, inode: int, offset: int, length: int) -> bytes:
    return bytes(engine.fs("read", inode, offset, length))


@pytest.mark.parametrize("end", [1, 4096, (1 << 32) + 7, (1 << 52) + 1, FILE_SIZE_MAX])
def test_bytes_far_away_are_found_again(engine: Engine, end: int) -> None:
    inode = make(engine)
    engine.fs("write", inode, end - 1, b"!")
    assert engine.fs("getattr", inode).size_bytes == end
    for between in (engine.checkpoint, engine.kill, engine.reopen):
        between()
        assert read(engine, inode, max(0, end - 5), 100) == b"!".rjust(min(end, 5), b"\0")
        assert read(engine, inode, end // 2, 4) == (b"\0" * 4 if end > 10 else b"!"[: end - end // 2])
    engine.fs("setattr", inode, Changes(size_bytes=0))
    assert engine.fs("getattr", inode).blocks == 0
    assert engine.dataset.map.mapped_blocks == 0


def test_nothing_lies_beyond_the_largest_offset(engine: Engine) -> None:
    inode = make(engine)
    for call in (("write", inode, FILE_SIZE_MAX, b"x"), ("setattr", inode, Changes(size_bytes=FILE_SIZE_MAX + 1))):
        with pytest.raises(OSError) as refusal:
            engine.fs(call[0], *call[1:])
        assert refusal.value.errno == errno.EFBIG
    assert engine.fs("getattr", inode).size_bytes == 0


def test_a_file_stays_the_same_across_every_size_that_may_change_how_it_is_stored(engine: Engine) -> None:
    """Up and down over the border between inline and blocks, with a kill after each step."""
    rng = random.Random(1)
    inode, model = make(engine), bytearray()
    for size in (1, 100, 2047, 2048, 2049, 4095, 4096, 4097, 3000, 10_000, 50, 0, 5000, 4096, 1, 1 << 20, 10):
        if size > len(model) and rng.random() < 0.6:
            data = rng.randbytes(rng.randint(1, min(size - len(model), 60_000)))
            engine.fs("write", inode, size - len(data), data)
            model += bytes(size - len(data) - len(model)) + data
        else:
            engine.fs("setattr", inode, Changes(size_bytes=size))
            model = (model + bytes(size))[:size]
        assert read(engine, inode, 0, 2 << 20) == model, size
        if rng.random() < 0.5:
            engine.checkpoint()
        engine.kill()
        assert read(engine, inode, 0, 2 << 20) == model, f"{size} after a kill"
        assert engine.problems() == [], size


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 20_000, 1 << 16])
def test_xattrs_of_any_size_come_back(roomy: Engine, size: int) -> None:
    engine, inode, value = roomy, make(roomy), os.urandom(size)
    names = [b"user.a", b"user." + b"n" * 250, b"trusted.\xff\xfe"]
    for name in names:
        engine.fs("setxattr", inode, name, value)
    engine.kill()
    assert sorted(engine.fs("listxattr", inode)) == sorted(names)
    assert all(bytes(engine.fs("getxattr", inode, name)) == value for name in names)
    engine.fs("setxattr", inode, names[0], b"small")
    engine.fs("removexattr", inode, names[1])
    engine.reopen()
    assert sorted(engine.fs("listxattr", inode)) == sorted((names[0], names[2]))
    assert bytes(engine.fs("getxattr", inode, names[0])) == b"small"
    assert bytes(engine.fs("getxattr", inode, names[2])) == value
    for operation in ("getxattr", "removexattr"):
        assert engine.outcome(operation, inode, names[1]) == "ENODATA"


def test_an_xattr_that_no_segment_holds_is_refused_and_changes_nothing(engine: Engine) -> None:
    inode = make(engine)
    engine.fs("setxattr", inode, b"user.a", b"before")
    assert engine.outcome("setxattr", inode, b"user.a", os.urandom(1 << 16)) == "E2BIG"
    assert bytes(engine.fs("getxattr", inode, b"user.a")) == b"before"
    assert engine.outcome("write", inode, 0, b"goes on") == 7


def test_beyond_the_quota_nothing_is_changed_and_removing_makes_room() -> None:
    engine = Engine(properties={"quota": str(1 << 20)})
    try:
        inode, other = make(engine), make(engine, b"other")
        data = os.urandom(64 << 10)
        written = 0
        while (refusal := engine.outcome("write", inode, written, data)) == len(data):
            written += len(data)
        assert refusal == "EDQUOT"
        assert (1 << 20) - 2 * len(data) < written < 1 << 20
        facts = engine.fs("statfs")
        assert facts.blocks * facts.block_size == 1 << 20
        assert facts.blocks_free * facts.block_size < len(data)
        size = engine.fs("getattr", inode).size_bytes
        assert written <= size < written + len(data)
        assert read(engine, inode, 0, written) == data * (written // len(data))
        engine.fs("setattr", inode, Changes(size_bytes=written // 2))
        engine.fs("write", other, 0, data)
        assert engine.problems() == []
    finally:
        engine.close()


def test_a_full_pool_refuses_and_stays_whole_and_takes_deletions() -> None:
    engine = Engine(Shape(capacity_bytes=40 * SEGMENT_SIZE))
    try:
        kept = make(engine, b"kept")
        engine.fs("write", kept, 0, b"kept" * 1000)
        number = 0
        while engine.run("open", 0, b"%d" % number, os.O_RDWR | os.O_CREAT, 0o644) == "open":
            if engine.run("write", 0, 0, os.urandom(30_000)) != 30_000:
                break
            number += 1
        assert engine.run("write", 0, 0, os.urandom(30_000)) == "ENOSPC"
        assert number > 20
        engine.close_all()
        assert read(engine, kept, 0, 5000) == b"kept" * 1000
        assert engine.problems() == []
        for each in range(number):
            assert engine.run("unlink", b"%d" % each) is None
        engine.kill()
        assert read(engine, kept, 0, 5000) == b"kept" * 1000
        assert engine.problems() == []
    finally:
        engine.close()
