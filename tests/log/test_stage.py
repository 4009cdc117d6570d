"""The stage file: whose it is."""

from pathlib import Path

import pytest

from sds.core.errors import Busy
from sds.log.stage import FileStage

POOL = bytes(range(16))
SLOT = 64 << 10


def stage_in(directory: Path, boot_id: str = "boot") -> FileStage:
    return FileStage(directory / "stage", POOL, 7, 2, SLOT, boot_id)


@pytest.mark.parametrize("boot_id", ["boot", "another boot"])
def test_a_stage_in_use_is_left_alone_whatever_the_leases_say(tmp_path: Path, boot_id: str) -> None:
    """Two homes with the same pool: each has leases of its own."""
    first = stage_in(tmp_path)
    first.slot(0)[:4] = b"mine"
    with pytest.raises(Busy, match="in use"):
        stage_in(tmp_path, boot_id)
    assert bytes(first.slot(0)[:4]) == b"mine"
    assert first.path.exists()
    first.close()


def test_a_stage_that_was_let_go_of_is_taken_over_with_its_content(tmp_path: Path) -> None:
    first = stage_in(tmp_path)
    first.slot(1)[:4] = b"kept"
    first.close()
    second = stage_in(tmp_path)
    assert bytes(second.slot(1)[:4]) == b"kept"
    second.close()


def test_a_stage_of_another_boot_is_replaced(tmp_path: Path) -> None:
    first = stage_in(tmp_path)
    first.slot(1)[:4] = b"lost"
    first.close()
    second = stage_in(tmp_path, "another boot")
    assert bytes(second.slot(1)[:4]) == bytes(4)
    second.close()
