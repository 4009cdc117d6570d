"""A real source tree to put into a filesystem, and the check that it is there unchanged.

  OG1  It is the source of the Python packages that are installed for this project: a few thousand files that we did not
       write, on every machine that `make setup` made ready. It is packed once, so nothing changes it meanwhile.
  OG2  `check` lets diff compare every byte and every link, sha256sum every file with the checksums of the original,
       and find the types, modes, sizes, times, owners and link counts.
"""

import shlex
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from demo.report import prove
from tools.sds import run

SOURCE = Path(sysconfig.get_path("purelib"))
UNWANTED = ("__pycache__", "*.pyc", "*.so", "*.so.*")
OF_SERVERS = ("moto", "botocore", "cfnlint", "sympy", "networkx", "samtranslator")
FACTS = r"%P %y %m %T@ %U:%G %l\n"
FACTS_OF_FILES = r"%P %s %n\n"
"""Directories have no size that two filesystems would agree on."""
TIMEOUT_S = 300.0


class Original:
    def __init__(self, directory: Path, packages: Sequence[str] = ()) -> None:
        """All of it, or only some packages."""
        self.tarball = directory / "tree.tar"
        self.path = directory / "tree"
        self._sums = directory / "tree.sha256"
        without = [f"--exclude={name}" for name in (*UNWANTED, *(f"./{name}" for name in OF_SERVERS))]
        what = ("--no-recursion", ".", "--recursion", *(f"./{name}" for name in packages)) if packages else (".",)
        run("tar", "-C", SOURCE, "--format=posix", *without, "-cf", self.tarball, *what)
        self.path.mkdir()
        self.unpack(self.path)
        self._sums.write_text(shell("find . -type f -print0 | sort -z | xargs -0 sha256sum", self.path))
        self.files = len(self._sums.read_text().splitlines())
        self._facts = facts(self.path)

    def unpack(self, directory: Path) -> None:
        run("tar", "-C", directory, "-xf", self.tarball)

    @property
    def size_mib(self) -> int:
        return self.tarball.stat().st_size >> 20

    def check(self, directory: Path) -> None:
        """OG2. CommandFailed, Unproven."""
        run("diff", "-r", "--no-dereference", self.path, directory)
        shell(f"sha256sum --check --quiet --strict {shlex.quote(str(self._sums))}", directory)
        prove(facts(directory) == self._facts, f"modes, times, owners or links in {directory} are not the original's")


def facts(directory: Path) -> str:
    return shell(f"find . -printf '{FACTS}' | sort; find . ! -type d -printf '{FACTS_OF_FILES}' | sort", directory)


def shell(script: str, directory: Path) -> str:
    """A pipeline of programs, in this directory."""
    return run("bash", "-c", f"set -eo pipefail; cd {shlex.quote(str(directory))}; {script}", timeout_s=TIMEOUT_S)
