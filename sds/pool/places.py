"""Whether a backend that a user names can be taken into a pool. Directories are looked at directly, for a
backend shows only files with names of ours; other kinds are asked for their list.

  PC1  Nothing is changed here.
  PC2  A directory is taken only if it exists, is writable and is empty (a lone lost+found is fine).
  PC3  It must not be, contain or lie inside a backend of this or another pool of this home.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from sds.core.errors import BadInput
from sds.core.units import shown
from sds.pool.label import LABEL

URL_CHARACTERS_MAX = 1024


def canonical_url(url: str) -> str:
    """Directories become absolute real paths; anything with a scheme stays."""
    if not url or "\n" in url or "\0" in url or len(url) > URL_CHARACTERS_MAX:
        raise BadInput(f"{shown(url)} is no backend: write the path of a directory")
    path = local_path(url)
    return url if path is None else str(path)


def local_path(url: str) -> Path | None:
    """None: not a directory of this machine."""
    scheme, colon, rest = url.partition(":")
    if colon and scheme == "file":
        return Path(os.path.realpath(unquote(rest.removeprefix("//").removeprefix("localhost"))))
    if colon and "/" not in scheme and scheme.isalnum():
        return None
    return Path(os.path.realpath(url))


def check_directory(path: Path) -> None:
    """PC2."""
    if not path.is_dir():
        hint = "is not a directory" if path.exists() else "does not exist: make the directory first"
        raise BadInput(f"backend {path} {hint}")
    try:
        entries = set(os.listdir(path))
    except OSError as error:
        raise BadInput(f"backend {path} cannot be read: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise BadInput(f"backend {path} is not writable for this user: change its owner or mode")
    if LABEL in entries:
        raise BadInput(f"backend {path} belongs to a pool (it has a file {LABEL}): see `sds pool import`")
    if entries - {"lost+found"}:
        some = ", ".join(map(shown, sorted(entries)[:3]))
        raise BadInput(f"backend {path} is not empty ({some}): give an empty directory")


def check_overlap(url: str, others: Iterable[str]) -> None:
    """PC3."""
    path = local_path(url)
    for other in others:
        other_path = local_path(other)
        if url == other or (path is not None and other_path is not None and _overlap(path, other_path)):
            raise BadInput(f"backend {url} overlaps backend {other}: give separate places")


def _overlap(one: Path, other: Path) -> bool:
    if one == other or one in other.parents or other in one.parents:
        return True
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False  # One of them is not there (an unplugged disk): their paths are all we can compare.


def prune_directory(url: str) -> None:
    """Removes the empty directories that a destroyed pool leaves in a local backend; what is not empty
    stays.
    """
    root = local_path(url)
    if root is None:
        return
    for top in ("segments", "catalog"):
        for directory, _, _ in os.walk(root / top, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                continue  # Not empty: something in it is not ours.
