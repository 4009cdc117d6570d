"""The command line within the process of the test: quick, and what it prints is at hand."""

import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from sds.cli.main import main


@dataclass(frozen=True, slots=True)
class Result:
    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Command:
    home: Path

    def run(self, *arguments: str | Path) -> Result:
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main(["--home", str(self.home), *map(str, arguments)])
        return Result(code, out.getvalue(), err.getvalue())

    def __call__(self, *arguments: str | Path) -> str:
        result = self.run(*arguments)
        assert result.code == 0, f"sds {' '.join(map(str, arguments))}: {result.err}"
        return result.out

    def json(self, *arguments: str | Path) -> Any:
        return json.loads(self(*arguments, "--json"))

    def refused(self, *arguments: str | Path, code: int = 1) -> str:
        """The one line that says why."""
        result = self.run(*arguments)
        assert result.code == code, f"sds {' '.join(map(str, arguments))}: exit {result.code}: {result.err}"
        if code == 1:
            assert result.err.startswith("sds: "), result.err
            assert result.err.count("\n") == 1, result.err
            assert "Traceback" not in result.err
        return result.err


def tree(*roots: Path) -> dict[str, bytes]:
    """Every file below, with its content."""
    return {str(path): path.read_bytes() for root in roots for path in sorted(root.rglob("*")) if path.is_file()}
