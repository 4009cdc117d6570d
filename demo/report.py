"""What the demo says: one line per step with its time as it goes, and what was proven at the end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


class Unproven(Exception):
    """A step ran, and what it was to prove is not so."""


def prove(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Unproven(otherwise)


@dataclass(slots=True)
class Report:
    proven: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    begin_s: float = field(default_factory=time.monotonic)

    @contextmanager
    def step(self, what: str) -> Iterator[list[str]]:
        """A step that proves `what`; it may append details to the list it gets."""
        begin_s = time.monotonic()
        details: list[str] = []
        yield details
        remark = f" ({', '.join(details)})" if details else ""
        self.proven.append(what + remark)
        print(f"{time.monotonic() - begin_s:6.1f} s  {what}{remark}", flush=True)

    def skip(self, what: str, why: str) -> None:
        self.skipped.append(f"{what}: {why}")
        print(f"  skipped  {what}: {why}", flush=True)

    def summary(self) -> str:
        lines = [f"\nProven in {time.monotonic() - self.begin_s:.0f} s, with programs that are not ours:"]
        lines += [f"  + {line}" for line in self.proven]
        lines += [f"  - not shown: {line}" for line in self.skipped]
        return "\n".join(lines)
