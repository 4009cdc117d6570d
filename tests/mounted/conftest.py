"""What the tests of mounts share: a known filesystem beside ours, and a directory of one's own on each."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.filesystem.profile import fresh
from tests.mounted.harness import SHARED_OPTIONS, Mounted, mounted
from tests.real.places import small_file_system


@pytest.fixture(scope="package")
def known() -> Iterator[Path]:
    """An empty ext4, which shows that a test says the truth about Linux."""
    with small_file_system("ext4", 1 << 30) as path:
        path.parent.chmod(0o755)  # other users come here, too
        yield path


@pytest.fixture(scope="package")
def mount() -> Iterator[Mounted]:
    """A mount for all tests that do not harm it."""
    with mounted(*SHARED_OPTIONS) as here:
        yield here


@pytest.fixture(params=["ext4", "sds"])
def place(request: pytest.FixtureRequest) -> Path:
    """An empty directory: on a filesystem that is known to be right, and on ours."""
    root: Path = request.getfixturevalue("known") if request.param == "ext4" else request.getfixturevalue("mount").path
    return fresh(root)


@pytest.fixture
def ours(mount: Mounted) -> Path:
    """An empty directory on ours, for what other filesystems cannot do."""
    return fresh(mount.path)


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)
