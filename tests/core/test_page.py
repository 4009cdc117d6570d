"""Map pages: golden bytes, sizes, speed of shape, and no input that hurts the decoder."""

from array import array
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sds.core.errors import Corrupt
from sds.core.page import (
    ENCODED_SIZE_MAX,
    INLINE_SIZE_MAX,
    PAGE_BLOCKS,
    decode_page,
    decode_value,
    encode_page,
    inline_value,
    new_page,
    outside_value,
    value_block_count,
)


def page_of(entries: dict[int, int]) -> "array[int]":
    page = new_page()
    for i, address in entries.items():
        page[i] = address
    return page


ADDRESSES = st.integers(1 << 24, (1 << 64) - 1) | st.integers(1 << 24, 1 << 45)
RUNS = st.tuples(st.integers(0, PAGE_BLOCKS - 1), st.integers(1, 40), ADDRESSES)


def page_of_runs(runs: list[tuple[int, int, int]]) -> "array[int]":
    page = new_page()
    for first, number, start in runs:
        for i in range(first, min(first + number, PAGE_BLOCKS)):
            page[i] = min(start + i - first, (1 << 64) - 1)
    return page


PAGES = st.one_of(
    st.lists(RUNS, max_size=12).map(page_of_runs),
    st.dictionaries(st.integers(0, PAGE_BLOCKS - 1), ADDRESSES).map(page_of),
    st.lists(ADDRESSES, min_size=PAGE_BLOCKS, max_size=PAGE_BLOCKS).map(lambda all_: array("Q", all_)),
    st.binary(min_size=8 * PAGE_BLOCKS, max_size=8 * PAGE_BLOCKS).map(lambda raw: array("Q", raw)),
)

def _form(form: int, rest: bytes) -> bytes:
    return bytes([form]) + rest


GOLDEN = {
    "holes": (page_of({}), "0101"),
    "one block": (page_of({5: 0x0000000001000020}), "0104050020000001"),
    "a run over a frame": (
        page_of_runs([(32, 32, 0x0123456789A00000)]),
        "0108201f0000a08967452301",
    ),
    "planes": (
        array("Q", [0x0200000000 + i * 0x20 * 7 * 97 for i in range(PAGE_BLOCKS)]),
        "020710" + "02" + "".join(
            bytes((i * 0x20 * 7 * 97 >> shift) & 255 for i in range(PAGE_BLOCKS)).hex() for shift in (0, 8,
            16)
        ),
    ),
    "bitmap": (
        page_of({i: 0x0000030500000000 + i * i * 64 * 1009 for i in range(0, PAGE_BLOCKS, 2)}),
        "030e30" + "55" * (PAGE_BLOCKS // 8) + "0503" + "".join(
            bytes((i * i * 64 * 1009 >> shift) & 255 for i in range(0, PAGE_BLOCKS, 2)).hex() for shift in
            (8, 16, 24)
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_the_stored_form_never_changes(name: str) -> None:
    page, encoded = GOLDEN[name]
    assert encode_page(page).hex() == encoded
    assert decode_page(bytes.fromhex(encoded)) == page


@settings(max_examples=300, deadline=None)
@given(PAGES)
def test_every_page_comes_back(page: "array[int]") -> None:
    encoded = encode_page(page)
    assert len(encoded) <= ENCODED_SIZE_MAX
    assert decode_page(encoded) == page


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, PAGE_BLOCKS - 1), ADDRESSES, max_size=4))
def test_a_page_of_four_entries_fits_in_its_leaf(entries: dict[int, int]) -> None:
    page = page_of(entries)
    encoded = encode_page(page)
    assert len(encoded) <= INLINE_SIZE_MAX
    assert decode_value(inline_value(encoded)) == page


def test_a_page_written_in_order_fits_in_its_leaf() -> None:
    frames = [range(start, start + 32) for start in range(5 << 40, (5 << 40) + 4 * 60_000, 60_000)]
    assert len(encode_page(array("Q", chain.from_iterable(frames)))) <= INLINE_SIZE_MAX


def test_a_page_of_lone_blocks_takes_the_bytes_that_vary() -> None:
    page = array("Q", [(1000 + i * 37 % 9000) << 24 | (i * 7919 % 500_000) << 5 for i in range(PAGE_BLOCKS)])
    assert len(encode_page(page)) == 3 + 5 * PAGE_BLOCKS


def test_the_value_of_a_large_page_is_its_address() -> None:
    assert outside_value(0x0123, 16).hex() == "01" + "2301000000000000" + "0f"
    assert decode_value(outside_value(1 << 63, 1)) == 1 << 63
    assert value_block_count(outside_value(1 << 63, PAGE_BLOCKS)) == PAGE_BLOCKS
    assert value_block_count(inline_value(encode_page(page_of({1: 1 << 24, 9: 1 << 25})))) == 2


@settings(max_examples=500, deadline=None)
@given(PAGES, st.data())
def test_a_damaged_page_is_corrupt_or_a_page(page: "array[int]", data: st.DataObject) -> None:
    encoded = bytearray(encode_page(page))
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, min(len(encoded) - 1, 24)))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(encoded)) | st.just(len(encoded)))
    check_hostile(bytes(encoded[:cut]))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.builds(_form, st.integers(1, 3), st.binary()))
def test_arbitrary_bytes_are_corrupt_or_a_page(data: bytes) -> None:
    check_hostile(data)


def check_hostile(data: bytes) -> None:
    for decode in (decode_page, decode_value):
        try:
            found = decode(data, "page 7")
        except Corrupt as error:
            message = str(error)
            assert "page 7" in message
        else:
            assert isinstance(found, int) or len(found) == PAGE_BLOCKS


@pytest.mark.parametrize(
    "encoded",
    [
        "", "01", "04" + "00" * 20,
        "0100", "0109", "010405", "0104" + "0500" + "00000000", "0101" + "7f01" + "20",
        "0101" + "0501" + "ffff",
        "0101" + "0501" + "20" + "0600" + "40", "0108" + "0001" + "ff" * 8,
        "0202", "020101" + "00" * 129, "0201" + "00" * 100, "03" + "00" * 18, "030000" + "00" * 16,
    ],
)  # fmt: skip
def test_malformed_pages_are_refused(encoded: str) -> None:
    with pytest.raises(Corrupt):
        decode_page(bytes.fromhex(encoded))
    with pytest.raises(Corrupt):
        decode_value(bytes.fromhex("00" + encoded))


def test_malformed_leaf_values_are_refused() -> None:
    too_many = bytes((1, 32, *bytes(7), PAGE_BLOCKS))
    short, long = b"\x01" + b"x" * 8, b"\x01" + b"x" * 10
    for value in (b"", b"\x01", b"\x01" + bytes(9), short, long, too_many, b"\x02" + b"x" * 9, b"\x00" * 60):
        with pytest.raises(Corrupt):
            decode_value(value)
        with pytest.raises(Corrupt):
            value_block_count(value)
