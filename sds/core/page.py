"""Map pages: where PAGE_BLOCKS consecutive blocks of one inode live; how a page is stored.

In memory a page is `array('Q')` of PAGE_BLOCKS addresses; 0 is a hole. Stored, the first byte is the form:

    RUNS    01 | width (1) | runs                     run: first (1) | count - 1 (1) | address (width)
    PLANES  02 | varying (1) | constant (1) | constants | planes of PAGE_BLOCKS bytes
    BITMAP  03 | varying (1) | constant (1) | bitmap (PAGE_BLOCKS / 8) | constants | planes of n bytes

Numbers are little endian. A run is consecutive addresses, as sequential writes and lone blocks leave them. A
plane is byte k of every entry, k = 0 the lowest; `varying` says which planes are stored, `constant` which
have the same byte, not 0, in every entry (it is stored once); the others are 0. Bit i of the bitmap (bit 0 of
byte 0 is entry 0) says that entry i is not a hole; the n planes' bytes belong to those entries in order.

A page is the value of its MAP key in a leaf, one of

    00 | encoded page of at most INLINE_SIZE_MAX bytes
    01 | address (8) of the frame that holds the encoded page | count of blocks that are not holes - 1 (1)

  M1  Every page has an encoding of at most ENCODED_SIZE_MAX bytes, one of four runs or less fits inline.
  M2  Decoding checks every length before it allocates, and allocates one page at most.
"""

import sys
from array import array
from itertools import compress

from sds.core.errors import Corrupt

PAGE_BLOCKS = 128
"""Chosen with the planner: docs/decisions/0003-map-page-size.md."""

INLINE_SIZE_MAX = 48
ENTRY_SIZE = 8
ENCODED_SIZE_MAX = 3 + PAGE_BLOCKS // 8 + ENTRY_SIZE * PAGE_BLOCKS

_RUNS, _PLANES, _BITMAP = 1, 2, 3
_INLINE, _OUTSIDE = b"\x00", b"\x01"
_BITMAP_SIZE = PAGE_BLOCKS // 8
_ADDRESS_MAX = (1 << 64) - 1
_SWAP = sys.byteorder == "big"
_PLANES_OF_MASK = [tuple(k for k in range(ENTRY_SIZE) if mask >> k & 1) for mask in range(256)]
_BITS_TO_BYTES = bytes.maketrans(b"01", b"\x00\x01")
_BYTES_TO_BITS = bytes.maketrans(b"\x00\x01", b"01")
assert PAGE_BLOCKS <= 256, "first and count of a run are one byte"


def new_page() -> "array[int]":
    """A page of holes."""
    return array("Q", bytes(ENTRY_SIZE * PAGE_BLOCKS))


def encode_page(page: "array[int]") -> bytes:
    assert len(page) == PAGE_BLOCKS
    raw = _to_little(page)
    # Within a run byte 1 of the address rarely changes, so pages of few runs show without a look at each
    # entry.
    middle = int.from_bytes(raw[1::ENTRY_SIZE], "little")
    changes = PAGE_BLOCKS - (middle ^ middle >> 8).to_bytes(PAGE_BLOCKS, "little").count(0)
    short = _encode_runs(page) if changes <= PAGE_BLOCKS // 2 else b""
    if 0 < len(short) <= INLINE_SIZE_MAX:
        return short
    # Segment ids start at 1: where byte 3 is never 0 there is no hole.
    holes = 0 in raw[3::ENTRY_SIZE] and 0 in page
    planes = _encode_bitmap(page) if holes else _encode_planes(_PLANES, b"", raw, PAGE_BLOCKS)
    return short if 0 < len(short) <= len(planes) else planes


def decode_page(data: bytes, what: str = "map page") -> "array[int]":
    """The page that `encode_page` got. `what` names it in the error."""
    form = data[0] if data else 0
    if len(data) > ENCODED_SIZE_MAX or len(data) < 2:
        raise _corrupt(what, f"{len(data)} bytes")
    if form == _PLANES:
        return _decode_planes(data, 3, PAGE_BLOCKS, what)
    if form == _BITMAP:
        return _decode_bitmap(data, what)
    if form == _RUNS:
        return _decode_runs(data, what)
    raise _corrupt(what, f"unknown form {form}")


def inline_value(encoded: bytes) -> bytes:
    """The leaf value of a page that lives in its leaf."""
    assert len(encoded) <= INLINE_SIZE_MAX
    return _INLINE + encoded


def outside_value(address: int, block_count: int) -> bytes:
    """The leaf value of a page with so many blocks that lives in a frame of its own."""
    assert 0 < address <= _ADDRESS_MAX
    assert 0 < block_count <= PAGE_BLOCKS
    return _OUTSIDE + address.to_bytes(8, "little") + bytes((block_count - 1,))


