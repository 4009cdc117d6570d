"""Deleted segments kept as room for new ones: their blocks are allocated and written already.

Creating and deleting files costs the file system's journal and (with online discard) the disk much more than
overwriting; a log that is cut into segments does nothing else. So a few deleted files are renamed to hidden names and
renamed again when a file of just their size is created.

  SP1  A spare belongs to the process whose id is in its name, and in there to the object whose token follows: two
       containers may have processes of the same id. Nobody else uses it; at worst somebody deletes it.
  SP2  Spares count as free room, and are given up at once when room is short.
  SP3  A spare has one name only: one that a crash left with two is given up, never used.
"""

import os
import secrets
import threading
from contextlib import suppress

SPARES_MAX = 32
PREFIX = ".spare-"
SIZE_MIN_BYTES = 1 << 20
"""Smaller files are not worth it."""
SHORT_BYTES = 64 << 20
_tokens: set[str] = set()
"""Of this process."""


class Spares:
    def __init__(self, root: int) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._kept: list[tuple[str, int]] = []
        self._count = 0
        self._token = secrets.token_hex(4)
        _tokens.add(self._token)
        self._remove_orphans()

    @property
    def size_bytes(self) -> int:
        return sum(size for _, size in list(self._kept))  # no lock: it may be held over a disk that hangs

    def keep(self, parent: int, base: str) -> bool:
        """Take the file in instead of deleting it; False: delete it."""
        status = os.stat(base, dir_fd=parent, follow_symlinks=False)
        whole = status.st_blocks * 512 >= status.st_size >= SIZE_MIN_BYTES
        with self._lock:
            if not whole or status.st_nlink != 1 or len(self._kept) >= SPARES_MAX:
                return False
            self._count += 1
            name = f"{PREFIX}{os.getpid()}-{self._token}-{self._count}"
            os.rename(base, name, src_dir_fd=parent, dst_dir_fd=self._root)
            self._kept.append((name, status.st_size))
        return True

    def use(self, parent: int, base: str, size_bytes: int) -> bool:
        """Make the file from a spare; False: there is none of this size. FileExistsError as for open(O_EXCL)."""
        with self._lock:
            name = next((name for name, size in self._kept if size == size_bytes), None)
            if name is None:
                return False
            try:
                os.link(name, base, src_dir_fd=self._root, dst_dir_fd=parent, follow_symlinks=False)
            except FileExistsError:
                raise
            except FileNotFoundError:  # somebody deleted it (SP1)
                self._kept.remove((name, size_bytes))
                return False
            except OSError:  # a file system without hard links
                return False
            self._kept.remove((name, size_bytes))
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._root)
        return True

    def give_up(self) -> bool:
        """Delete all; False: there was none."""
        with self._lock:
            for name, _ in self._kept:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._root)
            had_some = bool(self._kept)
            self._kept.clear()
        return had_some

    def give_up_if_short(self, need_bytes: int) -> None:
        """SP2, for files that cannot use a spare."""
        room = os.fstatvfs(self._root)
        if room.f_bavail * room.f_frsize < 2 * need_bytes + SHORT_BYTES:
            self.give_up()

    def _remove_orphans(self) -> None:
        """Delete what processes that have ended left behind."""
        for name in os.listdir(self._root):
            owner, _, rest = name.removeprefix(PREFIX).partition("-")
            if name.startswith(PREFIX) and owner.isdecimal() and not _is_in_use(int(owner), rest.partition("-")[0]):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._root)


def _is_in_use(pid: int, token: str) -> bool:
    """A restarted container has the process id of the one that was killed."""
    return token in _tokens if pid == os.getpid() else _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
