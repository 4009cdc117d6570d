"""Tree nodes: golden bytes, round trips, and no input that hurts the decoder."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sds.core.errors import Corrupt
from sds.core.node import (
    ITEM_SIZE_MAX,
    LEVEL_MAX,
    NODE_SIZE_MAX,
    Node,
    common_prefix,
    decode_node,
    encode_node,
    stored_size,
)

KEYS = st.lists(st.binary(max_size=9), min_size=1, max_size=60, unique=True).map(sorted)
LONG = st.lists(st.binary(min_size=250, max_size=330), min_size=1, max_size=6, unique=True).map(sorted)


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    prefix = draw(st.binary(max_size=12))
    keys = [prefix + key for key in draw(KEYS | LONG)]
    if draw(st.booleans()):
        one = st.binary(max_size=20) | st.binary(max_size=400)
        values = draw(st.lists(one, min_size=len(keys), max_size=len(keys)))
        return Node(0, keys, [value if len(keys) < 15 else value[:20] for value in values])
    addresses = st.integers(1, (1 << 64) - 1)
    children = draw(st.lists(addresses, min_size=len(keys), max_size=len(keys)))
    return Node(draw(st.integers(1, LEVEL_MAX)), keys, [], children)


GOLDEN = {
    "leaf, one item": (Node(0, [b"key"], [b"value"]), "0001000300" + "6b6579" + "000000" + "000500" +
    "76616c7565"), "leaf, prefix, lengths of one byte": (
        Node(0, [b"ab", b"abc", b"abdd"], [b"", b"1", b"22"]),
        "0003000200" + "6162" + "01000102" + "63" + "6464" + "01000102" + "31" + "3232",
    ),
    "leaf, lengths of two bytes": (
        Node(0, [b"a", b"b"], [b"x" * 256, b""]),
        "0002000000" + "000100" + "6162" + "0200010000" + "78" * 256,
    ),
    "inner": (
        Node(2, [b"k1", b"k2"], [], [0x0102030405060708, 0x20]),
        "0202000100" + "6b" + "000100" + "3132" + "0807060504030201" + "2000000000000000",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_stored_form_never_changes(name: str) -> None:
    node, encoded = GOLDEN[name]
    assert encode_node(node).hex() == encoded
    assert decode_node(bytes.fromhex(encoded)) == node


@settings(max_examples=300, deadline=None)
@given(nodes())
def test_every_node_comes_back_and_its_size_is_known_before(node: Node) -> None:
    encoded = encode_node(node)
    assert len(encoded) == stored_size(node.keys, None if node.level else node.values)
    assert decode_node(encoded) == node


@settings(max_examples=500, deadline=None)
@given(nodes(), st.data())
def test_a_damaged_node_is_corrupt_or_a_node(node: Node, data: st.DataObject) -> None:
    encoded = bytearray(encode_node(node))
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, min(40, len(encoded) - 1)))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(encoded)) | st.just(len(encoded)))
    check_hostile(bytes(encoded[:cut]))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_corrupt_or_a_node(data: bytes) -> None:
    check_hostile(data)


def check_hostile(data: bytes) -> None:
    try:
        node = decode_node(data, "node 7")
    except Corrupt as error:
        message = str(error)
        assert "node 7" in message
    else:
        assert node.keys == sorted(set(node.keys))
        assert len(node.keys) == len(node.children if node.level else node.values)


def test_counts_and_lengths_that_lie_cost_no_memory() -> None:
    liars = [
        "00ffff0000" + "00ffff",
        "00ffff0000" + "000000" + "000000",
        "00ffff0000" + "01" + "ff" * 65535,
        "01ffff0000" + "000000",
        "0001000002" + "00" * 40,
        "0002000000" + "02ffffffff" + "00" * 40,
    ]
    tracemalloc.start()
    for liar in liars:
        with pytest.raises(Corrupt):
            decode_node(bytes.fromhex(liar))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 << 20


@pytest.mark.parametrize(
    ("why", "encoded"),
    [
        ("no entries", "0000000000" + "000000" + "000000"),
        ("a level too high", "2101000000" + "000000" + "2000000000000000"),
        ("keys out of order", "0002000000" + "000100" + "6261" + "000000"),
        ("the same key twice", "0002000000" + "000100" + "6161" + "000000"),
        ("bytes too many", "0001000000" + "000000" + "000000" + "00"),
        ("a child without address", "0101000000" + "000000" + "00" * 8),
        ("a child cut off", "0101000000" + "000000" + "20" + "00" * 6),
        ("an unknown form of lengths", "0001000000" + "030000" + "000000"),
        ("an item too large", "0001000000" + "000000" + "00010c" + "00" * (ITEM_SIZE_MAX + 1)),
        ("a node too large", "0001000000" + "00" * NODE_SIZE_MAX),
    ],
)
def test_malformed_nodes_are_refused(why: str, encoded: str) -> None:
    with pytest.raises(Corrupt, match="tree node"):
        decode_node(bytes.fromhex(encoded))


@given(st.binary(max_size=6), st.binary(max_size=6), st.binary(max_size=6))
def test_common_prefix_is_the_longest(prefix: bytes, a: bytes, b: bytes) -> None:
    size = common_prefix(prefix + a, prefix + b)
    assert (prefix + a)[:size] == (prefix + b)[:size]
    assert (prefix + a)[size : size + 1] != (prefix + b)[size : size + 1] or prefix + a == prefix + b
