"""P1, P2, P4 of filesystems in all small worlds: every operation, and many pairs and triples, with crashes."""

from tests.sim.fs_sequences import explore_all

STATES_MIN = 1_500


def test_short_sequences_of_operations_survive_every_crash() -> None:
    tallies = explore_all(1, every=0.04), explore_all(2, every=0.012, part=0.15), explore_all(3, every=0.01, part=0.003)
    states = sum(tally.states for tally in tallies)
    print(f"\n{states} crash states checked, {sum(tally.recoveries_cut for tally in tallies)} within a recovery")
    assert states >= STATES_MIN
    assert all(tally.recoveries_cut > tally.states // 20 for tally in tallies)
