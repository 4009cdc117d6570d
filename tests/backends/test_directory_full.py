"""A file system that is really full: small ones, mounted for the test (needs root)."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from backends.directory import DirectoryBackend
from sds.core.errors import NoSpace
from tests.backends.places import PAGE, pages, read_back

pytestmark = pytest.mark.real("mount", "umount", "mkfs.ext4")
SIZE_BYTES = 8 << 20


@pytest.fixture(params=["tmpfs", "ext4"])
def small_directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    where = tmp_path / "small"
    where.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "none", str(where)]
    else:
        image = tmp_path / "image"
        image.write_bytes(bytes(SIZE_BYTES))
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        command = ["mount", "-o", "loop", str(image), str(where)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    try:
        yield where
    finally:
        # Lazily: a test that failed may have left files open, and the mount must go nevertheless.
        subprocess.run(["umount", "-l", str(where)], check=True)


def test_b1_a_full_file_system_is_a_clean_no_space(small_directory: Path) -> None:
    async def main() -> None:
        backend = DirectoryBackend(str(small_directory))
        try:
            await fill_and_free(backend)
        finally:
            await backend.close()

    async def fill_and_free(backend: DirectoryBackend) -> None:
        with pytest.raises(NoSpace, match="segments/0-0"):
            await backend.create("segments/0-0", 2 * SIZE_BYTES)
        names: list[str] = []

        async def fill_up() -> None:
            for index in range(100):
                await backend.create(f"segments/{index}", 1 << 20)
                names.append(f"segments/{index}")

        with pytest.raises(NoSpace):
            await fill_up()
        assert sorted(names) == [entry.name for entry in await backend.list("")]
        assert len(names) >= 4

        for name in names:  # The room that was promised is there.
            await backend.write(name, 0, pages(256), sync=True)
        with pytest.raises(NoSpace):
            await backend.put("backup", bytes(backend.usage().free_bytes + (2 << 20)))
        assert sorted(names) == [entry.name for entry in await backend.list("")]
        assert not [found for found in os.listdir(small_directory) if found.startswith(".")]

        await backend.delete(names[0])  # Deleting works on a full one, and gives room.
        await backend.create("segments/again", 512 << 10)
        assert await read_back(backend, names[1], 0, PAGE) == pages(1)

    trio.run(main)
