"""What df shows."""

import random

import pytest

from sds.filesystem.space import placeable_bytes


@pytest.mark.parametrize(
    ("free", "copies", "expected"),
    [([100], 1, 100), ([100, 10], 1, 110), ([100, 10], 2, 10), ([100, 100], 2, 100), ([60, 50, 40], 2, 75), ([], 0, 0),
     ([9, 9, 9], 3, 9), ([100, 10, 10], 2, 20)],
)  # fmt: skip
def test_free_is_what_can_be_stored_with_all_copies_apart(free: list[int], copies: int, expected: int) -> None:
    assert placeable_bytes(free, copies) == expected


def test_free_is_what_placing_piece_by_piece_comes_to() -> None:
    rng = random.Random(1)
    for _ in range(200):
        free = [rng.randrange(60) for _ in range(rng.randrange(1, 6))]
        copies = rng.randrange(1, len(free) + 1)
        left, stored = sorted(free), 0
        while all(left[-copies:]):
            left = sorted([*left[:-copies], *(each - 1 for each in left[-copies:])])
            stored += 1
        assert placeable_bytes(free, copies) == stored
