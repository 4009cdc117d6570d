"""The random mode of filesystems over fixed seeds."""

from collections import Counter

from tests.sim.fs_swarm import FsSwarm

SEEDS = range(1000, 1120)


def test_any_mixture_of_operations_tasks_crashes_and_faults_leaves_a_state_that_was() -> None:
    total: Counter[str] = Counter()
    for seed in SEEDS:
        try:
            result = FsSwarm(seed).run()
        except BaseException as error:
            error.add_note(f"again: make sim SEED={seed} ARGS=--fs")
            raise
        for name in ("rounds", "kills", "power_cuts", "faults", "refused", "swept", "operations", "failed"):
            total[name] += getattr(result, name)
    print(f"\n{len(SEEDS)} seeds: {dict(total)}")
    assert min(total["kills"], total["power_cuts"], total["faults"], total["refused"], total["swept"]) > 15
    assert total["operations"] > 10_000
    assert total["failed"] > 1_000


def test_a_seed_replays_exactly() -> None:
    traces = [FsSwarm(seed).run().trace for seed in (5, 6, 7)]
    assert traces == [FsSwarm(seed).run().trace for seed in (5, 6, 7)]
    assert len(set(traces)) == 3
