"""Operations on a dataset other than writing data: the payload of a TXN frame, a list of operations.

    tag operation     fields (little endian)
      1 UNMAP         inode (8) | first block (8) | count (8)
      2 RESIZE        size in bytes (8)
      3 SNAPSHOT      snapshot id (8) | length (1) | name, UTF-8
      4 ROLLBACK      snapshot id (8) | root (8) | size in bytes (8)
      5 PUT           length of key (2) | length of value (2) | key | value
      6 DELETE        length of key (2) | key
      7 DROP          inode (8)

Each operation is its tag (1 byte) and its fields. The operations of one payload are one atomic change.

  O1  A payload holds one operation at least, and is at most TXN_SIZE_MAX bytes.
  O2  decode_txn(encode_txn(ops)) == ops; anything that encode_txn could not have written is Corrupt.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sds.core.cursor import Cursor
from sds.core.keys import KEY_SIZE_MAX
from sds.core.node import ITEM_SIZE_MAX

TXN_SIZE_MAX = 1 << 20
NAME_SIZE_MAX = 63
SIZE_MAX_BYTES = (1 << 63) - 1
BLOCK_COUNT_MAX = SIZE_MAX_BYTES >> 12

_U8 = struct.Struct("<B")
_U16 = struct.Struct("<H")
_U16_U16 = struct.Struct("<HH")
_PUT = struct.Struct("<BHH")
_DELETE = struct.Struct("<BH")
_U64 = struct.Struct("<Q")
_U64_U8 = struct.Struct("<QB")
_U64_U64_U64 = struct.Struct("<QQQ")


@dataclass(frozen=True, slots=True)
class Unmap:
    """These blocks read as zeros from now on."""

    inode: int
    first_block: int
    count: int


@dataclass(frozen=True, slots=True)
class Resize:
    """A volume of this size; what lies beyond is gone."""

    size_bytes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state before this operation is kept under this name."""

    snapshot_id: int
    name: str


@dataclass(frozen=True, slots=True)
class Rollback:
    """The state is the snapshot's from now on."""

    snapshot_id: int
    root: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Put:
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    key: bytes


@dataclass(frozen=True, slots=True)
class Drop:
    """All items of this inode are deleted; its blocks are unmapped by an Unmap before."""

    inode: int


Operation = Unmap | Resize | Snapshot | Rollback | Put | Delete | Drop


def encode_txn(operations: Sequence[Operation]) -> bytes:
    assert operations
    data = b"".join(map(_encode, operations))
    assert len(data) <= TXN_SIZE_MAX
    return data


def encode_put(key: bytes, value: bytes) -> bytes:
    """What `encode_txn` makes of a Put; the way for those who make many."""
    key_size, value_size = len(key), len(value)
    assert 0 < key_size <= KEY_SIZE_MAX and key_size + value_size <= ITEM_SIZE_MAX
    return b"".join((_PUT.pack(5, key_size, value_size), key, value))


def encode_delete(key: bytes) -> bytes:
    """What `encode_txn` makes of a Delete."""
    assert 0 < len(key) <= KEY_SIZE_MAX
    return _DELETE.pack(6, len(key)) + key


def decode_txn(data: bytes, what: str = "TXN frame") -> list[Operation]:
    """What `encode_txn` got. `what` names the frame in the error."""
    cursor = Cursor(data, what)
    if not 0 < len(data) <= TXN_SIZE_MAX:
        raise cursor.corrupt(f"{len(data)} bytes")
    operations: list[Operation] = []
    while not cursor.is_at_end:
        (tag,) = cursor.unpack(_U8)
        decode = _DECODERS.get(tag)
        if decode is None:
            raise cursor.corrupt(f"unknown operation {tag}")
        operations.append(decode(cursor))
    return operations


def _encode(operation: Operation) -> bytes:
    match operation:
        case Unmap(inode, first, count):
            assert count > 0
            assert first + count <= BLOCK_COUNT_MAX
            return b"\x01" + _U64_U64_U64.pack(inode, first, count)
        case Resize(size):
            assert 0 <= size <= SIZE_MAX_BYTES
            return b"\x02" + _U64.pack(size)
        case Snapshot(number, name):
            encoded = name.encode()
            assert 0 < len(encoded) <= NAME_SIZE_MAX
            return b"\x03" + _U64_U8.pack(number, len(encoded)) + encoded
        case Rollback(number, root, size):
            assert 0 <= size <= SIZE_MAX_BYTES
            return b"\x04" + _U64_U64_U64.pack(number, root, size)
        case Put(key, value):
            return encode_put(key, value)
        case Delete(key):
            return encode_delete(key)
        case Drop(inode):
            return b"\x07" + _U64.pack(inode)


def _unmap(cursor: Cursor) -> Unmap:
    inode, first, count = cursor.unpack(_U64_U64_U64)
    if not count or first + count > BLOCK_COUNT_MAX:
        raise cursor.corrupt(f"UNMAP of {count} blocks at {first}")
    return Unmap(inode, first, count)


def _resize(cursor: Cursor) -> Resize:
    (size,) = cursor.unpack(_U64)
    return Resize(_checked_size(cursor, size))


def _snapshot(cursor: Cursor) -> Snapshot:
    number, size = cursor.unpack(_U64_U8)
    if not 0 < size <= NAME_SIZE_MAX:
        raise cursor.corrupt(f"a snapshot's name of {size} bytes")
    return Snapshot(number, cursor.text(size))


def _rollback(cursor: Cursor) -> Rollback:
    number, root, size = cursor.unpack(_U64_U64_U64)
    return Rollback(number, root, _checked_size(cursor, size))


def _put(cursor: Cursor) -> Put:
    key_size, value_size = cursor.unpack(_U16_U16)
    if not 0 < key_size <= KEY_SIZE_MAX or key_size + value_size > ITEM_SIZE_MAX:
        raise cursor.corrupt(f"PUT of {key_size} + {value_size} bytes")
    return Put(cursor.take(key_size), cursor.take(value_size))


def _delete(cursor: Cursor) -> Delete:
    (size,) = cursor.unpack(_U16)
    if not 0 < size <= KEY_SIZE_MAX:
        raise cursor.corrupt(f"DELETE of a key of {size} bytes")
    return Delete(cursor.take(size))


def _drop(cursor: Cursor) -> Drop:
    return Drop(*cursor.unpack(_U64))


def _checked_size(cursor: Cursor, size_bytes: int) -> int:
    if size_bytes > SIZE_MAX_BYTES:
        raise cursor.corrupt(f"a size of {size_bytes} bytes")
    return size_bytes


_DECODERS: dict[int, Callable[[Cursor], Operation]] = {
    1: _unmap,
    2: _resize,
    3: _snapshot,
    4: _rollback,
    5: _put,
    6: _delete,
    7: _drop,
}
