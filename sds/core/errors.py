"""The errors of sds. Each class says who must act; each message is one line that says what to do.

    SdsError
     ├─ BadInput       the user: a name, size, option or request that can never work
     ├─ Missing        the user: no such pool, dataset, snapshot, object
     ├─ Exists         the user: the name is taken
     ├─ Busy           the user: somebody else holds it (the message says who)
     ├─ NoSpace        the operator: free space or add a backend, then go on
     ├─ Corrupt        the operator: a stored object is damaged or foreign (the message names it)
     ├─ BackendError   the operator: a backend answers with I/O errors
     │   └─ Hung       the operator: a backend does not answer at all; what was asked of it may still happen
     ├─ Fenced         nobody here: another worker owns the dataset now, this one must end
     └─ Failed         the operator: the dataset went read-only after an error it could not repair
"""

import errno


class SdsError(Exception):
    """Base of all errors that sds raises on purpose."""

    errno = errno.EIO


class BadInput(SdsError):
    errno = errno.EINVAL


class Missing(SdsError):
    errno = errno.ENOENT


class Exists(SdsError):
    errno = errno.EEXIST


class Busy(SdsError):
    errno = errno.EBUSY


class NoSpace(SdsError):
    errno = errno.ENOSPC


class Corrupt(SdsError):
    errno = errno.EIO


class BackendError(SdsError):
    errno = errno.EIO


class Hung(BackendError):
    """No answer within the limit (B13 of backends/base.py)."""


class Fenced(SdsError):
    errno = errno.ESHUTDOWN


class Failed(SdsError):
    errno = errno.EROFS
