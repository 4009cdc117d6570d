"""A volume as a directory with one file."""

import errno
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from fuse.rawfile import FILE_INODE, RawFile
from sds.filesystem.attributes import Changes, Owner
from tests.fuse.mounting import Mounted, mounted
from tests.nbd.memory_device import MemoryDevice

MIB = 1 << 20
OWNER = Owner(os.getuid(), os.getgid())
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Mounted]:
    with mounted(tmp_path, "raw", "--size", str(16 * MIB + 512)) as served:
        yield served


def failure(call: Callable[[], object]) -> int:
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno is not None
    return caught.value.errno


# -- on a device that makes every operation wait, too ------------------------------------------------------------------


@pytest.mark.parametrize("patience", [0, 2])
def test_reads_and_writes_reach_the_device_at_any_offset(patience: int) -> None:
    async def main() -> None:
        device = MemoryDevice(10_000, patience=patience)
        tree = RawFile(device, "vm1", OWNER)
        assert await tree.write(FILE_INODE, 4095, b"abc") == 3
        assert device.data[4095:4098] == b"abc"
        assert bytes(await tree.read(FILE_INODE, 4094, 5)) == b"\0abc\0"
        assert bytes(await tree.read(FILE_INODE, 9_999, 100)) == b"\0"
        assert bytes(await tree.read(FILE_INODE, 10_000, 100)) == b""
        assert bytes(await tree.read(FILE_INODE, 1 << 50, 100)) == b""

    trio.run(main)


def test_a_write_at_the_end_writes_what_fits_and_then_there_is_no_space() -> None:
    async def main() -> int:
        device = MemoryDevice(1000)
        tree = RawFile(device, "vm1", OWNER)
        assert await tree.write(FILE_INODE, 990, b"x" * 100) == 10
        assert device.data[990:] == b"x" * 10
        assert await tree.write(FILE_INODE, 1000, b"") == 0
        try:
            await tree.write(FILE_INODE, 1000, b"y")
        except OSError as error:
            return error.errno or 0
        return 0

    assert trio.run(main) == errno.ENOSPC


def test_a_snapshot_is_read_only() -> None:
    device = MemoryDevice(1000, read_only=True)
    tree = RawFile(device, "vm1", OWNER)

    async def number(call: Awaitable[Any]) -> int:
        try:
            await call
        except OSError as error:
            return error.errno or 0
        return 0

    assert trio.run(number, tree.write(FILE_INODE, 0, b"x")) == errno.EROFS
    assert trio.run(number, tree.setattr(FILE_INODE, Changes(mtime_ns=1))) == errno.EROFS
    assert trio.run(tree.getattr, FILE_INODE).mode & 0o777 == 0o400


# -- mounted -----------------------------------------------------------------------------------------------------------


@pytest.mark.real("fusermount3")
def test_the_directory_has_the_one_file(served: Mounted) -> None:
    assert os.listdir(served.path) == ["vm1.img"]
    assert (served.path / "vm1.img").stat().st_size == 16 * MIB + 512
    assert not (served.path / "other").exists()


@pytest.mark.real("fusermount3")
def test_nothing_can_be_made_removed_or_resized(served: Mounted) -> None:
    path, other = served.path / "vm1.img", served.path / "other"
    calls: list[Callable[[], object]] = [
        path.unlink,
        other.mkdir,
        lambda: other.write_bytes(b""),
        lambda: other.symlink_to("x"),
        lambda: path.rename(other),
        lambda: os.link(path, other),
        lambda: os.truncate(path, MIB),
        lambda: os.truncate(path, 32 * MIB),
        lambda: os.open(path, os.O_WRONLY | os.O_TRUNC),
        lambda: path.chmod(0o644),
    ]
    if os.geteuid() == 0:
        calls.append(lambda: os.chown(path, 1, 1))
    assert [failure(call) for call in calls] == [errno.EPERM] * len(calls)
    os.truncate(path, 16 * MIB + 512)
    os.utime(path, ns=(5, 7))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (16 * MIB + 512, 7)


@pytest.mark.real("fusermount3")
def test_dd_fills_it_to_the_last_byte_and_no_further(served: Mounted) -> None:
    path = served.path / "vm1.img"
    done = subprocess.run(
        ["dd", "if=/dev/urandom", f"of={path}", "bs=1M", "conv=notrunc"], capture_output=True, text=True, check=False
    )
    assert "No space left on device" in done.stderr
    assert f"{16 * MIB + 512} bytes" in done.stderr
    data = path.read_bytes()
    assert len(data) == 16 * MIB + 512
    assert data[-512:] != bytes(512)


@pytest.mark.real("fusermount3", "mkfs.ext4")
def test_a_filesystem_can_be_made_in_the_file(served: Mounted) -> None:
    path = served.path / "vm1.img"
    subprocess.run(["mkfs.ext4", "-q", "-F", str(path)], check=True, capture_output=True)
    subprocess.run(["e2fsck", "-fn", str(path)], check=True, capture_output=True)


@needs_root
@pytest.mark.skipif(not Path("/dev/loop-control").exists(), reason="no loop devices here")
@pytest.mark.real("fusermount3", "losetup", "mkfs.ext4")
def test_a_loop_device_works_on_it(served: Mounted, tmp_path: Path) -> None:
    path, target = served.path / "vm1.img", tmp_path / "ext4"
    target.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", str(path), "16M"], check=True, capture_output=True)
    data = os.urandom(2 * MIB)
    for _ in range(2):
        subprocess.run(["mount", "-o", "loop", str(path), str(target)], check=True)
        try:
            if not (target / "file").exists():
                (target / "file").write_bytes(data)
            assert (target / "file").read_bytes() == data
            assert shutil.disk_usage(target).free < 14 * MIB
        finally:
            subprocess.run(["umount", str(target)], check=True)
    subprocess.run(["e2fsck", "-fn", str(path)], check=True, capture_output=True)
