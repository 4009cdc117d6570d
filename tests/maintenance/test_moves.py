"""The planner: pure, so every rule is looked at on rows alone."""

import random
from dataclasses import replace

import pytest

from sds.maintenance.moves import Place, Plan, plan, policies
from sds.maintenance.risk import risk_of
from sds.pool.files import StoredFile, files_of
from sds.pool.policy import Policy
from sds.pool.rows import DatasetRow, SegmentRow

MIB = 1 << 20


def place(key: int, label: str = "", **changes: object) -> Place:
    return replace(Place(key, label or f"d{key}", "fast", False, True, 1 << 30, 1 << 30), **changes)  # type: ignore[arg-type]


def row(key: int, copies: tuple[int, ...], **changes: object) -> SegmentRow:
    return replace(SegmentRow(key, 1, 1, copies, True, MIB, family=1), **changes)  # type: ignore[arg-type]


def asks(copies: int, *tiers: str) -> "object":
    return lambda file: Policy(copies, tiers)


def run(rows: list[SegmentRow], places: list[Place], copies: int, goal: str, *tiers: str, **more: float) -> Plan:
    return plan(files_of(rows), places, asks(copies, *tiers), goal, **more)  # type: ignore[arg-type]


def test_missing_copies_are_added_on_other_failure_domains_the_fewest_first() -> None:
    places = [place(1), place(2, is_connected=False), place(3, "d1"), place(4), place(5)]
    found = run([row(1, (1, 4)), row(2, (1, 2, 4)), row(3, (1,)), row(4, (4, 1, 5))], places, 3, "resilver")
    assert [move.file.rows[0].id for move in found.moves] == [3, 1, 2]
    adds = {move.file.rows[0].id: set(move.add) for move in found.moves}
    assert adds == {3: {4, 5}, 1: {5}, 2: {5}}
    assert all(move.drop == () for move in found.moves) and not found.stuck


def test_as_many_copies_as_there_are_places_and_the_rest_is_told() -> None:
    found = run([row(1, (1,))], [place(1), place(2)], 3, "resilver")
    assert [(move.add, move.drop) for move in found.moves] == [((2,), ())]
    assert [stuck.why for stuck in found.stuck] == ["no place for 1 more copies"]
    found = run([row(1, (2,))], [place(1), place(2, is_connected=False)], 1, "resilver")
    assert not found.moves and found.stuck[0].why == "no copy can be reached"


def test_surplus_copies_go_but_never_for_one_that_does_not_answer() -> None:
    places = [place(1), place(2, is_connected=False), place(3), place(4, "d3")]
    found = run([row(1, (1, 2, 3)), row(2, (1, 3, 4)), row(3, (1, 2))], places, 2, "resilver")
    assert [(move.file.rows[0].id, move.add) for move in found.moves if move.add] == [(3, found.moves[0].add)]
    (surplus,) = [move for move in found.moves if move.drop]
    assert surplus.file.rows[0].id == 2 and surplus.drop in ((3,), (4,))


def test_an_evacuation_moves_what_is_there_and_nothing_else() -> None:
    places = [place(1, is_draining=True), place(2), place(3)]
    found = run([row(1, (1,)), row(2, (2,)), row(3, (1, 2)), row(4, (1, 2, 3))], places, 2, "evacuate")
    by_id = {move.file.rows[0].id: move for move in found.moves}
    assert set(by_id) == {1, 3, 4} and all(move.drop == (1,) for move in by_id.values())
    assert set(by_id[1].add) == {2, 3} and by_id[3].add == (3,) and by_id[4].add == ()


def test_an_evacuation_without_room_is_stuck_and_plans_no_place_fuller_than_it_is() -> None:
    places = [place(1, is_draining=True), place(2, free_bytes=5 * MIB)]
    found = run([row(key, (1,)) for key in range(1, 9)], places, 1, "evacuate")
    assert len(found.moves) == 5 and len(found.stuck) == 3
    found = run([row(1, (1, 2))], [place(1, is_draining=True), place(2, is_connected=False)], 2, "evacuate")
    assert not found.moves and len(found.stuck) == 1


def test_a_lost_backend_does_not_keep_a_file_from_its_only_other_place() -> None:
    found = run([row(1, (1, 2))], [place(1, is_draining=True, is_connected=False), place(2)], 2, "evacuate")
    assert [(move.add, move.drop) for move in found.moves] == [((), (1,))]
    found = run([row(1, (1,))], [place(1, is_draining=True, is_connected=False), place(2)], 1, "evacuate")
    assert not found.moves and len(found.stuck) == 1


def test_rebalancing_ends_within_the_spread_with_few_bytes() -> None:
    total = 100 * MIB
    places = [
        place(1, free_bytes=10 * MIB, total_bytes=total), place(2, free_bytes=total, total_bytes=total),
        place(3, free_bytes=50 * MIB, total_bytes=total),
    ]  # fmt: skip
    rows = [row(key, (1,)) for key in range(1, 91)] + [row(key, (3,)) for key in range(101, 151)]
    found = run(rows, places, 1, "rebalance")
    used = {1: 90, 2: 0, 3: 50}
    for move in found.moves:
        used[move.drop[0]] -= 1
        used[move.add[0]] += 1
    assert max(used.values()) - min(used.values()) <= 10
    assert 40 <= len(found.moves) <= 52
    assert len({move.file.name for move in found.moves}) == len(found.moves)
    assert not run(rows[:1], [place(1, free_bytes=95 * MIB, total_bytes=total), places[1]], 1, "rebalance").moves