def decode_value(value: bytes, what: str = "map page") -> "array[int] | int":
    """The page if it is inline, else the address of its frame."""
    tag = value[:1]
    if tag == _OUTSIDE and len(value) == 10 and value[9] < PAGE_BLOCKS and any(value[1:9]):
        return int.from_bytes(value[1:9], "little")
    if tag == _INLINE and len(value) <= 1 + INLINE_SIZE_MAX:
        return decode_page(value[1:], what)
    raise _corrupt(what, "neither inline nor an address")


def value_block_count(value: bytes, what: str = "map page") -> int:
    """How many blocks of the page are not holes; never needs the frame."""
    page = decode_value(value, what)
    return value[9] + 1 if isinstance(page, int) else PAGE_BLOCKS - page.count(0)


def _corrupt(what: str, why: str) -> Corrupt:
    return Corrupt(f"{what} is damaged ({why}); restore it from a snapshot or a backup")


def _to_little(page: "array[int]") -> bytes:
    if _SWAP:
        page = page[:]
        page.byteswap()
    return page.tobytes()


def _from_little(raw: bytes | bytearray) -> "array[int]":
    page = array("Q")
    page.frombytes(raw)
    if _SWAP:
        page.byteswap()
    return page


def _encode_planes(form: int, bitmap: bytes, raw: bytes, count: int) -> bytes:
    varying = constant = 0
    constants = bytearray()
    planes = []
    for k in range(ENTRY_SIZE):
        plane = raw[k::ENTRY_SIZE]
        first = plane[0]
        if plane.count(first) != count:
            varying |= 1 << k
            planes.append(plane)
        elif first:
            constant |= 1 << k
            constants.append(first)
    return b"".join((bytes((form, varying, constant)), bitmap, constants, *planes))


def _decode_planes(data: bytes, at: int, count: int, what: str) -> "array[int]":
    varying, constant = data[1], data[2] if len(data) > 2 else 0
    planes, constants = _PLANES_OF_MASK[varying], _PLANES_OF_MASK[constant]
    if varying & constant or len(data) != at + len(constants) + count * len(planes):
        raise _corrupt(what, f"{len(data)} bytes do not fit its planes")
    raw = bytearray(ENTRY_SIZE * count)
    for k in constants:
        raw[k::ENTRY_SIZE] = data[at : at + 1] * count
        at += 1
    for k in planes:
        raw[k::ENTRY_SIZE] = data[at : at + count]
        at += count
    return _from_little(raw)


def _encode_bitmap(page: "array[int]") -> bytes:
    there = bytes(map(bool, page))
    entries = array("Q", compress(page, there))
    bitmap = int(there[::-1].translate(_BYTES_TO_BITS), 2).to_bytes(_BITMAP_SIZE, "little")
    return _encode_planes(_BITMAP, bitmap, _to_little(entries), len(entries))


def _decode_bitmap(data: bytes, what: str) -> "array[int]":
    bitmap = int.from_bytes(data[3 : 3 + _BITMAP_SIZE], "little")
    count = bitmap.bit_count()
    if not count:
        raise _corrupt(what, "an empty bitmap")
    entries = _decode_planes(data, 3 + _BITMAP_SIZE, count, what)
    there = f"{bitmap:0{PAGE_BLOCKS}b}".encode().translate(_BITS_TO_BYTES)[::-1]
    page = new_page()
    for i, address in zip(compress(range(PAGE_BLOCKS), there), entries, strict=True):
        page[i] = address
    return page


def _encode_runs(page: "array[int]") -> bytes:
    runs: list[tuple[int, int, int]] = []
    first = start = following = 0
    for i, address in enumerate(page):
        if address == following and address:
            following += 1
            continue
        if start:
            runs.append((first, i - first, start))
        first, start, following = i, address, address + 1 if address else 0
    if start:
        runs.append((first, PAGE_BLOCKS - first, start))
    width = max(((start.bit_length() + 7) // 8 for _, _, start in runs), default=1)
    out = bytearray((_RUNS, width))
    for first, count, start in runs:
        out += bytes((first, count - 1)) + start.to_bytes(width, "little")
    return bytes(out)


def _decode_runs(data: bytes, what: str) -> "array[int]":
    width = data[1]
    step = 2 + width
    if not 1 <= width <= ENTRY_SIZE or (len(data) - 2) % step:
        raise _corrupt(what, f"{len(data)} bytes are no list of runs")
    page = new_page()
    end = 0
    for at in range(2, len(data), step):
        first, count = data[at], data[at + 1] + 1
        start = int.from_bytes(data[at + 2 : at + step], "little")
        if first < end or first + count > PAGE_BLOCKS or not 0 < start <= _ADDRESS_MAX + 1 - count:
            raise _corrupt(what, f"run at {first} of {count} blocks")
        end = first + count
        page[first:end] = array("Q", range(start, start + count))
    return page
