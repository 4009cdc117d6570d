"""Which sizes a volume may have."""

from typing import Final

from sds.core.errors import BadInput
from sds.core.units import format_size

SECTOR: Final = 4096
VOLUME_BYTES_MAX: Final = 1 << 60


def check_size(size_bytes: int) -> int:
    """The size itself if it is one."""
    if size_bytes <= 0 or size_bytes % SECTOR:
        raise BadInput(f"a volume cannot have {size_bytes} bytes: use a multiple of 4K, at least 4K")
    if size_bytes > VOLUME_BYTES_MAX:
        largest = format_size(VOLUME_BYTES_MAX)
        raise BadInput(f"a volume of {format_size(size_bytes)} is too large: use {largest} or less")
    return size_bytes
