"""Files in a directory: the blocking half of DirectoryBackend. Every method may be called from any thread.

  D1  A name is durable when put, or the first sync of the file, returns: the file and every directory above it have
      been fsynced. Each object fsyncs the directories that it meets for the first time, whoever made them.
  D2  Room is sure: files are preallocated before anybody is told that they exist.
  D3  A write error is never lost: all writes and syncs of a file go through one descriptor, which is synced
      before it is closed early; after an error the file is final (B4), also for syncs that await their turn.
  D4  No name leads out of the directory: every part is opened relative to its parent without following
      symbolic links. Temporary files start with a `.`, which no name can (M2).
"""

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sds.core.errors import BackendError, BadInput, Corrupt, Missing

from .base import Stat, Usage
from .directory_errors import error_of
from .directory_write import WriteFile, write_all
from .names import check_name, check_prefix, check_range, check_size, is_name
from .spares import Spares

WRITE_FILES_MAX = 64
"""Descriptors kept for files that are being written; an idle one is synced and closed to make room."""
TEMPORARY_PREFIX = ".tmp-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a stray FIFO must not hang; it means nothing for regular files.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class DirectoryFiles:
    def __init__(self, path: str) -> None:
        self.url = os.path.normpath(path)
        if not os.path.isabs(self.url):
            raise BadInput(f"{path}: not an absolute path; a directory backend needs one")
        try:
            self._root = os.open(self.url, _DIRECTORY)
        except OSError as error:
            if os.path.islink(self.url):
                raise BadInput(f"{self.url}: is a symbolic link; name the directory itself") from error
            if error.errno == errno.ENOENT:
                raise Missing(f"{self.url}: no such directory; create it first") from error
            raise BadInput(f"{self.url}: cannot be opened as a directory: {error.strerror}") from error
        self._lock = threading.Lock()  # Guards the fields below.
        self._durable_directories = {""}
        self._writing: dict[str, WriteFile] = {}
        self._final: dict[str, str] = {}
        self._temporary_count = 0
        self._failed_directories: set[str] = set()
        self._spares = Spares(self._root)

    def create(self, name: str, size_bytes: int) -> None:
        check_name(self.url, name)
        check_size(self.url, name, size_bytes, 1 << 62)
        with self._errors(name), self._parent(name, make=True) as (parent, base):
            if self._spares.use(parent, base, size_bytes):
                return
            try:
                _preallocate(parent, base, size_bytes)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._spares.give_up():
                    raise
                _preallocate(parent, base, size_bytes)

    def write(self, name: str, offset: int, data: memoryview, sync: bool) -> None:
        with self._errors(name), self._write_file(name) as file:
            check_range(self.url, name, offset, data.nbytes, file.size_bytes)
            with self._final_on_error(name, file):
                file.write(offset, data)
                if sync:
                    self._sync(name, file)

    def sync(self, name: str) -> None:
        with self._errors(name), self._write_file(name) as file, self._final_on_error(name, file):
            self._sync(name, file)

    def _sync(self, name: str, file: WriteFile) -> None:
        """D1: with the first sync of a file its name becomes durable, too."""
        file.sync(lambda: self._sync_parent(name))

    def _sync_parent(self, name: str) -> None:
        """A directory that failed once is final, too: the kernel tells of an error only once."""
        path = name.rpartition("/")[0]
        if path in self._failed_directories:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        with self._parent(name) as (parent, _):
            try:
                os.fsync(parent)
            except OSError:
                self._failed_directories.add(path)
                raise

    def seal(self, name: str, size_bytes: int) -> None:
        with self._errors(name), self._write_file(name) as file:
            check_size(self.url, name, size_bytes, file.size_bytes)
            with self._final_on_error(name, file):
                file.cut(size_bytes)
                self._sync(name, file)
            self._retire(name)

    def open_for_reading(self, name: str) -> int:
        """A descriptor of a regular file."""
        check_name(self.url, name)
        with self._errors(name), self._parent(name) as (parent, base):
            fd = os.open(base, _READ, dir_fd=parent)
            try:
                self._need_regular(fd, name)
            except BaseException:
                os.close(fd)
                raise
            return fd

    def get(self, name: str, size_limit_bytes: int) -> bytes:
        fd = self.open_for_reading(name)
        try:
            with self._errors(name):
                size = os.fstat(fd).st_size
                if size > size_limit_bytes:
                    raise Corrupt(f"{self.url}: {name}: {size} bytes, expected at most {size_limit_bytes}")
                pieces = []
                while piece := os.read(fd, size_limit_bytes + 1):
                    pieces.append(piece)
                return b"".join(pieces)
        finally:
            os.close(fd)

    def put(self, name: str, data: bytes) -> None:
        check_name(self.url, name)
        with self._lock:
            self._temporary_count += 1
            number = self._temporary_count
        self._spares.give_up_if_short(len(data))
        with self._errors(name), self._parent(name, make=True) as (parent, base):
            temporary = f"{TEMPORARY_PREFIX}{os.getpid()}-{number}-{base}"
            fd = os.open(temporary, _NEW, 0o600, dir_fd=parent)
            try:
                write_all(fd, 0, memoryview(data))
                os.fsync(fd)
                os.rename(temporary, base, src_dir_fd=parent, dst_dir_fd=parent)
            except OSError:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=parent)
                raise
            finally:
                os.close(fd)
            os.fsync(parent)

    def delete(self, name: str) -> None:
        check_name(self.url, name)
        self._retire(name)
        with suppress(Missing), self._errors(name), self._parent(name) as (parent, base):
            if not self._spares.keep(parent, base):
                os.unlink(base, dir_fd=parent)
        with self._lock:
            self._final.pop(name, None)

    def find(self, prefix: str) -> list[Stat]:
        check_prefix(self.url, prefix)
        top = prefix.rpartition("/")[0]
        found: list[Stat] = []
        with suppress(Missing), self._errors(top or "."), self._parent(f"{top}/x" if top else "x") as (fd, _):
            self._collect(fd, f"{top}/" if top else "", prefix, found)
        return sorted(found, key=lambda entry: entry.name)

    def usage(self) -> Usage:
        with self._errors("."):
            room = os.fstatvfs(self._root)
        return Usage(room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize + self._spares.size_bytes)

    def close(self) -> None:
        for name in list(self._writing):
            self._retire(name)
        if self._root >= 0:
            self._spares.give_up()
            os.close(self._root)
            self._root = -1

    # Directories

    @contextmanager
    def _parent(self, name: str, make: bool = False) -> Iterator[tuple[int, str]]:
        """The open directory of a name, and its last part (D1, D4)."""
        *parts, base = name.split("/")
        fd = os.open(".", _DIRECTORY, dir_fd=self._root)
        path = ""
        try:
            for part in parts:
                path = f"{path}/{part}"
                below = self._enter(fd, part, make)
                try:
                    if make and path not in self._durable_directories:
                        os.fsync(fd)
                        with self._lock:
                            self._durable_directories.add(path)
                finally:
                    os.close(fd)
                    fd = below
            yield fd, base
        finally:
            os.close(fd)

    @staticmethod
    def _enter(fd: int, part: str, make: bool) -> int:
        if make:
            with suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=fd)
        try:
            return os.open(part, _DIRECTORY, dir_fd=fd)
        except NotADirectoryError:
            if stat.S_ISLNK(os.lstat(part, dir_fd=fd).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
            raise

    def _collect(self, fd: int, at: str, prefix: str, found: list[Stat]) -> None:
        with os.scandir(fd) as entries:
            for entry in entries:
                name = at + entry.name
                if not is_name(name) or not (name.startswith(prefix) or prefix.startswith(name + "/")):
                    continue
                with suppress(FileNotFoundError):  # It went away between the two calls.
                    if entry.is_dir(follow_symlinks=False):
                        below = self._enter(fd, entry.name, make=False)
                        try:
                            self._collect(below, name + "/", prefix, found)
                        finally:
                            os.close(below)
                    elif entry.is_file(follow_symlinks=False):
                        found.append(Stat(name, entry.stat(follow_symlinks=False).st_size))

    def _need_regular(self, fd: int, name: str) -> None:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Corrupt(f"{self.url}: {name}: is not a regular file; move it out of the pool")

    # Files that are being written

    @contextmanager
    def _write_file(self, name: str) -> Iterator[WriteFile]:
        check_name(self.url, name)
        with self._lock:
            self._refuse_final(name)
            file = self._writing.get(name)
            if file is None:
                self._make_room()
                with self._parent(name) as (parent, base):
                    file = WriteFile.open(parent, base)
                self._writing[name] = file
            file.users += 1
        try:
            yield file
        finally:
            with self._lock:
                file.users -= 1
                file.close_if_done()

    def _refuse_final(self, name: str) -> None:
        if name in self._final:
            raise BackendError(
                f"{self.url}: {name}: failed earlier ({self._final[name]}); write the data elsewhere"
            )

    def _make_room(self) -> None:
        """D3: sync before an early close, or an error of the page cache could be lost with the descriptor."""
        if len(self._writing) < WRITE_FILES_MAX:
            return
        for name, file in self._writing.items():
            if not file.users:
                del self._writing[name]
                try:
                    file.sync()
                except OSError as error:
                    self._final[name] = os.strerror(error.errno or errno.EIO)
                file.retired = True
                file.close_if_done()
                return

    @contextmanager
    def _final_on_error(self, name: str, file: WriteFile) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with self._lock:
                self._final.setdefault(name, os.strerror(error.errno or errno.EIO))
            self._retire(name)
            raise

    def _retire(self, name: str) -> None:
        with self._lock:
            file = self._writing.pop(name, None)
            if file is not None:
                file.retired = True
                file.close_if_done()

    # Errors

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """B11."""
        try:
            yield
        except OSError as error:
            raise error_of(self.url, name, error) from error


def _preallocate(parent: int, base: str, size_bytes: int) -> None:
    """A new file with room for all of its bytes, or none."""
    fd = os.open(base, _NEW, 0o600, dir_fd=parent)
    try:
        if size_bytes:
            os.posix_fallocate(fd, 0, size_bytes)
    except OSError:
        with suppress(OSError):
            os.unlink(base, dir_fd=parent)
        raise
    finally:
        os.close(fd)
