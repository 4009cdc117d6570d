"""The ceiling must be a filesystem: programs run on it, and what they store comes back."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.mounts import Mount, MountFailed, is_mounted, null_mount
from tools.sds import run

pytestmark = pytest.mark.real("fusermount3")


@pytest.fixture
def null(tmp_path: Path) -> Iterator[Path]:
    mount = null_mount("null:count=on", tmp_path, 0)
    mount.start()
    try:
        yield mount.directory
    finally:
        mount.stop()
    assert not is_mounted(mount.directory)


def test_what_is_written_anywhere_is_read_again(null: Path) -> None:
    """Against a plain bytearray, over the borders of the pieces."""
    chance = random.Random(3)
    model = bytearray()
    with (null / "file").open("w+b", buffering=0) as file:
        for _ in range(60):
            offset, data = chance.randrange(3 << 20), chance.randbytes(chance.choice((1, 5000, 300_000)))
            model.extend(bytes(max(0, offset + len(data) - len(model))))
            model[offset : offset + len(data)] = data
            os.pwrite(file.fileno(), data, offset)
            if chance.random() < 0.2:
                size = chance.randrange(3 << 20)
                file.truncate(size)
                model = (model + bytes(max(0, size - len(model))))[:size]
            assert (null / "file").stat().st_size == len(model)
            assert os.pread(file.fileno(), 4 << 20, 0) == model


def test_names_move_and_go_as_programs_expect(null: Path) -> None:
    (null / "a" / "b").mkdir(parents=True)
    (null / "a" / "one").write_text("1")
    os.link(null / "a" / "one", null / "a" / "b" / "same")
    (null / "link").symlink_to("a/one")
    os.replace(null / "a" / "one", null / "two")

    assert sorted(os.listdir(null)) == [".requests", "a", "link", "two"]
    assert (null / "two").stat().st_nlink == 2 and (null / "a" / "b" / "same").read_text() == "1"
    assert os.readlink(null / "link") == "a/one" and not (null / "link").exists()
    run("rm", "-r", null / "a")
    assert (null / "two").stat().st_nlink == 1


def test_an_unlinked_file_lives_while_it_is_open(null: Path) -> None:
    with (null / "file").open("w+") as file:
        file.write("still here")
        file.flush()
        (null / "file").unlink()
        file.seek(0)
        assert file.read() == "still here"
    assert not (null / "file").exists()


def test_requests_are_counted_by_kind(null: Path) -> None:
    (null / "file").touch()
    (null / "file").unlink()

    counts = json.loads(os.readlink(null / ".requests"))

    assert (counts["create"], counts["unlink"]) == (1, 1)


def test_what_does_not_mount_says_why(tmp_path: Path) -> None:
    with pytest.raises(MountFailed, match=r"null:nonsense=1 did not mount: .*unrecognized arguments: --nonsense"):
        null_mount("null:nonsense=1", tmp_path, 0).start()
    with pytest.raises(MountFailed, match="false did not mount"):
        Mount("false", tmp_path / "dir", ["false"]).start()
