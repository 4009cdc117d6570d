"""Programs of every day that are hard on a filesystem: git, and databases of SQLite."""

import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from demo.report import prove
from demo.stage import Stage
from tools.sds import run

GIT = ("git", "-c", "user.name=demo", "-c", "user.email=demo@localhost", "-c", "gc.auto=0", "-c", "core.hooksPath=")
WRITERS = 2
COMMITS = 150


def git(stage: Stage, mount: Path, tree: Path) -> None:
    what = "git commits the tree, clones it inside the mount, and fsck finds nothing wrong"
    if shutil.which("git") is None:
        stage.report.skip(what, "git is not installed")
        return
    with stage.report.step(what) as details:
        first, second = mount / "first", mount / "second"
        shutil.copytree(tree, first, symlinks=True)
        run(*GIT, "-C", first, "init", "-q")
        run(*GIT, "-C", first, "add", "--all", "--force")
        run(*GIT, "-C", first, "commit", "-q", "-m", "everything")
        run(*GIT, "clone", "-q", "--no-local", first, second)
        (second / "demo").write_text("a change\n")
        run(*GIT, "-C", second, "add", "demo")
        run(*GIT, "-C", second, "commit", "-q", "-m", "a change")
        run(*GIT, "-C", first, "pull", "-q", "--ff-only", second, "HEAD")
        run(*GIT, "-C", first, "gc", "-q")
        for place in (first, second):
            run(*GIT, "-C", place, "fsck", "--full", "--strict")
            prove(run(*GIT, "-C", place, "status", "--porcelain") == "", f"git finds changes in {place}")
        run("diff", "-r", "--exclude=.git", first, second)
        details.append(f"{run(*GIT, '-C', first, 'ls-files').count(chr(10))} files")


def sqlite(stage: Stage, mount: Path) -> None:
    for mode in ("wal", "delete"):
        with stage.report.step(f"SQLite, journal mode {mode}: {WRITERS} writers at once, then its integrity check"):
            path = mount / f"{mode}.db"
            with sqlite3.connect(path) as database:
                prove(database.execute(f"pragma journal_mode={mode}").fetchone()[0] == mode, f"no mode {mode} here")
                database.execute("create table lines (writer int, number int, text text)")
            database.close()
            with ThreadPoolExecutor(WRITERS) as pool:
                list(pool.map(_insert, [path] * WRITERS, range(WRITERS)))
            database = sqlite3.connect(path)
            prove(database.execute("pragma integrity_check").fetchall() == [("ok",)], "SQLite finds damage")
            counted = database.execute("select writer, count(distinct number) from lines group by writer").fetchall()
            database.close()
            prove(counted == [(writer, COMMITS) for writer in range(WRITERS)], f"rows are missing: {counted}")


def _insert(path: Path, writer: int) -> None:
    database = sqlite3.connect(path, timeout=60.0)
    for number in range(COMMITS):
        with database:
            database.execute("insert into lines values (?, ?, ?)", (writer, number, "x" * 200))
    database.close()
