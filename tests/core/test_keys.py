"""Keys sort by inode, kind, suffix; map keys by page."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sds.core.errors import Corrupt
from sds.core.keys import (
    DIRENT,
    INODE_MAX,
    MAP,
    inode_range,
    key,
    kind_range,
    map_key,
    map_page_index,
    map_range,
    split_key,
)

INODES = st.integers(0, INODE_MAX)
PARTS = st.tuples(INODES, st.integers(0, 254), st.binary(max_size=255))


def test_the_bytes_of_keys_never_change() -> None:
    assert key(0x0102, DIRENT, b"name").hex() == "0000000000000102" + "02" + b"name".hex()
    assert map_key(1, 0x0304).hex() == "0000000000000001" + "06" + "0000000000000304"


@given(PARTS, PARTS)
def test_keys_sort_like_their_parts(a: tuple[int, int, bytes], b: tuple[int, int, bytes]) -> None:
    assert (key(*a) < key(*b)) == (a < b)
    assert split_key(key(*a)) == a


@given(PARTS, INODES, st.integers(0, 254))
def test_ranges_hold_their_keys_and_no_others(parts: tuple[int, int, bytes], inode: int, kind: int) -> None:
    lo, hi = inode_range(inode)
    assert (lo <= key(*parts) < hi) == (parts[0] == inode)
    lo, hi = inode_range(parts[0])
    assert lo <= key(*parts) < hi
    lo, hi = kind_range(parts[0], kind)
    assert (lo <= key(*parts) < hi) == (parts[1] == kind)


@given(INODES, st.integers(0, 1 << 51), st.integers(0, 1 << 51))
def test_map_keys_sort_by_page(inode: int, a: int, b: int) -> None:
    assert (map_key(inode, a) < map_key(inode, b)) == (a < b)
    assert map_page_index(map_key(inode, a)) == a
    assert map_range(inode, a, b) == (map_key(inode, a), map_key(inode, b))
    assert split_key(map_key(inode, a))[1] == MAP


@pytest.mark.parametrize("data", [b"", b"12345678", b"x" * 600])
def test_what_cannot_be_a_key_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        split_key(data)
    with pytest.raises(Corrupt):
        map_page_index(data)
