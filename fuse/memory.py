"""The memory allocator, told that buffers of a megabyte are the everyday case of a mount.

Every request of the kernel lands in a buffer of 1 MiB, and the data of a write in another one. glibc gives such back
to the system at once, and the next one is mapped and cleared page by page again, which costs more than the copying.
With these thresholds they stay in the heap.
"""

import ctypes
import logging
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_TOP_PAD: Final = -2
M_MMAP_THRESHOLD: Final = -3
MMAP_THRESHOLD_BYTES: Final = 32 << 20
TRIM_THRESHOLD_BYTES: Final = 128 << 20
TOP_PAD_BYTES: Final = 16 << 20

_log = logging.getLogger(__name__)


def keep_large_buffers() -> bool:
    """For the whole process, from now on. False, and nothing else, where the C library has no such settings."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        _log.debug("this C library has no mallopt")
        return False
    settings = (
        (M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
        (M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
        (M_TOP_PAD, TOP_PAD_BYTES),
    )
    return all(mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings)
