"""Sizes as people write them: `20G`, `512M`, `4096`, `1.5T`, `64KiB`. Units are binary: K is 1024.

U1  parse_size(format_size(n)) == n for every n that format_size prints exactly (format_size(n, exact=True)
    always).
U2  What parse_size returns is a whole number of bytes, 0 <= n <= SIZE_MAX.
"""

import re
from fractions import Fraction

from sds.core.errors import BadInput

SIZE_MAX = 1 << 62
UNITS = "KMGTP"
_SIZE = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,9}))?(?:([KMGTP])(?:i?B)?|B)?", re.ASCII | re.IGNORECASE)
_RULE = "write it like 512M, 20G or 1.5T (K, M, G, T, P are powers of 1024)"


def parse_size(text: str) -> int:
    """The bytes that `text` means; BadInput for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise BadInput(f"{shown(text)} is not a size: {_RULE}")
    whole, decimals, unit = match.groups()
    factor = 1024 ** (UNITS.index(unit.upper()) + 1) if unit else 1
    value = Fraction(f"{whole}.{decimals or 0}") * factor
    if value.denominator != 1:
        raise BadInput(f"{shown(text)} is not a whole number of bytes: {_RULE}")
    if value > SIZE_MAX:
        raise BadInput(f"{shown(text)} is too large: the largest size is {format_size(SIZE_MAX)}")
    return int(value)


def format_size(size_bytes: int, exact: bool = False) -> str:
    """At most one decimal (`1.5G`) for people; `exact` uses the largest unit that divides the size."""
    assert size_bytes >= 0
    if exact:
        return _format_exact(size_bytes)
    if size_bytes < 1024:
        return str(size_bytes)
    value, unit = float(size_bytes), ""
    for unit in UNITS:  # noqa: B007 (the unit where the loop stops is the result)
        value /= 1024
        if value < 1023.95:
            break
    return f"{value:.1f}".removesuffix(".0") + unit


def _format_exact(size_bytes: int) -> str:
    unit = 0
    while size_bytes and size_bytes % 1024 == 0 and unit < len(UNITS):
        size_bytes //= 1024
        unit += 1
    return f"{size_bytes}{('', *UNITS)[unit]}"


def shown(text: str) -> str:
    """Bad input, quoted so that it stays one short line whatever is in it."""
    quoted = repr(text)
    return quoted if len(quoted) <= 80 else quoted[:76] + "...'"
