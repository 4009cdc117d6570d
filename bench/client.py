"""A small NBD client on libnbd, for what fio cannot do: timed requests, trims, scattered extents."""

import time
from collections.abc import Iterable
from types import ModuleType
from typing import Any

IN_FLIGHT_MAX = 16
TRIM_PIECE_BYTES = 2 << 30


def libnbd() -> ModuleType:
    """The binding comes from Debian; without it only the benchmarks that need it fail."""
    try:
        import nbd
    except ImportError:
        raise SystemExit("bench: libnbd is missing: install python3-libnbd, then make setup") from None
    module: ModuleType = nbd
    return module


def connect(uri: str) -> Any:
    handle = libnbd().NBD()
    handle.connect_uri(uri)
    return handle


def first_read_s(uri: str) -> float:
    """Seconds until a new connection has its first block."""
    begin_s = time.monotonic()
    handle = connect(uri)
    handle.pread(4096, 0)
    elapsed_s = time.monotonic() - begin_s
    handle.shutdown()
    return elapsed_s


def write_scattered(uri: str, offsets: Iterable[int], block: bytes) -> None:
    handle = connect(uri)
    buffer = libnbd().Buffer.from_bytearray(bytearray(block))
    for offset in offsets:
        while handle.aio_in_flight() >= IN_FLIGHT_MAX:
            handle.poll(-1)
        handle.aio_pwrite(buffer, offset, completion=_raise_on_error)
    _drain(handle)
    handle.flush()
    handle.shutdown()


def trim_everything_s(uri: str) -> float:
    """Seconds to trim the whole device and flush, in pieces as large as a 32-bit length allows."""
    handle = connect(uri)
    size = handle.get_size()
    begin_s = time.monotonic()
    for offset in range(0, size, TRIM_PIECE_BYTES):
        while handle.aio_in_flight() >= IN_FLIGHT_MAX:
            handle.poll(-1)
        handle.aio_trim(min(TRIM_PIECE_BYTES, size - offset), offset, completion=_raise_on_error)
    _drain(handle)
    handle.flush()
    elapsed_s = time.monotonic() - begin_s
    handle.shutdown()
    return elapsed_s


def is_hole_everywhere(uri: str, offsets: Iterable[int]) -> bool:
    handle = connect(uri)
    blank = all(not any(handle.pread(4096, offset)) for offset in offsets)
    handle.shutdown()
    return blank


def _drain(handle: Any) -> None:
    while handle.aio_in_flight() > 0:
        handle.poll(-1)


def _raise_on_error(error: Any) -> int:
    if error.value:
        raise OSError(error.value, "the server answered a request with an error")
    return 1
