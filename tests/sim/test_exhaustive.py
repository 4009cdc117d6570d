"""P1-P4 in all small worlds: every sequence of one or two operations, crashed everywhere."""

from tests.sim.sequences import explore_all

STATES_MIN = 10_000


def test_every_sequence_of_up_to_two_operations_survives_every_crash() -> None:
    one, two = explore_all(1, every=0.5), explore_all(2, every=0.075)
    states, recoveries = one.states + two.states, one.recoveries_cut + two.recoveries_cut
    print(f"\n{states} crash states checked, {recoveries} of them within a recovery; {one.points + two.points} points")
    assert states >= STATES_MIN
    assert recoveries > states // 20
