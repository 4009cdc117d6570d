"""The cleaner's choice: what gives most room back, as much as one pack holds, and nothing for nothing."""

from dataclasses import replace

import pytest

from sds.core.victims import (
    CAP_PART,
    FileUse,
    Goal,
    Room,
    Thresholds,
    cap_bytes,
    choose,
    choose_small,
    gain_bytes,
    is_due,
)

MIB = 1 << 20
GOAL = Goal(32 * MIB, 1000 * MIB)


def use(name: str, live_mib: float, age_mib: int = 100, size_mib: float = 32) -> FileUse:
    return FileUse(name, int(size_mib * MIB), int(live_mib * MIB), age_mib * MIB)


def names(files: list[FileUse]) -> str:
    return "".join(file.name for file in files)


def test_files_with_most_garbage_go_first_and_no_more_than_fill_a_pack() -> None:
    files = [use("a", 20), use("b", 10), use("c", 15), use("d", 6), use("e", 0)]
    assert names(choose(files, GOAL)) == "edbc"
    batch = choose(files, GOAL)
    assert sum(file.needed_bytes for file in batch) <= GOAL.pack_bytes
    assert gain_bytes(batch) > 90 * MIB


def test_age_counts_up_to_the_cap_and_not_beyond() -> None:
    young, old, ancient = use("y", 16, 10), use("o", 20, 1000), use("a", 22, 9000)
    assert names(choose([young, old], GOAL)) == "o"
    assert names(choose([old, ancient], GOAL)) == "o"
    assert names(choose([old, ancient], replace(GOAL, cap_bytes=9000 * MIB))) == "a"
    assert cap_bytes(1000 * MIB) == int(1000 * MIB * CAP_PART)


def test_full_files_are_left_alone_and_nothing_is_rewritten_for_nothing() -> None:
    assert choose([use("a", 32), use("b", 31.5)], GOAL) == []
    assert choose([use("s", 1, size_mib=1)], GOAL) == []
    assert choose([], GOAL) == []


def test_dead_files_cost_nothing() -> None:
    files = [use(str(number), 0) for number in range(9)]
    assert len(choose(files, GOAL)) == 9
    assert gain_bytes(files) == 9 * 32 * MIB


def test_small_files_are_packed_when_there_are_enough_of_them() -> None:
    small = [use(chr(97 + number), 2, age_mib=number, size_mib=2) for number in range(20)]
    batch = choose_small(small, GOAL)
    assert names(batch).startswith("tsrq"), "the oldest first"
    assert 14 <= len(batch) <= 15
    assert sum(file.needed_bytes for file in batch) <= GOAL.pack_bytes
    assert choose_small(small[:10], GOAL) == []
    assert choose_small([use("a", 32)] * 20, GOAL) == []


@pytest.mark.parametrize(
    ("live", "free", "running", "due"),
    [
        (90, 50, False, False),
        (69, 50, False, True),  # garbage
        (72, 50, False, False),
        (72, 50, True, True),  # goes on until there is less than at the start
        (76, 50, True, False),
        (90, 1, False, True),  # room
        (90, 2.5, False, False),
        (90, 2.5, True, True),
        (90, 4, True, False),
        (99, 1, True, False),  # full, but not of garbage
    ],
)
def test_it_begins_late_and_ends_a_little_later(live: int, free: float, running: bool, due: bool) -> None:
    room = Room(1000, 10 * live, int(10 * free), 1000)
    assert is_due(room, Thresholds(), running) is due


def test_an_empty_pool_needs_no_cleaning() -> None:
    assert not is_due(Room(0, 0, 0, 0), Thresholds(), False)
