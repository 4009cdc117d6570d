"""Placement: distinct failure domains, in proportion to free space, and stable when backends come and go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sds.core.errors import NoSpace
from sds.pool.placement import Candidate, choose

SIZE = 32 << 20
CANDIDATE = st.builds(Candidate, st.integers(1, 99), st.sampled_from("abcde"), st.integers(0, 8 * SIZE))


@given(
    st.lists(CANDIDATE, max_size=8, unique_by=lambda c: c.backend), st.integers(1, 4), st.integers(1, 1 << 40)
)
def test_copies_are_in_distinct_domains_with_room_or_there_is_no_space(
    candidates: list[Candidate], copies: int, segment: int
) -> None:
    able = {c.backend: c for c in candidates if c.free_bytes >= SIZE}
    enough = len({c.label for c in able.values()}) >= copies
    try:
        chosen = choose(segment, candidates, copies, SIZE)
    except NoSpace:
        assert not enough
        return

    assert enough
    assert copies == len(chosen) == len({able[backend].label for backend in chosen})
    assert chosen == choose(segment, reversed(candidates), copies, SIZE)


def test_shares_follow_free_space() -> None:
    candidates = [Candidate(1, "a", 100 * SIZE), Candidate(2, "b", 300 * SIZE)]
    first = [choose(segment, candidates, 1, SIZE)[0] for segment in range(4000)]

    assert first.count(2) / len(first) == pytest.approx(0.75, abs=0.03)


def test_a_new_backend_takes_its_share_and_moves_nothing_else() -> None:
    old = [Candidate(n, str(n), 100 * SIZE) for n in range(1, 4)]
    new = [*old, Candidate(4, "4", 100 * SIZE)]
    moved = [(choose(s, old, 1, SIZE)[0], choose(s, new, 1, SIZE)[0]) for s in range(2000)]

    assert {after for before, after in moved if after != before} == {4}
    assert sum(after == 4 for _, after in moved) / 2000 == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize(
    ("candidates", "says"),
    [
        ([], "the pool has 0: add a backend"),
        ([Candidate(1, "a", 9 * SIZE), Candidate(2, "a", 9 * SIZE)], "the pool has 1: add a backend"),
        ([Candidate(1, "a", 9 * SIZE), Candidate(2, "b", SIZE - 1)], "only 1 of 2 have that: free space"),
    ],
)
def test_no_space_says_what_is_missing(candidates: list[Candidate], says: str) -> None:
    with pytest.raises(NoSpace, match=says):
        choose(1, candidates, 2, SIZE)
