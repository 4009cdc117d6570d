"""Leases on this machine: a lock held on a file proves that its holder is alive.

  LE1  An exclusive lease excludes every other; shared ones exclude only exclusive ones. The kernel keeps the
       lock (flock) and drops it when the holder ends, however it ends.
  LE2  The content of the file (one JSON line per holder) is for messages only; the lock alone decides.
  LE3  The file may be removed only by its exclusive holder; whoever locked a removed file notices and starts
       over.

A dataset is leased exclusively by its worker. A snapshot is held shared while it is served and exclusively
while it is destroyed.
"""

import fcntl
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from sds.core.errors import BadInput, Busy

CONTENT_BYTES_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease."""

    pid: int
    what: str
    """The command, for people: `sds serve tank/vm1`."""
    socket: str = ""
    """Path of its control socket, or empty."""

    def __str__(self) -> str:
        return f"process {self.pid} ({self.what})"

    @classmethod
    def me(cls, what: str = "", socket: str = "") -> Self:
        return cls(
            os.getpid(), what or " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])[:200], socket
        )


class Lease:
    """A lock that is held until `release` or the end of the process. Usable as a context manager."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path, what: str, holder: Holder, shared: bool = False) -> Self:
        """`what` is leased, for the message of Busy: `tank/vm1`. Never waits."""
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            except OSError as error:
                raise BadInput(f"cannot lock {what}: {path}: {error.strerror}") from error
            try:
                _lock(descriptor, shared)
                if _is_at(descriptor, path):
                    _write(descriptor, holder)
                    return cls(path, descriptor)
            except BlockingIOError as error:
                by = _describe(_read(descriptor))
                os.close(descriptor)
                raise Busy(f"{what} is in use by {by}: stop it first") from error
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def release(self, remove: bool = False) -> None:
        """`remove`: the file goes too (LE3: exclusive leases only), for what it stood for is gone."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            if remove:
                self.path.unlink(missing_ok=True)
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def holders(path: Path) -> list[Holder]:
    """Who holds it now; empty: nobody. Only a look: it may be different a moment later."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return []
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return []
    except BlockingIOError:
        return _read(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, shared: bool) -> None:
    """BlockingIOError if somebody else is in the way. Who is alone clears the content of former holders."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
    except BlockingIOError:
        if not shared:
            raise
    if shared:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _is_at(descriptor: int, path: Path) -> bool:
    mine = os.fstat(descriptor)
    try:
        return os.path.samestat(mine, os.stat(path))
    except FileNotFoundError:
        return False


def _write(descriptor: int, holder: Holder) -> None:
    os.write(descriptor, json.dumps(asdict(holder)).encode() + b"\n")


def _read(descriptor: int) -> list[Holder]:
    """LE2: whatever cannot be read is left out, the lock stands all the same."""
    found = []
    for line in os.pread(descriptor, CONTENT_BYTES_MAX, 0).splitlines():
        try:
            holder = Holder(**json.loads(line))
            alive = _is_alive(holder.pid)
        except (ValueError, TypeError, OverflowError):
            continue
        if alive:
            found.append(holder)
    return found


def _describe(found: list[Holder]) -> str:
    return " and ".join(map(str, found[:3])) or "another process"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
