"""Sizes: what people write is understood exactly, everything else is refused in one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sds.core.errors import BadInput
from sds.core.units import SIZE_MAX, format_size, parse_size

GOOD = [
    ("4096", 4096),
    ("0", 0),
    ("1B", 1),
    ("512M", 512 << 20),
    ("20G", 20 << 30),
    ("20g", 20 << 30),
    ("20GB", 20 << 30),
    ("20GiB", 20 << 30),
    (" 64k ", 64 << 10),
    ("1.5T", 3 << 39),
    ("0.5K", 512),
    ("2P", 2 << 50),
    ("4096P", SIZE_MAX),
]
BAD = [
    "",
    " ",
    "G",
    "-1",
    "+1",
    "1.",
    ".5",
    "1.5",
    "0.3K",
    "1e3",
    "0x10",
    "20 G",
    "20X",
    "20iB",
    "1KK",
    "1,5G",
]
BAD += ["١", "1\n2", "nan", "inf", "4097P", str(SIZE_MAX + 1), "9" * 5000, "1." + "0" * 5000, "\x00"]


@pytest.mark.parametrize(("text", "size_bytes"), GOOD)
def test_a_size_means_its_binary_unit(text: str, size_bytes: int) -> None:
    assert size_bytes == parse_size(text)


@pytest.mark.parametrize("text", BAD, ids=lambda text: repr(text[:12]))
def test_what_is_no_size_is_refused_in_one_short_line_that_shows_it(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_size(text)

    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 200
    assert repr(text)[:20].rstrip("'") in message


@given(st.integers(0, SIZE_MAX))
def test_an_exact_size_reads_back_as_itself(size_bytes: int) -> None:
    assert size_bytes == parse_size(format_size(size_bytes, exact=True))


@given(st.integers(0, SIZE_MAX))
def test_a_size_for_people_is_short_and_within_a_tenth(size_bytes: int) -> None:
    text = format_size(size_bytes)

    assert len(text) <= 7
    whole = text if text[-1].isdigit() else text[:-1]
    factor = 1024 ** (" KMGTP".index(text[-1]) if not text[-1].isdigit() else 0)
    assert float(whole) * factor == pytest.approx(size_bytes, rel=0.05)


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0"), (1023, "1023"), (1024, "1K"), (1536, "1.5K"), (1 << 40, "1T")]
)
def test_sizes_for_people(size_bytes: int, text: str) -> None:
    assert text == format_size(size_bytes)


def test_almost_a_unit_is_shown_as_that_unit() -> None:
    assert format_size((1 << 20) - 1) == "1M"
