"""Whether a backend that a user names can be taken into a pool. Directories are looked at directly, for a
backend shows only files with names of ours; other kinds are asked for their list.

  PC1  Nothing is changed here.
  PC2  A directory is taken only if it exists, is writable and is empty (a lone lost+found is fine).
  PC3  It must not be, contain or lie inside a backend of this or another pool of this home; of object stores that goes
       by endpoint, bucket and prefix.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from backends.s3_url import S3Url
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


def is_remote(url: str) -> bool:
    """Whether files pass through a journal on this machine on their way there."""
    return url.startswith("s3:")


def tier_of(url: str, tier: str) -> str:
    """What the property `place` calls a backend: what it was told to be, else `cold` for object stores, else `fast`."""
    return tier or ("cold" if is_remote(url) else "fast")


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
        is_inside = path is not None and other_path is not None and _overlap(path, other_path)
        if url == other or is_inside or _overlap_in_store(url, other):
            raise BadInput(f"backend {url} overlaps backend {other}: give separate places")


def _overlap(one: Path, other: Path) -> bool:
    if one == other or one in other.parents or other in one.parents:
        return True
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False  # One of them is not there (an unplugged disk): their paths are all we can compare.


def _overlap_in_store(one: str, other: str) -> bool:
    if not (is_remote(one) and is_remote(other)):
        return False
    a, b = S3Url.parse(one), S3Url.parse(other)
    if (a.endpoint_url, a.bucket) != (b.endpoint_url, b.bucket):
        return False
    inside, outside = sorted((f"{a.prefix}/".lstrip("/"), f"{b.prefix}/".lstrip("/")), key=len, reverse=True)
    return inside.startswith(outside)


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
