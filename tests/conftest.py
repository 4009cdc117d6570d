"""What all tests share: the rule for tests that need programs of the system, and short names for sockets.

A test marked `real("fio", "qemu-img")` needs these programs; `real` alone needs all of PROGRAMS. `guest`
needs the kernel that `make setup` unpacks, too. On a developer's machine such a test is skipped with the
reason printed; with CI set in the environment such a skip is a failure: none is lost silently.
"""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.guest import guest
from tools.sds import Sds

PROGRAMS = ("qemu-nbd", "qemu-img", "qemu-io", "nbdinfo", "nbdcopy", "fio", "libnbd for Python")


def lacking(programs: tuple[str, ...]) -> list[str]:
    found = {"libnbd for Python": importlib.util.find_spec("nbd") is not None}
    return [name for name in programs if not found.get(name, shutil.which(name) is not None)]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long tests, with new seeds")


def pytest_runtest_setup(item: pytest.Item) -> None:
    real = item.get_closest_marker("real")
    if real is not None:
        names = lacking(tuple(real.args) or PROGRAMS)
        if names:
            pytest.skip(f"not installed: {', '.join(names)} (make setup)")
    if item.get_closest_marker("guest") is not None and guest.missing():
        pytest.skip(f"not installed: {guest.missing()}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    needs_system = item.get_closest_marker("real") or item.get_closest_marker("guest")
    if report.skipped and needs_system and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped, and CI allows no skips here: {call.excinfo}"
    return report


@pytest.fixture
def socket_dir() -> Iterator[Path]:
    """A directory with a short name: the path of a unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="sds-") as name:
        yield Path(name)


@pytest.fixture
def sds(tmp_path: Path) -> Sds:
    """The command line as a program, with its own state directory."""
    return Sds(tmp_path / "home")
