"""Tables for people, JSON for programs."""

import json
from collections.abc import Sequence

from sds.core.units import format_size


def print_json(value: object) -> None:
    print(json.dumps(value, indent=1))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Numbers to the right, names to the left: a column is one of numbers if its header says so by a leading >."""
    right = [name.startswith(">") for name in header]
    lines = [[name.lstrip(">") for name in header], *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ]
        print("  ".join(cells).rstrip())


def size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else format_size(size_bytes)
