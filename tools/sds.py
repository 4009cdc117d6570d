"""The command line of sds, run the way a user runs it: as a program, with its own state directory."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = Path(sys.executable).parent / "sds"


class CommandFailed(Exception):
    """A program ended with an error; the message is its command line and what it said."""


def run(*command: str | Path, timeout_s: float = 120.0) -> str:
    """Run a program to its end and return what it printed; its failure is an error with its own words."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise CommandFailed(f"{' '.join(words)}: exit {done.returncode}: {said}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Sds:
    """The sds of this checkout with its state under `home`."""

    home: Path

    def command(self, *arguments: str | Path) -> list[str]:
        return [str(PROGRAM), "--home", str(self.home), *(str(word) for word in arguments)]

    def __call__(self, *arguments: str | Path) -> str:
        return run(*self.command(*arguments))

    def json(self, *arguments: str | Path) -> Any:
        return json.loads(self(*arguments, "--json"))

    def works(self) -> bool:
        """Whether the command line answers at all."""
        if not PROGRAM.exists():
            return False
        done = subprocess.run(self.command("list", "--json"), capture_output=True, check=False)
        return done.returncode == 0
