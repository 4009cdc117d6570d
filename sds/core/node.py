"""Nodes of a dataset's tree, and how a node is stored (the payload of a NODE frame).

    off size field    meaning
      0    1 level    0 is a leaf
      1    2 count    entries
      3    2 prefix   length of what all keys begin with
      5    - prefix bytes
      -    - lengths of the keys' rests, then the rests themselves, one after the other
      -    - leaf: lengths of the values, then the values; inner: the children's addresses, 8 bytes each

    lengths   00 | length (2)           all the same
              01 | count x length (1)   all below 256
              02 | count x length (2)

Numbers are little endian.

  N1  Keys rise strictly. In an inner node key i is the first key of child i's subtree.
  N2  A node is never changed: an update makes new nodes (no dirty nodes exist).
  N3  One item is at most ITEM_SIZE_MAX bytes. A stored node is at most NODE_SIZE_MAX bytes, so a damaged
      length can never make a reader allocate more than that.
"""

import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from operator import ge

from sds.core.errors import Corrupt
from sds.core.keys import KEY_SIZE_MAX

NODE_SIZE_TARGET = 4096
"""A node is split when its stored form is larger."""
ITEM_SIZE_MAX = 3072
NODE_SIZE_MAX = 2 * NODE_SIZE_TARGET
LEVEL_MAX = 32

_HEAD = struct.Struct("<BHH")
_SAME = struct.Struct("<BH")
_SWAP = sys.byteorder == "big"
_ADDRESS_SIZE = 8


@dataclass(frozen=True, slots=True)
class Node:
    """A leaf (level 0) has keys and values, an inner node has keys and children."""

    level: int
    keys: list[bytes]
    values: list[bytes] = field(default_factory=list)
    children: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert len(self.keys) == len(self.values if self.level == 0 else self.children) > 0


def common_prefix(a: bytes, b: bytes) -> int:
    """How many bytes two keys have in common at their beginning."""
    size = min(len(a), len(b))
    if a[:size] == b[:size]:
        return size
    different = int.from_bytes(a[:size], "big") ^ int.from_bytes(b[:size], "big")
    return size - (different.bit_length() + 7) // 8


def stored_size(keys: list[bytes], values: list[bytes] | None) -> int:
    """Bytes of the node as stored; `values` is None for an inner node. Keys are sorted."""
    count = len(keys)
    prefix = common_prefix(keys[0], keys[-1])
    lengths = list(map(len, keys))
    size = _HEAD.size + prefix + sum(lengths) - prefix * count
    size += _lengths_size(count, min(lengths) - prefix, max(lengths) - prefix)
    if values is None:
        return size + _ADDRESS_SIZE * count
    lengths = list(map(len, values))
    return size + sum(lengths) + _lengths_size(count, min(lengths), max(lengths))


def encode_node(node: Node) -> bytes:
    keys = node.keys
    prefix = common_prefix(keys[0], keys[-1])
    rests = [key[prefix:] for key in keys] if prefix else keys
    parts = [_HEAD.pack(node.level, len(keys), prefix), keys[0][:prefix], _encode_lengths(rests), *rests]
    if node.level:
        parts.append(_bytes_of("Q", node.children))
    else:
        parts.append(_encode_lengths(node.values))
        parts += node.values
    data = b"".join(parts)
    assert len(data) <= NODE_SIZE_MAX
    return data


def decode_node(data: bytes, what: str = "tree node") -> Node:
    """The node that `encode_node` got. `what` names it in the error."""
    if not _HEAD.size < len(data) <= NODE_SIZE_MAX:
        raise _corrupt(what, f"{len(data)} bytes")
    level, count, prefix_size = _HEAD.unpack_from(data)
    if not count or level > LEVEL_MAX or prefix_size > KEY_SIZE_MAX:
        raise _corrupt(what, f"level {level}, {count} entries, prefix of {prefix_size} bytes")
    at = _HEAD.size + prefix_size
    if at > len(data):
        raise _corrupt(what, "its prefix is cut off")
    prefix = data[_HEAD.size : at]
    rests, at = _decode_strings(data, at, count, KEY_SIZE_MAX - prefix_size, what)
    keys = [prefix + rest for rest in rests] if prefix else rests
    if any(map(ge, keys, keys[1:])):
        raise _corrupt(what, "its keys are not in order")
    if level:
        return Node(level, keys, [], _decode_children(data, at, count, what))
    values, at = _decode_strings(data, at, count, ITEM_SIZE_MAX, what)
    if at != len(data):
        raise _corrupt(what, f"{len(data) - at} bytes too many")
    return Node(0, keys, values)


def _corrupt(what: str, why: str) -> Corrupt:
    return Corrupt(f"{what} is damaged ({why}); restore it from a snapshot or a backup")


def _lengths_size(count: int, low: int, high: int) -> int:
    return 3 if low == high else 1 + count if high < 256 else 1 + 2 * count


def _bytes_of(typecode: str, numbers: Sequence[int]) -> bytes:
    packed = array(typecode, numbers)
    if _SWAP:
        packed.byteswap()
    return packed.tobytes()


def _numbers(typecode: str, data: bytes) -> list[int]:
    packed = array(typecode)
    packed.frombytes(data)
    if _SWAP:
        packed.byteswap()
    return packed.tolist()


def _encode_lengths(strings: list[bytes]) -> bytes:
    lengths = list(map(len, strings))
    low, high = min(lengths), max(lengths)
    if low == high:
        return _SAME.pack(0, high)
    return b"\x01" + bytes(lengths) if high < 256 else b"\x02" + _bytes_of("H", lengths)


def _decode_strings(data: bytes, at: int, count: int, size_max: int, what: str) -> tuple[list[bytes], int]:
    """`count` strings with their lengths at `at`; returns where they end."""
    form = data[at] if at < len(data) else 3
    table = (3, 1 + count, 1 + 2 * count, 0)[min(form, 3)]
    start = at + table
    if not table or start > len(data):
        raise _corrupt(what, "its lengths are cut off")
    if form == 0:
        size = _SAME.unpack_from(data, at)[1]
        end = start + size * count
        if size > size_max or end > len(data):
            raise _corrupt(what, f"{count} strings of {size} bytes do not fit")
        if not size:
            return [b""] * count, end
        return [data[i : i + size] for i in range(start, end, size)], end
    table_bytes = data[at + 1 : start]
    lengths = list(table_bytes) if form == 1 else _numbers("H", table_bytes)
    ends = list(accumulate(lengths, initial=start))
    if max(lengths) > size_max or ends[-1] > len(data):
        raise _corrupt(what, f"{count} strings of {ends[-1] - start} bytes do not fit")
    return [data[a:b] for a, b in pairwise(ends)], ends[-1]


def _decode_children(data: bytes, at: int, count: int, what: str) -> list[int]:
    if len(data) - at != _ADDRESS_SIZE * count:
        raise _corrupt(what, f"{len(data) - at} bytes for {count} children")
    children = _numbers("Q", data[at:])
    if not all(children):
        raise _corrupt(what, "a child without an address")
    return children
