"""Quotas, full pools, and what df says: they agree."""

import os
from pathlib import Path

import pytest

from tests.filesystem.profile import fresh
from tests.mounted.harness import Mounted, mounted
from tests.mounted.people import outcome
from tests.real.places import small_file_system
from tools.sds import run

pytestmark = pytest.mark.real("mkfs.ext4", "fusermount3")
KIB, MIB = 1 << 10, 1 << 20
QUOTA = 32 * MIB


def sizes(mount: Mounted) -> tuple[int, int, int]:
    """Bytes in all, used, available, as df tells them."""
    facts = run("df", "--block-size=1", "--output=size,used,avail", mount.path).split()[-3:]
    size, used, available = map(int, facts)
    return size, used, available


def fill(path: Path) -> int:
    """Write until refused; how much went in."""
    written = 0
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                written += file.write(os.urandom(256 * KIB))
        except OSError as error:
            refusal = error
    assert refusal.errno is not None
    return written


@pytest.mark.parametrize("options", [(), ("writeback",)], ids=["default", "writeback"])
def test_a_quota_is_what_df_says_and_what_can_be_written(options: tuple[str, ...]) -> None:
    with mounted(*options) as mount:
        mount.sds("set", "tank/home", f"quota={QUOTA}")
        size, used, available = sizes(mount)
        assert size == QUOTA and used < 64 * KIB and size - used == available
        path = mount.path / "big"
        with path.open("wb", buffering=0) as file:
            file.write(os.urandom(10 * MIB))
            os.fsync(file.fileno())
        size, used, available = sizes(mount)
        assert size == QUOTA and 10 * MIB <= used < 10.5 * MIB
        path.unlink()
        assert sizes(mount)[1] < 64 * KIB


def test_beyond_the_quota_is_refused_and_what_is_there_can_be_changed_and_removed() -> None:
    with mounted() as mount:
        mount.sds("set", "tank/home", f"quota={QUOTA}")
        written = fill(mount.path / "full")
        assert 0.9 * QUOTA < written <= QUOTA
        refused = outcome(lambda: (mount.path / "another").write_bytes(os.urandom(MIB)))
        assert refused in ("EDQUOT", "ENOSPC")
        with (mount.path / "full").open("r+b", buffering=0) as file:
            content = os.pread(file.fileno(), MIB, MIB)
            assert len(content) == MIB
        (mount.path / "another").unlink(missing_ok=True)
        os.truncate(mount.path / "full", QUOTA // 2)
        (mount.path / "another").write_bytes(os.urandom(MIB))
        mount.sds("set", "tank/home", f"quota={2 * QUOTA}")
        assert 1.5 * QUOTA < fill(mount.path / "more") + QUOTA // 2 + MIB <= 2 * QUOTA
        for name in ("full", "more", "another"):
            (mount.path / name).unlink()
        assert sizes(mount)[1] < 64 * KIB


def test_sparse_files_cost_what_they_hold() -> None:
    with mounted() as mount:
        mount.sds("set", "tank/home", f"quota={QUOTA}")
        with (mount.path / "sparse").open("wb", buffering=0) as file:
            os.ftruncate(file.fileno(), 1 << 40)
            os.pwrite(file.fileno(), os.urandom(MIB), 1 << 39)
            os.fsync(file.fileno())
        assert MIB <= sizes(mount)[1] < 1.5 * MIB
        assert os.stat(mount.path / "sparse").st_blocks * 512 == MIB


def test_a_full_pool_refuses_writes_before_they_are_acknowledged_and_goes_on_when_there_is_room() -> None:
    with small_file_system("ext4", 160 * MIB) as disk, mounted(disk=disk / "pool") as mount:
        directory = fresh(mount.path)
        kept = os.urandom(MIB)
        (directory / "kept").write_bytes(kept)
        written = fill(directory / "full")
        assert 40 * MIB < written < 160 * MIB
        assert outcome(lambda: (directory / "another").write_bytes(os.urandom(4 * MIB))) == "ENOSPC"
        assert (directory / "kept").read_bytes() == kept
        assert sizes(mount)[2] < 32 * MIB
        assert len((directory / "full").read_bytes()) >= written
        for name in ("full", "another"):
            (directory / name).unlink(missing_ok=True)
        mount.stop()
        mount.sds("pool", "clean", "tank")
        mount.start()
        assert (directory / "kept").read_bytes() == kept
        assert sizes(mount)[2] > 40 * MIB
        (directory / "again").write_bytes(os.urandom(16 * MIB))


def test_statvfs_tells_names_blocks_and_inodes() -> None:
    with mounted() as mount:
        before = os.statvfs(mount.path)
        assert before.f_namemax == 255 and before.f_frsize == before.f_bsize == 4096
        assert before.f_bavail <= before.f_bfree <= before.f_blocks
        for number in range(100):
            (mount.path / str(number)).touch()
        after = os.statvfs(mount.path)
        assert (after.f_files - after.f_ffree) - (before.f_files - before.f_ffree) == 100
        backend = os.statvfs(mount.path.parent / "disk")
        assert after.f_bavail * after.f_frsize <= backend.f_bavail * backend.f_frsize
        assert after.f_bavail * after.f_frsize > 0.9 * backend.f_bavail * backend.f_frsize
