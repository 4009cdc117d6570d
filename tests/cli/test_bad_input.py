"""What can never work is refused with one line that says what to do, exit 1 (usage: 2), and nothing changes."""

import subprocess
from pathlib import Path

import pytest

from sds.cli.main import tell
from sds.core.names import parse_target
from tests.cli.command import Command, tree
from tests.cli.conftest import build
from tests.cli.serving import write_pattern
from tools.sds import Sds


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool `tank` with a volume `vm` that has data and a snapshot, a pool `other`, and places for backends."""
    root = tmp_path_factory.mktemp("bad")
    command = build(root)
    command("volume", "create", "tank/vm", "64M")
    command("fs", "create", "tank/fs")
    write_pattern(command.home, "vm", 32 << 20, b"data")
    command("snapshot", "tank/vm@snap")
    for name in ("c", "full", "found", "empty"):
        (root / name).mkdir()
    command("pool", "create", "other", root / "c")
    (root / "full" / "file").write_text("x")
    (root / "found" / "lost+found").mkdir()
    (root / "link").symlink_to(root / "a")
    return root


@pytest.fixture
def command(root: Path) -> Command:
    return Command(root / "home")


REFUSED = [
    # unknown things
    ("volume create nopool/vm 1G", "no pool nopool"),
    ("pool status nopool", "no pool nopool"),
    ("list nopool", "no pool nopool"),
    ("serve tank/none", "no dataset 'none'"),
    ("list tank/none", "there is no tank/none"),
    ("serve tank/vm@none", "no snapshot @none"),
    ("rollback tank/vm@none", "no snapshot @none"),
    ("clone tank/vm@none tank/new", "no snapshot @none"),
    ("destroy tank/none", "no dataset"),
    ("destroy tank/vm@none", "no snapshot @none"),
    ("pool destroy nopool", "no pool nopool"),
    ("rename tank/none tank/new", "no dataset"),
    # names
    ("pool create Tank {empty}", "is not a pool name"),
    ("pool create .x {empty}", "is not a pool name"),
    ("volume create tank/VM 1G", "is not a dataset name"),
    ("volume create tank/-vm 1G", "is not a dataset name"),
    ("volume create tank/a/b 1G", "names no dataset"),
    ("volume create tank 1G", "names no dataset"),
    ("volume create tank/" + "x" * 64 + " 1G", "is not a dataset name"),
    ("snapshot tank/vm", "names no snapshot"),
    ("snapshot tank/vm@A", "is not a snapshot name"),
    ("volume create tank/vm@a 1G", "names a snapshot"),
    ("rename tank/vm tank/V", "is not a dataset name"),
    ("rename tank/vm other/vm", "in another pool"),
    ("rename tank/vm@snap tank/vm2@x", "of another dataset"),
    ("clone tank/vm@snap other/new", "in another pool"),
    ("diff tank/vm@snap tank/other@snap", "of different datasets"),
    # taken
    ("pool create tank {empty}", "exists already"),
    ("volume create tank/vm 1G", "exists already"),
    ("snapshot tank/vm@snap", "exists already"),
    ("clone tank/vm@snap tank/vm", "exists already"),
    ("destroy tank/vm", "destroy them first, or use -r"),
    ("pool destroy tank", "use --force"),
    # sizes
    ("volume create tank/new 1X", "is not a size"),
    ("volume create tank/new -1", "is not a size"),
    ("volume create tank/new 1e9", "is not a size"),
    ("volume create tank/new 0", "multiple of 4K"),
    ("volume create tank/new 1000", "multiple of 4K"),
    ("volume create tank/new 99999999P", "too large"),
    ("volume create tank/new 2048P", "too large"),
    ("volume resize tank/vm 0", "multiple of 4K"),
    ("volume resize tank/vm 16M", "--force"),
    ("pool create new {empty} --segment-size 3M", "power of two"),
    ("pool create new {empty} --segment-size 1T", "power of two"),
    # backends
    ("pool create new {a}", "overlap"),
    ("pool create new {a}/segments", "overlap"),
    ("pool create new {root}", "overlap"),
    ("pool create new {link}", "overlap"),
    ("pool create new {empty} {empty}", "overlap"),
    ("pool create new {full}", "not empty"),
    ("pool create new {root}/none", "does not exist"),
    ("pool create new {full}/file", "is not a directory"),
    ("pool create new disk:/none/sda", "/none/sda"),
    ("pool create new s3://user:secret@bucket/prefix", "credentials_file"),
    ("pool create new s3://bucket/prefix?what=1", "what"),
    ("pool create new {empty} --copies 2", "add backends"),
    ("pool create new {empty} --copies 0", "use 1 to"),
    ("pool add tank {c}", "overlap"),
    ("pool add tank {full}", "not empty"),
    ("pool import tank {a}", "overlap"),
    ("pool import new {empty}", "no label"),
    # the rest
    ("set tank/vm compress=fast", "lz4, zstd, off"),
    ("set tank/vm colour=red", "is no property"),
    ("set tank/vm compress", "PROPERTY=VALUE"),
    ("get tank/vm colour", "is no property"),
    ("list -t disks", "volume, fs, snapshot"),
    ("serve tank/vm --listen localhost:99999", "port from 0 to 65535"),
    ("serve tank/vm --listen localhost:http", "port from 0 to 65535"),
    ("serve tank/vm --socket {root}/none/s", "cannot listen"),
    ("serve tank/vm --socket {full}/file", "is not a socket"),
    ("serve tank/vm --stage-slots 1", "use 2 to"),
    ("pool remove tank {root}/none", "no backend"),
    ("pool remove tank {a} --force", "--lost"),
    ("pool scrub nopool", "nopool"),
    # filesystems and mounts
    ("fs create tank/fs", "exists already"),
    ("fs create tank/FS", "is not a dataset name"),
    ("fs create tank/new@a", "names a snapshot"),
    ("fs create nopool/new", "no pool nopool"),
    ("fs create tank/new --quota 1X", "is not a size"),
    ("fs create tank/new --quota 0", "1M or more"),
    ("set tank/fs quota=1K", "1M or more"),
    ("set tank/fs quota=no", "is not a size"),
    ("set tank/vm quota=1G", "is a volume and has no quota"),
    ("get tank/vm quota", "is a volume and has no quota"),
    ("set tank/fs compress=zstd quota=fast", "is not a size"),
    ("volume resize tank/fs 1G", "quota=SIZE"),
    ("serve tank/fs", "sds mount tank/fs"),
    ("serve tank/fs@none", "sds mount"),
    ("mount tank/none {empty}", "no dataset"),
    ("mount nopool/fs {empty}", "no pool nopool"),
    ("mount tank/fs@none {empty}", "no snapshot @none"),
    ("mount tank {empty}", "names no dataset"),
    ("mount -f tank/fs {root}/none", "is missing"),
    ("mount -f tank/fs {full}/file", "is not a directory"),
    ("mount -f tank/fs {root}/full/file/none", "cannot be used"),
    ("mount -f tank/fs /proc", "is in use: proc (proc) is mounted there"),
    ("mount tank/fs {empty} --stage-slots 1", "use 2 to"),
    ("unmount {empty}", "nothing is mounted"),
    ("unmount {root}/none", "nothing is mounted"),
    ("unmount /proc", "is not a mount of sds, but of proc (proc): use umount /proc"),
    ("unmount tank/fs", "is not mounted"),
    ("unmount tank/none", "no dataset"),
    ("unmount tank/fs@none", "no snapshot @none"),
    ("unmount nowhere", "nothing is mounted"),
    ("diff tank/fs@none", "no snapshot @none"),
]


@pytest.mark.parametrize(("words", "expected"), REFUSED, ids=[words for words, _ in REFUSED])
def test_it_is_refused_in_one_line_and_nothing_changes(
    command: Command, root: Path, words: str, expected: str
) -> None:
    names = ("a", "b", "c", "full", "found", "empty", "link")
    before = _state(command, root)
    said = command.refused(*words.format(root=root, **{name: root / name for name in names}).split(" "))
    assert expected in said
    assert _state(command, root) == before


def _state(command: Command, root: Path) -> tuple[object, ...]:
    """What users see, and every file that is not part of the log of a volume that was opened for a moment."""
    seen = ("name", "kind", "size_bytes", "used_bytes", "snapshots")
    facts = [{key: one.get(key) for key in seen} for one in command.json("list")]
    pools = [pool["name"] for pool in command.json("pool", "list")]
    return facts, pools, tree(*(root / name for name in ("full", "found", "empty", "c")))


def test_a_lone_lost_and_found_is_fine(tmp_path: Path) -> None:
    (tmp_path / "disk" / "lost+found").mkdir(parents=True)
    Command(tmp_path / "home")("pool", "create", "new", tmp_path / "disk")


SENSELESS = [
    "", "nonsense", "pool", "pool nonsense", "volume create tank/x", "list --nonsense", "fs", "fs create",
    "mount tank/fs", "mount tank/fs / -o nonsense", "mount tank/fs / -o remount", "unmount",
]  # fmt: skip


@pytest.mark.parametrize("words", SENSELESS)
def test_a_command_line_without_sense_is_a_usage_error(command: Command, words: str) -> None:
    assert "usage" in command.refused(*words.split(), code=2)


def test_shrinking_below_data_needs_force_and_then_does_it(cli: Command) -> None:
    cli("volume", "create", "tank/vm", "64M")
    write_pattern(cli.home, "vm", 32 << 20, b"data")
    assert "--force" in cli.refused("volume", "resize", "tank/vm", "16M")
    cli("volume", "resize", "tank/vm", "48M")
    cli("volume", "resize", "tank/vm", "16M", "--force")
    cli("volume", "resize", "tank/vm", "64M")
    (facts,) = cli.json("list")
    assert (facts["size_bytes"], facts["used_bytes"]) == (64 << 20, 0)
    assert parse_target(facts["name"]).dataset == "vm"


def test_a_reader_that_goes_away_is_no_mistake(root: Path) -> None:
    popen = subprocess.Popen(
        Sds(root / "home").command("list"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert popen.stdout is not None
    popen.stdout.close()
    assert popen.stderr is not None
    with popen:
        assert popen.stderr.read() == ""


def test_a_mistake_of_ours_is_one_line_and_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(ZeroDivisionError("a\nb")) == 70
    said = capsys.readouterr().err
    assert said == "sds: internal error: ZeroDivisionError: a b (SDS_DEBUG=1 shows where)\n"
