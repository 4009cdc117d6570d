"""Names of files in a backend: one pattern, checked at the border of every backend.

  M1  A name is one to eight parts joined by single `/`; a part is lower-case letters, digits, `-` and `.`,
      starts with a letter or digit and has at most 128 characters.
  M2  So no name is absolute, climbs with `..`, or is hidden: hidden names are free for temporary files.
"""

import re

from sds.core.errors import BadInput, Corrupt

from .base import PAGE

_PART = r"[a-z0-9][a-z0-9.-]{0,127}"
_NAME = re.compile(rf"{_PART}(?:/{_PART}){{0,7}}")
_PREFIX = re.compile(r"(?:[a-z0-9][a-z0-9./-]*)?")


def check_name(url: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadInput(f"{url}: {name!r} cannot be a file name here; use parts like {_PART} joined by /")


def check_prefix(url: str, prefix: str) -> None:
    if not _PREFIX.fullmatch(prefix) or "//" in prefix or ".." in prefix:
        raise BadInput(f"{url}: {prefix!r} cannot be the beginning of a file name")


def is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def check_range(url: str, name: str, offset: int, length: int, size_bytes: int) -> None:
    """B2: the only ranges that may be written."""
    if offset % PAGE or length % PAGE or length <= 0 or offset < 0 or offset + length > size_bytes:
        raise BadInput(
            f"{url}: {name}: cannot write {length} bytes at {offset} of {size_bytes};"
            f" write whole pages of {PAGE} inside the file"
        )


def check_read(url: str, name: str, offset: int, length: int, size_bytes: int) -> None:
    """B6: a file that is too short."""
    if offset < 0 or offset + length > size_bytes:
        raise Corrupt(f"{url}: {name}: too short, {size_bytes} bytes, for {length} bytes at {offset}")


def check_size(url: str, name: str, size_bytes: int, limit_bytes: int) -> None:
    """B5: a file is only ever cut."""
    if size_bytes % PAGE or not 0 <= size_bytes <= limit_bytes:
        raise BadInput(
            f"{url}: {name}: cannot make it {size_bytes} bytes; use a multiple of {PAGE} up to {limit_bytes}"
        )
