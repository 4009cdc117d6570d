"""The simulator of the cleaner's policy: its books are right, and what sds.core.victims says of it is so."""

import random

import pytest

from bench.cleaning_policy import (
    FRAME,
    POLICIES,
    SEGMENT_BLOCKS,
    SEGMENT_BYTES,
    PoolFullError,
    Simulation,
    capped,
    greedy,
    simulate,
    traces,
)
from sds.core.victims import CAP_PART

VOLUME = 96 * SEGMENT_BLOCKS


@pytest.mark.parametrize("unit", ["file", "segment"])
def test_no_block_is_lost_and_the_books_are_right(unit: str) -> None:
    run = Simulation(VOLUME, greedy(VOLUME), unit)
    chance = random.Random(1)
    for start in range(0, VOLUME, SEGMENT_BLOCKS):
        run.write(range(start, start + SEGMENT_BLOCKS))
    for _ in range(60):
        try:
            run.write(chance.choices(range(VOLUME), k=SEGMENT_BLOCKS))
        except PoolFullError:
            assert unit == "segment"
            break
    assert run.stored_bytes == sum(size for size, _ in run.files.values()) <= run.pool_bytes
    for id, unit_of in run.units.items():
        assert unit_of.live == sum(run.place[block] == id for block in unit_of.blocks)
    assert sum(it.live for it in run.units.values()) == VOLUME
    assert set(run.units) == {id for _, ids in run.files.values() for id in ids}
    assert run.user_bytes <= run.written_bytes


def test_overwriting_in_order_costs_nothing_but_the_format() -> None:
    trace = [block for _ in range(3) for block in _order()]
    result = simulate(VOLUME, trace, capped(CAP_PART), "file", rounds=3)
    assert result.blocks == 1
    assert result.amplification == pytest.approx(SEGMENT_BYTES / SEGMENT_BLOCKS / 4096, rel=0.01)
    assert result.used_part > VOLUME * FRAME / (VOLUME * FRAME / 0.8)


def _order() -> list[int]:
    """As the simulator fills the volume."""
    order = list(range(VOLUME))
    random.Random(1).shuffle(order)
    return order


def test_the_chosen_cap_beats_greedy_where_some_blocks_are_hotter_than_others() -> None:
    (_, uniform), (_, zipf) = traces(VOLUME, rounds=3)
    costs = {
        (load, name): simulate(VOLUME, trace, scored, "file", rounds=3).blocks
        for load, trace in (("uniform", uniform), ("zipf", zipf))
        for name, scored in (("greedy", greedy), ("capped", capped(CAP_PART)))
    }
    assert costs["zipf", "capped"] < 0.95 * costs["zipf", "greedy"]
    assert costs["uniform", "capped"] < 1.05 * costs["uniform", "greedy"]


def test_the_traces_are_what_they_say() -> None:
    found = dict(traces(1000, rounds=2))
    assert all(len(trace) == 2000 for trace in found.values())
    counts = {load: max(trace.count(block) for block in set(trace)) for load, trace in found.items()}
    assert counts["uniform"] < 15
    assert counts["zipf(0.99)"] > 150
    assert f"cap {CAP_PART:.0%}" in POLICIES
