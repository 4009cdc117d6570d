"""Calls of the system that Python's os does not have, or not with all that they can do."""

import ctypes
import os
from types import TracebackType
from typing import Final, NoReturn, Self

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
UTIME_NOW: Final = (1 << 30) - 1
UTIME_OMIT: Final = (1 << 30) - 2
NS: Final = 10**9

_AT_FDCWD: Final = -100
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_long))


class _Dirent(ctypes.Structure):
    _fields_ = (
        ("inode", ctypes.c_uint64), ("offset", ctypes.c_int64), ("length", ctypes.c_ushort),
        ("kind", ctypes.c_ubyte), ("name", ctypes.c_char * 256),
    )  # fmt: skip


_libc.opendir.restype = ctypes.c_void_p
_libc.opendir.argtypes = (ctypes.c_char_p,)
_libc.readdir.restype = ctypes.POINTER(_Dirent)
_libc.readdir.argtypes = (ctypes.c_void_p,)
_libc.telldir.restype = ctypes.c_long
_libc.telldir.argtypes = (ctypes.c_void_p,)
_libc.seekdir.restype = None
_libc.seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)
_libc.closedir.argtypes = (ctypes.c_void_p,)


def renameat2(old: bytes, new: bytes, flags: int) -> None:
    if _libc.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, ctypes.c_uint(flags)):
        _fail(old)


def utimensat(path: bytes, atime_ns: int, mtime_ns: int, follow: bool = True) -> None:
    """Times in nanoseconds; UTIME_NOW and UTIME_OMIT (which are no times anybody sets) mean themselves."""
    times = (_Timespec * 2)(_timespec(atime_ns), _timespec(mtime_ns))
    if _libc.utimensat(_AT_FDCWD, path, times, 0 if follow else _AT_SYMLINK_NOFOLLOW):
        _fail(path)


def _timespec(time_ns: int) -> _Timespec:
    if time_ns in (UTIME_NOW, UTIME_OMIT):
        return _Timespec(0, time_ns)
    return _Timespec(*divmod(time_ns, NS))


def _fail(path: bytes) -> NoReturn:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), path)


class DirectoryStream:
    """opendir(3) and its friends. Positions are those of telldir."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._stream = _libc.opendir(os.fsencode(path))
        if not self._stream:
            _fail(os.fsencode(path))

    def read(self) -> bytes | None:
        """The next name; None at the end."""
        ctypes.set_errno(0)
        entry = _libc.readdir(self._stream)
        if entry:
            return bytes(entry.contents.name)
        if ctypes.get_errno():
            _fail(b"readdir")
        return None

    def tell(self) -> int:
        return int(_libc.telldir(self._stream))

    def seek(self, position: int) -> None:
        _libc.seekdir(self._stream, position)

    def rest(self) -> list[bytes]:
        """All names from here on but `.` and `..`."""
        names = iter(self.read, None)
        return [name for name in names if name not in (b".", b"..")]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _libc.closedir(self._stream)
