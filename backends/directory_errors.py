"""What an errno of the file system means to the layers above (B11)."""

import errno
import os

from sds.core.errors import BackendError, Corrupt, Exists, Missing, NoSpace, SdsError


def error_of(url: str, name: str, error: OSError) -> SdsError:
    where = f"{url}: {name}"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return NoSpace(f"{where}: no space left; free space or add a backend")
        case errno.ENOENT:
            return Missing(f"{where}: no such file")
        case errno.EEXIST:
            return Exists(f"{where}: exists already; choose another name")
        case errno.ELOOP:
            return Corrupt(f"{where}: is a symbolic link; move it out of the pool")
        case errno.ENOTDIR | errno.EISDIR:
            return Corrupt(f"{where}: a file is in the place of a directory, or the reverse; move it away")
        case _:
            return BackendError(f"{where}: {os.strerror(error.errno or errno.EIO)}; check the disk")