def test_rebalancing_respects_failure_domains_and_tiers() -> None:
    places = [place(1, free_bytes=0), place(2, "d3"), place(3)]
    assert not run([row(1, (1, 3)), row(2, (1, 2))], places[:2], 2, "rebalance").moves[1:]
    for move in run([row(key, (1, 3)) for key in range(1, 9)], places, 2, "rebalance").moves:
        assert move.add != (2,) or move.drop == (3,)
    cold = [place(1, free_bytes=0), place(2, tier="cold")]
    assert not run([row(1, (1,))], cold, 1, "rebalance", "fast", "cold").moves
    assert run([row(1, (1,))], cold, 1, "rebalance").moves


def test_cold_files_go_to_the_last_tier_and_hot_ones_stay() -> None:
    places = [place(1), place(2), place(3, tier="cold"), place(4, tier="cold")]
    rows = [row(key, (1, 2)) for key in range(1, 11)]
    found = run(rows, places, 2, "tier", "fast", "cold", cold_after_bytes=4 * MIB)
    assert [move.file.rows[0].id for move in found.moves] == [1, 2, 3, 4, 5, 6]
    assert all(set(move.add) == {3, 4} and set(move.drop) == {1, 2} for move in found.moves)
    moved = [row(1, (3, 4)), *rows[1:]]
    again = run(moved, places, 2, "tier", "fast", "cold", cold_after_bytes=4 * MIB)
    assert [move.file.rows[0].id for move in again.moves] == [2, 3, 4, 5, 6]
    assert not run(rows, places, 2, "tier", "fast", cold_after_bytes=0).moves
    assert not run(rows, places[:3], 2, "tier", "fast", "cold", cold_after_bytes=0).moves


def test_what_a_family_shares_is_kept_as_its_strictest_dataset_asks() -> None:
    datasets = [
        DatasetRow(1, "a", "volume", 0, 1, None, 1, None, 0, {"copies": "3", "place": "cold"}),
        DatasetRow(2, "b", "volume", 0, 1, None, 1, None, 0, {}),
        DatasetRow(3, "c", "volume", 0, 1, None, 3, None, 0, {"copies": "1"}),
    ]
    policy = policies(datasets, 2)
    assert policy(StoredFile("x", (row(1, (1,), dataset=2),))) == Policy(3, ())
    assert policy(StoredFile("x", (row(1, (1,), dataset=2), row(2, (1,), dataset=1)))) == Policy(3, ("cold",))
    assert policy(StoredFile("x", (row(1, (1,), dataset=3, family=3),))).copies == 1
    assert policy(StoredFile("x", (row(1, (1,), dataset=9, family=9),))).copies == 2


@pytest.mark.parametrize("seed", range(30))
def test_no_plan_ever_leaves_a_file_with_fewer_domains_than_it_has_or_than_asked(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(20):
        places = [
            place(key, f"d{rng.randrange(5)}", tier=rng.choice(("fast", "cold")), is_draining=rng.random() < 0.2,
                  is_connected=rng.random() < 0.8, free_bytes=rng.randrange(64) * MIB)
            for key in range(1, 8)
        ]  # fmt: skip
        labels = {one.id: one.label for one in places if one.is_connected}
        rows = [row(key, tuple(rng.sample(range(1, 9), rng.randint(1, 4)))) for key in range(1, 40)]
        copies = rng.randint(1, 3)
        for goal in ("resilver", "evacuate", "rebalance", "tier"):
            for move in run(rows, places, copies, goal, "fast", "cold", cold_after_bytes=4 * MIB).moves:
                before = {labels[copy] for copy in move.file.copies if copy in labels}
                after_copies = [copy for copy in move.file.copies if copy not in move.drop] + list(move.add)
                after = {labels[copy] for copy in after_copies if copy in labels}
                assert after and len(after) >= min(len(before), copies)
                assert not set(move.add) & set(move.file.copies)
                assert all(not places[copy - 1].is_draining and places[copy - 1].is_connected for copy in move.add)


def test_what_is_at_risk_is_counted_by_file_and_domain() -> None:
    datasets = [DatasetRow(1, "a", "volume", 0, 1, None, 1, None, 0), DatasetRow(2, "b", "fs", 0, 1, None, 2, None, 0)]
    rows = [
        row(1, (1, 2)), row(2, (1, 3), verified_at=5), row(3, (3,), family=2, dataset=2),
        row(4, (1, 4), pack=9), row(5, (1, 4), pack=9, size_bytes=3), row(6, (1,), sealed=False, size_bytes=0),
    ]  # fmt: skip
    labels = {1: "x", 2: "y", 3: "z", 4: "x"}
    risk = risk_of(rows, datasets, 2, 2 * MIB, labels, {1, 2, 4})
    assert (risk.degraded.files, risk.single.files, risk.unreachable.files) == (4, 3, 1)
    assert risk.single.size_bytes == MIB + MIB + 3 + 2 * MIB
    assert risk.unreachable_names == ["b"]
    assert (risk.sealed_bytes, risk.verified_bytes) == (4 * MIB + 3, MIB)
