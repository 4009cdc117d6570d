"""A mount against ext4, through the kernel: results, errnos and whole trees agree."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.filesystem.machine import Machine, Subject
from tests.filesystem.plain import Plain
from tests.filesystem.profile import fresh, profile, remove
from tests.mounted.harness import mounted

pytestmark = pytest.mark.real("mkfs.ext4", "fusermount3")


@pytest.mark.parametrize("options", [(), ("writeback",)], ids=["default", "writeback"])
def test_the_mount_and_ext4_do_the_same(request: pytest.FixtureRequest, known: Path, options: tuple[str, ...]) -> None:
    with mounted(*options) as mount:

        def make() -> tuple[Subject, Subject, Callable[[], None]]:
            here, there = fresh(known), fresh(mount.path)

            def end() -> None:
                remove(here)
                remove(there)

            return Plain(here), Plain(there), end

        class Both(Machine):
            pass

        Both.make = staticmethod(make)
        Both.stamps_truncation = "writeback" not in options
        run_state_machine_as_test(Both, settings=profile(request, examples=40, steps=40))
