"""Other users, for what root may do anyway: a function runs in a child that has become one of them."""

import errno
import os
import pickle
import traceback
from collections.abc import Callable
from typing import Final

NOBODY: Final = 65534
SOMEBODY: Final = 12345
"""Another one; a user needs no entry in /etc/passwd to own files."""


def as_user(uid: int, function: Callable[[], object], gid: int | None = None) -> object:
    """What it returns, or the name of its errno, if it fails with an OSError. `gid`: the uid if not given."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            os.setgroups([])
            os.setgid(uid if gid is None else gid)
            os.setuid(uid)
            os.umask(0o022)
            with os.fdopen(writing, "wb") as pipe:
                pickle.dump(outcome(function), pipe)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, "the other user failed, see standard error"
    return pickle.loads(said)


def outcome(function: Callable[[], object]) -> object:
    """What it returns, or the name of its errno."""
    try:
        return function()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
