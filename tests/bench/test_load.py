"""What makes the load: the driver does what it counts, the tarball is the same each time and looks like sources."""

import hashlib
import tarfile
from pathlib import Path

import pytest

from bench import driver
from bench.fuse_jobs import FILES, JOBS, SMALL, Sizes
from bench.tree import LARGEST_BYTES, write_tarball


@pytest.fixture(autouse=True)
def _stay_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # the driver changes its directory


def test_the_driver_does_as_many_operations_as_it_says(tmp_path: Path) -> None:
    assert driver.run("create-1k", str(tmp_path), 50, 60)[0] == 50
    assert sorted(path.stat().st_size for path in tmp_path.iterdir()) == [1024] * 50

    assert driver.run("stat", str(tmp_path), 50, 60)[0] == 50
    assert driver.run("unlink", str(tmp_path), 50, 60)[0] == 50
    assert list(tmp_path.iterdir()) == []


def test_the_driver_ends_when_its_time_is_up(tmp_path: Path) -> None:
    operations, seconds = driver.run("create", str(tmp_path), 10_000, 0.0)

    assert operations == 16 == len(list(tmp_path.iterdir()))
    assert seconds > 0


def test_what_is_repeated_is_repeated_until_it_can_be_measured(tmp_path: Path) -> None:
    driver.run("create", str(tmp_path), 10, 60)

    operations, seconds = driver.run("stat-again", str(tmp_path), 10, 60)

    assert seconds > driver.SHORTEST_S and operations > 10


def test_the_tarball_is_made_from_its_seed(tmp_path: Path) -> None:
    digests = []
    for number, seed in enumerate((1, 1, 2)):
        path = tmp_path / f"{number}.tar"
        write_tarball(path, 200, seed)
        digests.append(hashlib.sha256(path.read_bytes()).hexdigest())

    assert digests[0] == digests[1] != digests[2]


def test_the_tarball_has_the_mix_of_a_source_tree(tmp_path: Path) -> None:
    entries = write_tarball(tmp_path / "tree.tar", 2000)

    with tarfile.open(tmp_path / "tree.tar") as tar:
        members = tar.getmembers()
    sizes = sorted(member.size for member in members if member.isreg())
    assert len(members) == entries == len({member.name for member in members})
    assert sum(member.isdir() for member in members) == 2000 // 12
    assert 5 < sum(member.issym() for member in members) < 50
    assert sizes[0] == 0 and 2000 < sizes[len(sizes) // 2] < 4000 and 30_000 < sizes[-1] <= LARGEST_BYTES


@pytest.mark.real("tar", "ls", "rm", "cp")
def test_metadata_jobs_make_what_they_need_and_leave_what_others_need(tmp_path: Path) -> None:
    """Each by itself, as with --only, and in a row."""
    tarball = tmp_path / "tree.tar"
    sizes = Sizes(60.0, 1 << 20, 1 << 20, 40, tarball, write_tarball(tarball, 60))
    jobs = [job for job in JOBS if job.on_tmpfs and not job.needs_root]

    for job in jobs:
        alone = tmp_path / f"alone-{job.name}"
        alone.mkdir()
        assert job.run(alone, sizes) > 0
    together = tmp_path / "together"
    together.mkdir()
    for job in jobs:
        assert job.run(together, sizes) > 0

    assert not any((together / FILES).iterdir()) and len(list((together / SMALL).iterdir())) == 40
    assert not (together / "tree").exists() and not (together / "copied").exists()
