"""One file under everything a program can do to it, with and without the writeback cache."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.filesystem.profile import is_long
from tests.mounted.exerciser import Exerciser, Mismatch
from tests.mounted.harness import Mounted, mounted

pytestmark = pytest.mark.real("mkfs.ext4", "fusermount3")
OPERATIONS = 3000


def test_the_exerciser_agrees_with_a_filesystem_that_is_right(known: Path) -> None:
    exerciser = Exerciser(known / "exercised", 1)
    exerciser.run(OPERATIONS)
    assert min(exerciser.counts.values()) > OPERATIONS // 100, "every operation took part"


def test_the_exerciser_notices_a_byte_that_is_wrong(known: Path) -> None:
    exerciser = Exerciser(known / "spoiled", 2)
    exerciser.write()
    last = len(exerciser.model) - 1
    with exerciser.path.open("r+b") as file:
        file.seek(last)
        file.write(bytes([exerciser.model[last] ^ 1]))
    with pytest.raises(Mismatch, match=f"the first difference is at {last}"):
        exerciser.run(0)


@pytest.mark.parametrize("options", [(), ("writeback",)], ids=["default", "writeback"])
def test_a_file_holds_what_was_written(request: pytest.FixtureRequest, options: tuple[str, ...]) -> None:
    rounds = 50 if is_long(request) else 1
    with mounted(*options) as mount:
        for seed in range(rounds):
            exerciser = Exerciser(mount.path / "file", seed)
            exerciser.run(OPERATIONS)
            _reads_the_same_after(mount, mount.stop, exerciser, options)
            _reads_the_same_after(mount, mount.kill, exerciser, options)


def _reads_the_same_after(
    mount: Mounted, end: Callable[[], None], exerciser: Exerciser, options: tuple[str, ...]
) -> None:
    """What was closed is in the filesystem, not only in the kernel: also if the worker is killed."""
    end()
    mount.start(*options)
    assert exerciser.path.read_bytes() == exerciser.model, f"seed {exerciser.seed}"
