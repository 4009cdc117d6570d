"""The arithmetic of the benchmarks of cleaning, copies, scrub and object stores."""

from bench import clean, copies, s3
from bench.fio import SIX_JOBS
from bench.s3_jobs import OURS, PLAIN, Notes


def _round(user: int, log: int, packed: int, rate: float = 60.0) -> clean.Round:
    return clean.Round(user, log, packed, 0, rate, 100.0, 0.9)


def test_amplification_weighs_rounds_by_what_users_wrote() -> None:
    assert clean.amplification([_round(100, 110, 90), _round(300, 330, 270)]) == 2.0


def test_the_steady_part_begins_after_the_warm_up_and_is_never_empty() -> None:
    rounds = [_round(100, 100, packed) for packed in (0, 50, 150, 150)]

    assert clean.steady(rounds) == rounds[2:]
    assert clean.steady(rounds[:1]) == rounds[:1]


def test_a_rate_below_the_aim_is_told_even_if_little_is_written() -> None:
    assert clean.row("uniform", "all", [_round(100, 110, 90)])[-1] == "met"
    assert clean.row("uniform", "all", [_round(100, 110, 90, rate=59.0)])[-1] == "MISSED"


def test_two_copies_of_large_writes_may_cost_half() -> None:
    assert [copies.aim(job) for job in SIX_JOBS if job.name in ("randwrite-4k-qd1", "write-1m-qd4")] == [0.8, 0.45]


def test_bulk_writes_are_measured_by_plain_boto3() -> None:
    notes = Notes()
    for ours, plain in ((69.0, 100.0), (69.0, 98.0), (10.0, 14.5)):
        notes.add("bulk write", "MB/s", OURS, ours)
        notes.add("bulk write", "MB/s", PLAIN, plain)

    _, data = s3.summary(notes)

    assert data["bulk write"]["ratio"] == 0.69
    assert data["bulk write"]["met"] is False
