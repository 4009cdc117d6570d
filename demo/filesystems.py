"""The second part of the demo: a filesystem with a real source tree in it, judged by tar, diff, sha256sum, git, SQLite,
df and e2fsck."""

import errno
import os
import shutil
from pathlib import Path

from demo import programs
from demo.journal import Journal, losses
from demo.mounted import Mounted
from demo.original import SOURCE, Original
from demo.rawfile import raw_file
from demo.report import prove
from demo.stage import Stage
from tools.sds import run

KILL_ROUNDS = 3
FILES_PER_ROUND = 1000
QUOTA_ROOM = 32 << 20
MIB = 1 << 20


def play(stage: Stage) -> None:
    stage.sds("fs", "create", "tank/home")
    with Mounted(stage, "tank/home") as mount:
        original = Original(stage.directory)
        unpacked(stage, mount, original)
        kept(stage, mount, original)
        changed(stage, mount, original)
        programs.git(stage, mount.path, original.path / "mypy")
        programs.sqlite(stage, mount.path)
        limited(stage, mount)
        killed(stage, mount, original)
        raw_file(stage, original)
        with stage.report.step("unmounted: everything is durable, nothing is in use"):
            mount.stop()
            prove(not mount.path.is_mount(), f"{mount.path} is still mounted")
            used = [facts["name"] for facts in stage.sds.json("list") if facts["pid"]]
            prove(not used, f"still in use: {used}")


def unpacked(stage: Stage, mount: Mounted, original: Original) -> None:
    tree = mount.path / "tree"
    what = "tar unpacks a real source tree into a mounted filesystem; diff -r and sha256sum find it unchanged"
    with stage.report.step(what) as details:
        tree.mkdir()
        original.unpack(tree)
        original.check(tree)
        details += [str(SOURCE), f"{original.files} files", f"{original.size_mib} MiB"]
    with stage.report.step("unmounted and mounted again: the same"):
        mount.stop()
        prove(not tree.exists(), f"{tree} is there without the mount")
        mount.start()
        original.check(tree)


def kept(stage: Stage, mount: Mounted, original: Original) -> None:
    """A snapshot in the middle of writing."""
    what = "a snapshot while files are written: .snapshots holds one moment of them, and the whole tree"
    with stage.report.step(what) as details:
        place = mount.path / "written"
        place.mkdir()
        journal = Journal(place)
        journal.start()
        prove(journal.reach(200), f"nothing can be written: {journal.broke_off}")
        before = journal.acked
        stage.sds("snapshot", "tank/home@busy")
        after = journal.acked
        prove(journal.reach(after + 200), f"writing does not go on: {journal.broke_off}")
        journal.stop()
        then = mount.path / ".snapshots/busy"
        wrong = losses(then / "written", before, after + 1)
        wrong += losses(place, journal.acked, journal.acked)
        prove(not wrong, "; ".join(wrong[:3]))
        original.check(then / "tree")
        details.append(f"{len(os.listdir(then / 'written'))} of {journal.acked} files")
    shutil.rmtree(place)


def changed(stage: Stage, mount: Mounted, original: Original) -> None:
    """diff, clone and rollback, while it is mounted."""
    tree = mount.path / "tree"
    stage.sds("snapshot", "tank/home@clean")
    with stage.report.step("changes: sds diff names exactly these paths; the snapshot below .snapshots has none"):
        first, second, third, *_ = sorted(path for path in tree.glob("*/*.py") if path.stat().st_size)
        with first.open("a") as file:
            file.write("# a change\n")
        second.rename(tree / "moved.py")
        third.unlink()
        (tree / "new").mkdir()
        (tree / "new/file").write_text("new\n")
        expected = {
            ("M", first), ("R", second), ("-", third), ("+", tree / "new"), ("+", tree / "new/file"), ("M", tree),
            ("M", second.parent), ("M", third.parent),
        }  # fmt: skip
        changes = stage.sds.json("diff", "tank/home@clean")
        told = {(one["kind"], mount.path / one["path"].lstrip("/")) for one in changes}
        prove(told == expected, f"it says {sorted(told ^ expected)[:4]} where it should not, or not where it should")
        original.check(mount.path / ".snapshots/clean/tree")
    with stage.report.step("a clone of the snapshot, mounted beside it, is the original and takes changes of its own"):
        stage.sds("clone", "tank/home@clean", "tank/other")
        with Mounted(stage, "tank/other") as clone:
            original.check(clone.path / "tree")
            shutil.rmtree(clone.path / "tree")
            prove(first.exists(), "removing it in the clone removed it here")
    with stage.report.step("rollback while it is mounted: diff -r and sha256sum find the original again"):
        stage.sds("rollback", "tank/home@clean")
        original.check(tree)


def limited(stage: Stage, mount: Mounted) -> None:
    with stage.report.step("a quota: df shows it, writing ends at it with EDQUOT, and goes on without it") as details:
        used = df(mount.path, "used")
        quota = (used + QUOTA_ROOM) // MIB * MIB
        stage.sds("set", "tank/home", f"quota={quota}")
        prove(df(mount.path, "size") == quota, f"df says {df(mount.path, 'size')} and the quota is {quota}")
        big = mount.path / "big"
        written = fill(big, 2 * QUOTA_ROOM)
        prove(0 < written <= QUOTA_ROOM, f"{written} bytes were written and {QUOTA_ROOM} are allowed at most")
        prove(df(mount.path, "avail") < MIB, "df says that there is room, and there was none")
        stage.sds("set", "tank/home", "quota=none")
        prove(fill(big, 2 * QUOTA_ROOM) == 2 * QUOTA_ROOM, "there is no quota any more, and still no room")
        big.unlink()
        details.append(f"quota {quota >> 20} MiB, refused after {written >> 20} MiB")


def fill(path: Path, size_bytes: int) -> int:
    """How many bytes could be written to it before it was refused."""
    written = 0
    with path.open("wb", buffering=0) as file:
        while written < size_bytes:
            try:
                written += file.write(os.urandom(MIB))
            except OSError as error:
                prove(error.errno == errno.EDQUOT, f"refused with {error}")
                break
    return written


def df(path: Path, field: str) -> int:
    return int(run("df", "-B1", f"--output={field}", path).split()[-1])


def killed(stage: Stage, mount: Mounted, original: Original) -> None:
    what = "kill -9 while files are written: every call that had returned is there, and the tree unchanged"
    with stage.report.step(what) as details:
        place = mount.path / "killed"
        place.mkdir()
        count = syncs = 0
        for _ in range(KILL_ROUNDS):
            journal = Journal(place, count)
            journal.start()
            prove(journal.reach(count + FILES_PER_ROUND), f"nothing can be written: {journal.broke_off}")
            mount.kill()
            journal.stop()
            prove(bool(journal.broke_off), "the writer did not notice that its filesystem was gone")
            mount.start()
            wrong = losses(place, journal.acked, journal.acked + 1)
            prove(not wrong, "; ".join(wrong[:3]))
            count, syncs = len([name for name in os.listdir(place) if name.isdigit()]), syncs + journal.syncs
        original.check(mount.path / "tree")
        details += [f"{KILL_ROUNDS} kills", f"{count} files, {syncs} of them synced"]
