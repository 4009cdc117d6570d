"""What every handler is wrapped in: errors to errno, metrics, the log of slow operations, the access log.

  H1  A wrapped handler ends with a result, with FUSEError, or cancelled. Anything else would end the mount.
  H2  A handler is wrapped once, when the operations are made; the wrapper only waits when the handler has failed, so
      that a buffer that a read returns is still stable when pyfuse3 sends it.
  H3  ENOSYS makes the kernel never ask again: only handlers that say so themselves (FUSEError) may answer it.
  H4  A forget has no reply, and pyfuse3 expects no error of it: its errors are only logged.

What an error becomes:

    OSError                           its errno (without one: EIO, logged)
    NoSpace, BadInput, Exists, Busy   ENOSPC, EINVAL, EEXIST, EBUSY
    Corrupt, BackendError, Missing    EIO, logged with the operation, the inode and its path
    Failed, Fenced                    EROFS for a change, else EIO (the worker has told about it already)
    anything else                     EIO, logged with its traceback
"""

import errno
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from pyfuse3 import FUSEError, RequestContext

from sds.core.errors import BackendError, Corrupt, Failed, Fenced, Missing, SdsError

CHANGES: Final = (
    "setattr", "mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link", "open", "create", "write",
    "setxattr", "removexattr",
)  # fmt: skip
"""`open` is one, for it may truncate; to open for reading neither fails nor is fenced."""
SLOW_S: Final = 1.0
_SHOWN_BYTES: Final = 64

Handler = Callable[..., Awaitable[Any]]
Tell = Callable[[str], None]
_log = logging.getLogger(__name__)
_clock = time.perf_counter


class Meter:
    """What one operation was asked for and took."""

    __slots__ = ("count", "errors", "max_s", "total_s")

    def __init__(self) -> None:
        self.count = 0
        self.errors = 0
        self.max_s = 0.0
        self.total_s = 0.0


class Handlers:
    """`slow_s`: operations that take longer are logged. `access`: gets one line per request."""

    def __init__(self, slow_s: float = SLOW_S, access: Tell | None = None) -> None:
        self.meters: dict[str, Meter] = {}
        self._tell_above_s = slow_s if access is None else -1.0
        self._slow_s = slow_s
        self._access = access
        self.path_of: Callable[[int], Awaitable[str]] | None = None
        """Of an inode, for the log."""

    def metrics(self) -> dict[str, dict[str, float]]:
        """By operation, of those that were asked for; seconds from the request to its reply."""
        return {
            name: {"count": meter.count, "errors": meter.errors, "total_s": meter.total_s, "max_s": meter.max_s}
            for name, meter in sorted(self.meters.items())
            if meter.count
        }

    def wrap(self, name: str, handler: Handler) -> Handler:
        """H1. The clock is read twice and the meter is a plain object: this is paid by every request."""
        meter = self.meters.setdefault(name, Meter())
        tell_above_s = self._tell_above_s

        async def handle(*arguments: Any) -> Any:
            began = _clock()
            outcome = 0
            try:
                return await handler(*arguments)
            except FUSEError as error:
                outcome = error.errno
                meter.errors += 1
                raise
            except Exception as error:
                outcome = to_errno(name, error)
                await self._log_failure(name, arguments, error)
                meter.errors += 1
                raise FUSEError(outcome) from None
            finally:
                seconds = _clock() - began
                meter.count += 1
                meter.total_s += seconds
                if seconds > meter.max_s:
                    meter.max_s = seconds
                if seconds > tell_above_s:
                    self._tell(name, arguments, outcome, seconds)

        return handle

    async def _log_failure(self, name: str, arguments: tuple[Any, ...], error: Exception) -> None:
        """Of what is not an answer, but a defect: of stored data, or of ours."""
        error = sole(error)
        if isinstance(error, Corrupt | BackendError | Missing):
            _log.error("%s of %s: %s", name, await self._described(arguments), error)
        elif not isinstance(error, SdsError) and not (isinstance(error, OSError) and error.errno):
            _log.error("%s of %s failed unexpectedly", name, await self._described(arguments), exc_info=error)

    async def _described(self, arguments: tuple[Any, ...]) -> str:
        """Every handler has its inode, its directory or its file handle, which is an inode, in front."""
        inode = arguments[0] if arguments else None
        if self.path_of is None or not isinstance(inode, int):
            return f"inode {inode if isinstance(inode, int) else '?'}"
        try:
            return f"inode {inode}, {await self.path_of(inode)}"
        except Exception:  # H1
            return f"inode {inode}"

    def wrap_forget(self, handler: Handler) -> Handler:
        """H4."""
        wrapped = self.wrap("forget", handler)

        async def handle(*arguments: Any) -> None:
            try:
                await wrapped(*arguments)
            except FUSEError as error:
                _log.error("forget failed: %s", errno_name(error.errno))

        return handle

    def _tell(self, name: str, arguments: tuple[Any, ...], outcome: int, seconds: float) -> None:
        line = f"{name}({', '.join(map(shown, arguments))}) {errno_name(outcome) if outcome else 'ok'} {seconds:.6f} s"
        if seconds > self._slow_s:
            _log.warning("slow: %s", line)
        if self._access is not None:
            try:
                self._access(line)
            except Exception:  # H1: a full disk under the access log is no reason to refuse a request
                self._access = None
                _log.exception("the access log ends here")


def sole(error: Exception) -> Exception:
    """What a group of one holds."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def to_errno(name: str, error: Exception) -> int:
    """The table above."""
    error = sole(error)
    if isinstance(error, OSError) and error.errno:
        return errno.EOPNOTSUPP if error.errno == errno.ENOSYS else error.errno  # H3
    if isinstance(error, Failed | Fenced):
        return errno.EROFS if name in CHANGES else errno.EIO
    if isinstance(error, SdsError) and not isinstance(error, Corrupt | BackendError | Missing):
        return error.errno
    return errno.EIO


def shown(value: object) -> str:
    """An argument in one line of a log."""
    if isinstance(value, bytes):
        return repr(value)[1:] if len(value) <= _SHOWN_BYTES else f"{len(value)} bytes"
    if isinstance(value, int | list):
        return str(value)
    if isinstance(value, RequestContext):
        return f"uid {value.uid} pid {value.pid}"
    return "-"


def errno_name(number: int) -> str:
    return errno.errorcode.get(number, str(number))
