"""Snapshots, clones, rollback, diff, quota, destroy of filesystems and volumes, closed and mounted: what they change is
seen through the mount at once.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sds.daemon.control_client import call
from tests.cli.mounting import PROGRAMS, Machine, machine_at

pytestmark = pytest.mark.real(*PROGRAMS)
MIB = 1 << 20


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with machine_at(tmp_path) as machine:
        yield machine


class Files:
    """The filesystem tank/home, mounted all the time, or only while files are looked at or changed."""

    def __init__(self, machine: Machine, stays: bool) -> None:
        self.machine = machine
        self.stays = stays
        self.cli = machine.cli
        if stays:
            machine.mount()

    @contextmanager
    def open(self) -> Iterator[Path]:
        if not self.stays:
            self.machine.mount()
        yield self.machine.directory
        if not self.stays:
            self.machine.unmount()


@pytest.fixture(params=["closed", "mounted"])
def files(request: pytest.FixtureRequest, machine: Machine) -> Files:
    return Files(machine, request.param == "mounted")


def test_a_snapshot_is_readable_below_the_mount_and_rollback_brings_everything_back(files: Files) -> None:
    with files.open() as top:
        (top / "dir").mkdir()
        (top / "dir" / "kept").write_text("old")
        (top / "big").write_bytes(b"1" * MIB)
    files.cli("snapshot", "tank/home@a")
    with files.open() as top:
        (top / "dir" / "kept").write_text("new and longer")
        (top / "dir" / "fresh").write_text("x")
        (top / "big").rename(top / "moved")
        assert (top / ".snapshots" / "a" / "dir" / "kept").read_text() == "old"
        assert ".snapshots" not in os.listdir(top)
        assert os.listdir(top / ".snapshots") == ["a"]
    files.cli("rollback", "tank/home@a")
    with files.open() as top:
        assert (top / "dir" / "kept").read_text() == "old"
        assert sorted(os.listdir(top)) == ["big", "dir"]
        assert os.listdir(top / "dir") == ["kept"]
        assert not (top / "dir" / "fresh").exists()
        assert (top / "big").read_bytes() == b"1" * MIB


def test_a_clone_begins_as_the_snapshot_and_lives_on_its_own(machine: Machine) -> None:
    top, other = machine.mount(), machine.root / "other"
    other.mkdir()
    (top / "file").write_text("shared")
    machine.cli("snapshot", "tank/home@a")
    machine.cli("clone", "tank/home@a", "tank/copy")
    (top / "file").write_text("parent")
    machine.mount("tank/copy", directory=other)
    assert (other / "file").read_text() == "shared"
    (other / "file").write_text("child")
    assert (top / "file").read_text() == "parent"
    assert machine.facts("tank/copy")["kind"] == "fs"


def test_diff_tells_exactly_the_changed_paths(files: Files) -> None:
    with files.open() as top:
        (top / "dir").mkdir()
        for name in ("same", "changed", "gone", "dir/moved"):
            (top / name).write_text(name)
    files.cli("snapshot", "tank/home@a")
    assert files.cli.json("diff", "tank/home@a") == []
    odd = b"new\nline\xff\\"
    with files.open() as top:
        (top / "changed").write_text("other")
        (top / "gone").unlink()
        (top / "dir" / "moved").rename(top / "there")
        Path(os.fsdecode(os.fsencode(top) + b"/" + odd)).touch()
    files.cli("snapshot", "tank/home@b")
    expected = [
        "M\t/", "M\t/changed", "M\t/dir", "R\t/dir/moved -> /there", "-\t/gone", "+\t/new\\012line\\377\\134",
    ]  # fmt: skip
    assert files.cli("diff", "tank/home@a", "tank/home@b").splitlines() == expected
    assert files.cli("diff", "tank/home@a").splitlines() == expected
    found = {one["path"]: one for one in files.cli.json("diff", "tank/home@a")}
    assert found["/dir/moved"] == {"kind": "R", "path": "/dir/moved", "new_path": "/there"}
    assert found["/" + os.fsdecode(odd)]["kind"] == "+"


def test_a_quota_counts_at_once_and_df_agrees(machine: Machine) -> None:
    top = machine.mount()
    machine.cli("set", "tank/home", "quota=4M")
    expected = {"compress": "lz4", "quota": 4 * MIB, "copies": None, "place": [], "flush": "journal"}
    assert machine.cli.json("get", "tank/home") == expected
    assert machine.facts()["quota_bytes"] == 4 * MIB
    assert os.statvfs(top).f_blocks * 4096 == 4 * MIB
    with pytest.raises(OSError) as caught:
        (top / "big").write_bytes(os.urandom(8 * MIB))
    assert caught.value.errno == errno.EDQUOT
    machine.cli("set", "tank/home", "quota=none", "compress=off")
    assert machine.cli.json("get", "tank/home") == expected | {"compress": "off", "quota": None}
    (top / "big").write_bytes(bytes(8 * MIB))


def test_destroying_a_snapshot_takes_it_from_the_mount_unless_it_is_in_use_there(machine: Machine) -> None:
    top = machine.mount()
    (top / "file").write_text("x")
    for name in ("a", "b"):
        machine.cli("snapshot", f"tank/home@{name}")
    with (top / ".snapshots" / "a" / "file").open() as file:
        assert "in use" in machine.cli.refused("destroy", "tank/home@a")
        assert file.read() == "x"
    machine.cli("destroy", "tank/home@a")
    assert os.listdir(top / ".snapshots") == ["b"]
    assert not (top / ".snapshots" / "a").exists()
    assert (top / ".snapshots" / "b" / "file").read_text() == "x"


def test_a_snapshot_has_what_the_kernel_had_not_written_yet(machine: Machine) -> None:
    """Asked of the worker directly: by the time that a program has started, the kernel may be ready by itself."""
    top = machine.mount("tank/home", "-o", "writeback")
    with ExitStack() as stack:
        files = [stack.enter_context((top / f"file{number}").open("wb")) for number in range(6)]
        for turn in range(4):
            contents = [os.urandom(MIB) for _ in files]
            for file, content in zip(files, contents, strict=True):
                file.seek(0)
                file.write(content)
                file.flush()
            call(machine.control_socket(), "snapshot", name=f"s{turn}")
            then = top / ".snapshots" / f"s{turn}"
            assert [(then / f"file{number}").read_bytes() for number in range(len(files))] == contents


def test_a_snapshot_can_be_mounted_read_only_beside_its_filesystem(machine: Machine) -> None:
    top, other = machine.mount(), machine.root / "other"
    other.mkdir()
    (top / "file").write_text("then")
    machine.cli("snapshot", "tank/home@a")
    machine.mount("tank/home@a", "-o", "rw", directory=other)
    (top / "file").write_text("now")
    assert (other / "file").read_text() == "then"
    for change in ((other / "new").touch, (other / "file").unlink):
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.EROFS
    assert "in use" in machine.cli.refused("destroy", "tank/home@a")
    machine.sds("unmount", "tank/home@a")
    assert os.listdir(other) == []
    assert (top / "file").read_text() == "now", "the filesystem itself stays mounted"
    machine.cli("destroy", "tank/home@a")


def test_a_volume_is_a_file_that_follows_resize_and_rollback(machine: Machine) -> None:
    image = machine.mount("tank/vm") / "vm.img"
    with image.open("r+b") as file:
        file.write(b"old" * 100_000)
        file.flush()
        os.fsync(file.fileno())
    machine.cli("snapshot", "tank/vm@a")
    with image.open("r+b") as file:
        file.write(b"new" * 100_000)
    machine.cli("volume", "resize", "tank/vm", "96M")
    assert image.stat().st_size == 96 * MIB
    machine.cli("rollback", "tank/vm@a")
    assert image.stat().st_size == 64 * MIB
    assert image.read_bytes()[:300_000] == b"old" * 100_000
    machine.unmount()
    snapshot = machine.mount("tank/vm@a") / "vm.img"
    assert snapshot.read_bytes()[:300_000] == b"old" * 100_000
    with pytest.raises(OSError):
        snapshot.open("r+b").close()


def test_the_list_and_the_statistics_tell_about_a_mount(machine: Machine) -> None:
    top = machine.mount("tank/home", "--access-log", machine.root / "access")
    (top / "file").write_bytes(os.urandom(MIB))
    facts = machine.facts()
    assert (facts["kind"], facts["state"], facts["quota_bytes"]) == ("fs", "open", None)
    assert facts["used_bytes"] == MIB
    assert f"sds mount tank/home {top}" in facts["holder"]
    log = (machine.root / "access").read_text()
    assert "create(1, 'file'" in log
    assert all(float(line.split()[0]) > 0 for line in log.splitlines())
