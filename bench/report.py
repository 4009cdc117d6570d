"""How a benchmark speaks: plain tables for people, one JSON file with every sample for machines."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

GIB = 1 << 30
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": GIB, "T": 1 << 40}


def size_bytes(text: str) -> int:
    """1G, 512M, 4096: sizes as the command line of sds takes them."""
    unit = text[-1:].upper()
    return int(text[:-1]) * _UNITS[unit] if unit in _UNITS else int(text)


def amount(value: float) -> str:
    """Three significant digits, with k above ten thousand."""
    if value >= 10_000:
        return f"{value / 1000:.1f} k"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratio_of_pairs(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of neighbouring samples: what disturbs one disturbs the other."""
    return median(mine / other for mine, other in zip(ours, theirs, strict=True))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in cells)
        for row in (header, *rows)
        for cells in [enumerate(zip(row, widths, strict=True))]
    )


def save(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"all samples: {path}")
