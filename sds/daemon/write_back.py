"""Having the kernel write what it holds of a mount with the writeback cache: before a snapshot says that it has it.

  WB1  syncfs(2) starts the writing of everything, in large pieces, but does not wait for all of it on a FUSE mount. To
       close a file does: the kernel then writes what it has of that file, and waits for what is under way.
  WB2  So every open file is opened and closed once more, by its node id. Files that nobody has open were
       closed by somebody, so nothing of them is waiting.
  WB3  Only root may open by node id. For others WB1 has to do, and what is under way may be missed.
  WB4  A process of its own does it (MO5 of fuse/mount.py): `python -m sds.daemon.write_back DIRECTORY`, with the node
       ids, one in a line, on its stdin. The requests that this causes are served by the worker that waits for it.
"""

import ctypes
import errno
import os
import struct
import subprocess
import sys
from collections.abc import Iterable
from typing import Final

_FILEID_INO64_GEN: Final = 0x81
_HANDLE: Final = struct.Struct("=IiIII")
"""struct file_handle: size, type, then as fs/fuse encodes it: node id (high, low), generation."""
_HANDLE_BYTES: Final = 12
_libc = ctypes.CDLL(None, use_errno=True)


def write_back(directory: str, opened: Iterable[int]) -> None:
    """`opened`: the node ids of the files that are open. For a thread; WB4."""
    command = [sys.executable, "-P", "-m", "sds.daemon.write_back", directory]
    done = subprocess.run(command, input="\n".join(map(str, opened)), capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2] or "the process that writes back failed"
        raise OSError(errno.EIO, reason)


def main() -> None:
    mount = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
    if _libc.syncfs(mount) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    for line in sys.stdin.read().split():
        if not _open_and_close(mount, int(line)):
            return  # WB3


def _open_and_close(mount: int, node: int) -> bool:
    """WB2. False: this is not for us to do. A file that is gone meanwhile was closed."""
    handle = ctypes.create_string_buffer(
        _HANDLE.pack(_HANDLE_BYTES, _FILEID_INO64_GEN, node >> 32, node & 0xFFFFFFFF, 0), _HANDLE.size
    )
    opened = _libc.open_by_handle_at(mount, handle, os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME)
    if opened < 0:
        number = ctypes.get_errno()
        if number in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        if number in (errno.ESTALE, errno.ENOENT):
            return True
        raise OSError(number, os.strerror(number))
    os.close(opened)
    return True


if __name__ == "__main__":
    main()
