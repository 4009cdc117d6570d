"""What an errno of a raw device means to the layers above (B11). Room is a matter of our table, never of the kernel."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from sds.core.errors import BackendError, Missing, SdsError


def error_of(url: str, name: str, error: OSError) -> SdsError:
    where = f"{url}: {name}" if name else url
    reason = os.strerror(error.errno or errno.EIO)
    match error.errno:
        case errno.ENOENT | errno.ENXIO | errno.ENODEV | errno.ENOMEDIUM:
            return BackendError(f"{where}: {reason}: the device is gone; attach it again")
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return BackendError(f"{where}: {reason}; the daemon needs the right to write to the device")
        case _:
            return BackendError(f"{where}: {reason}; check the device")


def missing(url: str, name: str) -> Missing:
    return Missing(f"{url}: {name}: no such file")


@contextmanager
def errors(url: str, name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise error_of(url, name, error) from error
