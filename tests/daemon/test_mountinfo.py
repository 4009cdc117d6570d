"""The kernel's list of mounts: names with odd bytes, several mounts in one place, lines of later kernels."""

import os
from pathlib import Path

import pytest

from sds.daemon import mountinfo
from sds.daemon.mountinfo import Mount, mount_at, mounts, parse, resolved

LINES = b"""\
22 27 0:21 / /proc rw,relatime - proc proc rw
48 27 0:44 / /mnt/a\\040b\\011c\\012d\\134e rw,nosuid shared:5 master:1 - fuse.sds tank/home rw,user_id=0
49 27 0:45 / /mnt/\xff rw - fuse.sds tank/x@y ro
50 27 0:46 / /twice rw - ext4 /dev/vda rw
51 50 0:47 / /twice ro,noatime - fuse.sds tank/vm rw
52 27 0:48 / /none rw - tmpfs  rw

a line of some later kernel
60 27 0:60 / /short -
"""


def test_every_mount_is_told_with_its_type_source_and_options() -> None:
    found = {mount.point: mount for mount in parse(LINES)}
    assert found["/proc"] == Mount("/proc", "proc", "proc", frozenset(("rw", "relatime")), "0:21")
    home = found["/mnt/a b\tc\nd\\e"]
    assert (home.kind, home.source, home.is_ours) == ("fuse.sds", "tank/home", True)
    assert home.options == {"rw", "nosuid"}
    assert str(home) == "tank/home (fuse.sds)"
    assert not found["/proc"].is_ours


def test_names_that_are_no_text_come_out_as_the_os_functions_take_them() -> None:
    (mount,) = [mount for mount in parse(LINES) if mount.device == "0:45"]
    assert os.fsencode(mount.point) == b"/mnt/\xff"


def test_lines_of_another_form_are_left_out() -> None:
    assert "/short" not in {mount.point for mount in parse(LINES)}
    assert len(parse(LINES)) == 6


def test_of_several_mounts_in_one_place_the_topmost_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(LINES)
    monkeypatch.setattr(mountinfo, "MOUNTINFO", table)
    mount = mount_at("/twice")
    assert mount is not None
    assert mount.source == "tank/vm"
    assert mount_at("/nowhere") is None


def test_the_list_of_this_machine_can_be_read() -> None:
    assert "/" in {mount.point for mount in mounts()}


def test_a_directory_is_named_as_the_kernel_names_it(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert resolved(f"{tmp_path}/link/.") == os.path.realpath(tmp_path / "target")
