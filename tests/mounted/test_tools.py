"""Programs that people use, on a mount."""

import filecmp
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy

from tests.filesystem.profile import fresh
from tests.mounted.harness import SHARED_OPTIONS, Mounted, mounted
from tools.sds import run

pytestmark = pytest.mark.real("mkfs.ext4", "fusermount3")
SOURCE = Path(sqlalchemy.__file__).parent
"""Some hundred files in some dozen directories, as they lie on any machine that runs this."""

_COUNTING = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None) as db:
    db.execute("PRAGMA synchronous=FULL")
    number = db.execute("SELECT COALESCE(MAX(n), 0) FROM t").fetchone()[0]
    try:
        while True:
            number += 1
            db.execute("BEGIN")
            for _ in range(5):
                db.execute("INSERT INTO t VALUES (?, randomblob(500))", (number,))
            db.execute("COMMIT")
            print(number, flush=True)
    except sqlite3.Error:
        pass
"""


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_sqlite_keeps_what_it_committed_over_kill_9(journal: str) -> None:
    with mounted() as mount:
        path = mount.path / "db"
        with closing(sqlite3.connect(path)) as db:
            assert db.execute(f"PRAGMA journal_mode={journal}").fetchone()[0].upper() == journal
            db.execute("CREATE TABLE t (n INTEGER, b BLOB)")
            db.commit()
        for _ in range(2):
            client = subprocess.Popen([sys.executable, "-c", _COUNTING, str(path)], stdout=subprocess.PIPE, text=True)
            assert client.stdout is not None
            try:
                told = [int(client.stdout.readline()) for _ in range(20)]
                mount.kill()
                told += [int(line) for line in client.stdout if line.endswith("\n")]
            finally:
                client.kill()
                client.wait()
                client.stdout.close()
            mount.start()
            with closing(sqlite3.connect(path)) as db:
                assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                counts = db.execute("SELECT n, COUNT(*) FROM t GROUP BY n ORDER BY n").fetchall()
            assert [count for _, count in counts] == [5] * len(counts)
            assert counts[-1][0] in (told[-1], told[-1] + 1), "one commit may have been in flight"


def test_two_programs_share_a_database(ours: Path) -> None:
    """Locks are the kernel's."""
    path = ours / "db"
    with closing(sqlite3.connect(path, timeout=0.1)) as one, closing(sqlite3.connect(path, timeout=0.1)) as two:
        one.execute("CREATE TABLE t (n)")
        one.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            two.execute("INSERT INTO t VALUES (1)")
        one.commit()
        two.execute("INSERT INTO t VALUES (1)")
        two.commit()
        assert one.execute("SELECT n FROM t").fetchall() == [(1,)]


def test_a_tree_that_is_packed_and_unpacked_is_the_same_also_after_a_remount(mount: Mounted, ours: Path) -> None:
    archive = ours / "archive.tar"
    run("tar", "-C", SOURCE, "--exclude=__pycache__", "-cf", archive, ".")
    (ours / "tree").mkdir()
    run("tar", "-C", ours / "tree", "-xpf", archive)
    run("tar", "-C", ours / "tree", "--compare", "-f", archive)
    compare = ("diff", "-r", "--no-dereference", "--exclude=__pycache__", SOURCE, ours / "tree")
    run(*compare)
    mount.stop()
    mount.start(*SHARED_OPTIONS)
    run(*compare)
    run("tar", "-C", ours / "tree", "--compare", "-f", archive)
    shutil.rmtree(ours / "tree")
    assert os.listdir(ours) == ["archive.tar"]


@pytest.mark.real("git", "mkfs.ext4", "fusermount3")
def test_git_works_and_finds_nothing_wrong(ours: Path) -> None:
    shutil.copytree(SOURCE / "sql", ours / "repo", ignore=shutil.ignore_patterns("__pycache__"))

    def git(*words: str | Path, where: Path = ours / "repo") -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "gc.auto=0")
        return run("git", *identity, "-C", where, *words)

    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-qm", "one")
    file = next((ours / "repo").glob("*.py"))
    file.write_text(file.read_text() + "# changed\n")
    assert file.name in git("status", "--short")
    git("commit", "-qam", "two")
    git("gc", "-q")
    git("fsck", "--strict")
    run("git", "clone", "-q", ours / "repo", ours / "clone")
    git("fsck", "--strict", where=ours / "clone")
    git("checkout", "-q", "HEAD~1", where=ours / "clone")
    git("checkout", "-q", "main", where=ours / "clone")
    assert filecmp.dircmp(ours / "repo", ours / "clone", ignore=[".git"]).diff_files == []
    assert git("status", "--short", where=ours / "clone") == ""


@pytest.mark.real("rsync", "mkfs.ext4", "fusermount3")
def test_rsync_copies_everything_once(ours: Path) -> None:
    source = fresh(ours)
    shutil.copytree(SOURCE / "engine", source / "engine")
    os.link(source / "engine" / "base.py", source / "link")
    (source / "symlink").symlink_to("engine/base.py")
    os.setxattr(source / "link", "user.a", b"1")
    flags = "-aHAX"
    run("rsync", flags, f"{source}/", ours / "copy")
    assert run("rsync", flags, "--checksum", "--delete", "--itemize-changes", f"{source}/", ours / "copy") == ""
    (source / "engine" / "base.py").write_text("changed")
    changes = run("rsync", flags, "--itemize-changes", f"{source}/", ours / "copy")
    assert "base.py" in changes and "url.py" not in changes


@pytest.mark.real("make", "mkfs.ext4", "fusermount3")
def test_make_builds_what_is_older_and_nothing_else(ours: Path) -> None:
    (ours / "Makefile").write_text("all: out\nout: in\n\tcp in out\n\t@echo built\n")
    (ours / "in").write_text("1")
    assert "built" in run("make", "-C", ours)
    assert "built" not in run("make", "-C", ours)
    time.sleep(0.02)
    (ours / "in").write_text("2")
    assert "built" in run("make", "-C", ours)
    assert "built" not in run("make", "-C", ours)
    assert (ours / "out").read_text() == "2"


@pytest.mark.real("cc", "mkfs.ext4", "fusermount3")
def test_a_program_is_built_and_runs(ours: Path) -> None:
    (ours / "hello.c").write_text('#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n')
    run("cc", "-o", ours / "hello", ours / "hello.c")
    assert run(ours / "hello") == "hello\n"


def test_editors_that_replace_files_keep_owner_mode_and_links(ours: Path) -> None:
    """Write aside, fsync, rename over; and a backup by hard link first."""
    file = ours / "notes"
    file.write_text("one")
    file.chmod(0o640)
    os.link(file, ours / "notes~")
    with (ours / ".notes.swp").open("w") as aside:
        aside.write("two")
        aside.flush()
        os.fsync(aside.fileno())
    shutil.copymode(file, ours / ".notes.swp")
    (ours / ".notes.swp").replace(file)
    directory = os.open(ours, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)
    assert (file.read_text(), (ours / "notes~").read_text()) == ("two", "one")
    assert sorted(os.listdir(ours)) == ["notes", "notes~"]
    assert file.stat().st_mode & 0o777 == 0o640
