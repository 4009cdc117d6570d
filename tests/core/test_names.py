"""Names: legal ones parse into their parts, illegal ones are refused with the word and the rule."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sds.core.errors import BadInput
from sds.core.names import (
    SegmentName,
    Target,
    parse_dataset,
    parse_pool,
    parse_segment_name,
    parse_snapshot,
    parse_target,
    segment_name,
)

BAD_WORDS = ["", "-a", ".a", "_a", "A", "a b", "a\n", "a\x00", "ä", "a" * 64, "a:b", "..", "a*", "²"]


@pytest.mark.parametrize("name", ["a", "0", "a.b_c-d", "a" * 63, "0..", "vm1"])
def test_a_legal_name_is_taken_as_it_is(name: str) -> None:
    assert name == parse_pool(name)
    assert Target(name, name) == parse_dataset(f"{name}/{name}")
    assert Target(name, name, name) == parse_snapshot(f"{name}/{name}@{name}")


@pytest.mark.parametrize("word", [*BAD_WORDS, "a/b", "a@b"])
def test_a_bad_pool_name_is_refused(word: str) -> None:
    assert_refused(parse_pool, word)


@pytest.mark.parametrize("word", BAD_WORDS)
@pytest.mark.parametrize("form", ["{}/a", "a/{}", "{}/a@s", "a/{}@s", "a/b@{}"])
def test_a_bad_part_is_refused_wherever_it_stands(word: str, form: str) -> None:
    assert_refused(parse_target, form.format(word))


@pytest.mark.parametrize(
    "text", ["", "a", "a/b/c", "a/b@c@d", "a@b", "a@b/c", "/a", "a/", "@", "/", "a/b@c/d"]
)
def test_a_malformed_target_is_refused(text: str) -> None:
    assert_refused(parse_target, text)


def test_a_snapshot_is_no_dataset_and_a_dataset_no_snapshot() -> None:
    assert_refused(parse_dataset, "a/b@c")
    assert_refused(parse_snapshot, "a/b")
    assert Target("a", "b", "c") == parse_target("a/b@c")
    assert str(parse_target("a/b@c")) == "a/b@c"
    assert str(parse_target("a/b")) == "a/b"


@given(st.integers(1, 2**32 - 1), st.integers(1, 2**40 - 1), st.integers(1, 2**32 - 1))
def test_a_segment_name_reads_back(dataset: int, segment: int, epoch: int) -> None:
    assert SegmentName(dataset, segment, epoch) == parse_segment_name(segment_name(dataset, segment, epoch))


def test_a_segment_name_has_fixed_width_so_that_names_sort_like_ids() -> None:
    assert segment_name(1, 0x12, 3) == "segments/00000001/0000000012-00000003"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "segments/00000001/0000000012-0000003",
        "segments/00000001/0000000012-00000003 ",
        "segments/00000001/0000000012-00000003\n",
        "segments/00000001/000000001A-00000003",
        "segments/0000001/00000000012-00000003",
        "segments/00000000/0000000012-00000003",
        "segments/00000001/0000000000-00000003",
        "segments/00000001/0000000012-00000000",
        "segments/٠0000001/0000000012-00000003",
        "x/segments/00000001/0000000012-00000003",
        "segments/../0000000012-00000003",
    ],
)
def test_only_what_segment_name_writes_is_a_segment_name(name: str) -> None:
    assert_refused(parse_segment_name, name)


def assert_refused(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert str(caught.value).isprintable(), "one line"
    assert len(str(caught.value)) < 200
