"""From what the user calls a backend to the backend.

    /dir, file:///dir     a directory on a local file system
    disk:/dev/sdX         a raw block device      (not available yet)
    s3://bucket/prefix    an object store         (not available yet)
"""

from urllib.parse import unquote, urlsplit

from sds.core.errors import BadInput

from .base import Backend
from .directory import DirectoryBackend

KNOWN = "/dir or file:///dir"
LATER = ("disk:", "s3:")


def connect(url: str) -> Backend:
    """Opens a backend. BadInput or Missing if that cannot work; blocks for a system call."""
    if url.startswith(LATER):
        raise BadInput(f"{url}: not available yet in this release; use {KNOWN}")
    return DirectoryBackend(directory_of(url))


def directory_of(url: str) -> str:
    """The absolute path that a directory URL names."""
    path = url
    if url.startswith("file:"):
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise BadInput(f"{url}: a file URL has only a path; use {KNOWN}")
        path = unquote(parts.path)
    if not path.startswith("/") or "\0" in path:
        raise BadInput(f"{url}: not a known kind of backend; use {KNOWN}")
    return path
