"""From what the user calls a backend to the backend. Kinds that need more than the standard library load it when used.

    /dir, file:///dir                  a directory on a local file system      directory.py
    disk:/dev/sdX                      a raw block device                      device.py
    s3://bucket/prefix?option=value    an object store                         s3.py, s3_url.py
"""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from sds.core.errors import BadInput

from .base import Backend
from .directory import DirectoryBackend

KNOWN = "/dir, disk:/dev/sdX or s3://bucket/prefix"


def connect(url: str, local: Path | None = None) -> Backend:
    """Opens a backend. `local`: a directory for its journal and cache on this machine; None: only small files will be
    read and written. BadInput or Missing if that cannot work; blocks for a system call.
    """
    if url.startswith("disk:"):
        from .device import DeviceBackend

        return DeviceBackend(url)
    if url.startswith("s3:"):
        from .object_backend import object_backend
        from .s3 import S3Store
        from .s3_url import S3Url

        place = S3Url.parse(url)
        return object_backend(S3Store(place), local, place.cache_size, place.journal_size, place.capacity)
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
