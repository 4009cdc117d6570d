"""`mount.sds` as mount(8) calls it, from the command line and from fstab, and the unit for systemd."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sds.cli.mount_helper import main
from sds.daemon.mountinfo import mount_at
from tests.cli.mounting import PROGRAMS, Machine, machine_at

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "contrib/systemd/sds-mount@.service"
TIMEOUT_S = 60.0


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with machine_at(tmp_path) as machine:
        yield machine


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "usage"),
        ("tank/home", "usage"),
        ("tank/home /mnt more", "usage"),
        ("tank/home /mnt -x", "-x"),
        ("tank/home /mnt -o", "-o"),
        ("tank/home /mnt -t ext4", "use fuse.sds"),
        ("tank/home /mnt -N /proc/1/ns/mnt", "nsenter"),
        ("-f tank/home /mnt -o nonsense", "nonsense"),
        ("-f nothing /mnt", "names no dataset"),
    ],
)
def test_a_wrong_call_is_told_and_ends_with_1(words: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 1
    assert expected in capsys.readouterr().err


def test_faked_it_only_looks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tank/home", "/nonexistent", "-fnsv", "-o", "rw,noatime,_netdev", "-t", "fuse.sds"]) == 0
    assert capsys.readouterr().err == ""


def test_what_cannot_be_mounted_ends_with_32(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    options = f"home={machine.sds.home}"
    assert main(["tank/none", str(machine.directory), "-o", options]) == 32
    assert "no dataset" in capsys.readouterr().err
    assert main(["tank/home", str(machine.directory), "-o", f"{options},nonsense"]) == 1


@pytest.mark.real(*PROGRAMS, "unshare")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may have its own list of mounts")
def test_mount_8_finds_it_and_fstab_lines_work(machine: Machine, tmp_path: Path) -> None:
    """In a list of mounts of its own, where /usr/sbin has the link and /etc/fstab has the line."""
    sbin, fstab, helper = tmp_path / "sbin", tmp_path / "fstab", tmp_path / "mount.sds"
    shutil.copytree("/usr/sbin", sbin, symlinks=True)
    (sbin / "mount.fuse.sds").symlink_to(helper)
    helper.write_text(f"#!{sys.executable}\nimport sys\nfrom sds.cli.mount_helper import main\nsys.exit(main())\n")
    helper.chmod(0o755)
    options = f"noatime,nosuid,_netdev,x-anything=1,home={machine.sds.home}"
    fstab.write_text(f"tank/home {machine.directory} fuse.sds {options} 0 0\n")
    script = f"""
        set -e
        mount --bind {sbin} /usr/sbin
        mount --bind {fstab} /etc/fstab
        cd /
        mount {machine.directory}
        grep ' {machine.directory} ' /proc/self/mountinfo
        echo from fstab > {machine.directory}/file
        umount {machine.directory}
        mkdir -p {tmp_path}/tank/home
        cd {tmp_path}
        mount -t fuse.sds tank/home {machine.directory} -o ro,home={machine.sds.home}
        grep ' {machine.directory} ' /proc/self/mountinfo
        cat {machine.directory}/file
        ! touch {machine.directory}/file 2>/dev/null
        {machine.sds.command()[0]} --home {machine.sds.home} unmount {machine.directory}
        ! mount -t fuse.sds tank/none {machine.directory} -o home={machine.sds.home}
    """
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done
    first, second, content = done.stdout.splitlines()
    assert "rw,nosuid" in first
    assert "noatime" in first
    assert " - fuse.sds tank/home " in first
    assert " ro," in second
    assert content == "from fstab"
    assert "no dataset" in done.stderr
    assert machine.facts()["state"] == "closed"


def settings_of_unit() -> list[tuple[str, str]]:
    lines = UNIT.read_text().splitlines()
    return [(name, value) for name, equals, value in (line.partition("=") for line in lines) if equals]


@pytest.mark.real(*PROGRAMS)
def test_the_unit_for_systemd_starts_a_mount_that_says_when_it_is_ready(machine: Machine, socket_dir: Path) -> None:
    settings = dict(settings_of_unit())
    assert settings["Type"] == "notify"
    environment = dict(word.split("=", 1) for word in settings["Environment"].split())
    environment |= {"SDS_HOME": str(machine.sds.home), "SDS_DIR": str(machine.directory)}
    program, *words = settings["ExecStart"].split()
    assert program.endswith("/.venv/bin/sds")
    command = [word.replace("%I", "tank/home") for word in words]
    command = [environment[word[2:-1]] if word.startswith("${") else word for word in command]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(socket_dir / "notify"))
        manager.settimeout(TIMEOUT_S)
        environment["NOTIFY_SOCKET"] = str(socket_dir / "notify")
        process = subprocess.Popen([machine.sds.command()[0], *command], env=os.environ | environment)
        assert manager.recv(100) == b"READY=1"
        mount = mount_at(str(machine.directory))
        assert mount is not None
        assert mount.source == "tank/home"
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0
    assert machine.facts()["state"] == "closed"


@pytest.mark.real("systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """But for the path of the program, which is another one here."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/sds/.venv/bin/sds", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
