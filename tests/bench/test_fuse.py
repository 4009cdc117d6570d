"""The table of `python -m bench fuse`: a target is met, missed or not judged, and never by accident."""

from math import nan

import pytest

from bench.fuse import Plan, jobs_named, summary, verdict
from bench.fuse_jobs import JOBS, Job


def job(name: str) -> Job:
    return next(job for job in JOBS if job.name == name)


def plan(*names: str) -> Plan:
    return Plan(tuple(map(job, names)), 3, 1.0, "1G", 100, 100, ("sds", "null"), None)


def test_a_target_is_met_by_the_median_of_neighbouring_samples() -> None:
    """In the second round the whole machine was slow."""
    met = verdict(job("untar"), {"sds": [70, 7, 60], "null": [100, 10, 100]})
    missed = verdict(job("untar"), {"sds": [50, 5, 90], "null": [100, 10, 100]})

    assert (met.shares["null"], met.word) == (0.7, "met")
    assert (missed.shares["null"], missed.word) == (0.5, "MISSED")


def test_a_measured_peer_is_preferred_to_a_recorded_one() -> None:
    measured = verdict(job("create"), {"sds": [3000], "null": [3000], "s3ql": [2500]})
    recorded = verdict(job("create"), {"sds": [3000], "null": [3000]})

    assert measured.wanted == "null 0.6, s3ql 1.5" and measured.word == "MISSED"
    assert recorded.wanted == "null 0.6, s3ql* 1.5" and recorded.word == "met"


def test_a_job_that_waits_for_the_disk_may_be_measured_by_the_disk() -> None:
    values = {"sds": [150.0], "null": [5000.0], "dir": [200.0]}

    assert verdict(job("create-fsync"), values).word == "met"
    assert verdict(job("create-1k"), values).word == "MISSED"


def test_a_job_that_fails_on_ours_misses_its_target_and_one_that_fails_on_a_peer_judges_nothing() -> None:
    ours = verdict(job("untar"), {"sds": [70, nan], "null": [100, 100]})
    theirs = verdict(job("untar"), {"sds": [70, 70], "null": [nan, 100]})

    assert ours.word == "MISSED"
    assert (theirs.shares, theirs.word) == ({}, "-")


def test_without_ours_nothing_is_judged() -> None:
    text, data = summary({"untar": {"null": [100.0], "dir": [1000.0]}}, plan("untar"))

    assert text.splitlines()[1].split() == ["untar", "/s", "100", "1000", "-"]
    assert data["untar"]["met"] is None


def test_the_table_has_a_blank_where_a_side_does_not_run() -> None:
    samples = {
        "read-1m-direct": {"sds": [3500.0], "null": [5000.0]},
        "untar": {"sds": [70.0], "null": [100.0], "tmpfs": [900.0]},
    }

    text, data = summary(samples, plan("read-1m-direct", "untar"))

    lines = text.splitlines()
    assert lines[0].split() == ["job", "unit", "sds", "null", "tmpfs", "sds/null", "sds/s3ql*", "target"]
    assert lines[2].split() == ["untar", "/s", "70", "100", "900", "0.70", "x", "null", "0.6", "met"]
    assert data["read-1m-direct"]["ratio"] == {"null": 0.7, "s3ql*": 3500 / 3200}


def test_jobs_are_chosen_by_name_and_cold_ones_need_root() -> None:
    assert [one.name for one in jobs_named(["unlink", "create"], with_root=True)] == ["create", "unlink"]
    assert not any("cold" in one.name for one in jobs_named(None, with_root=False))
    with pytest.raises(SystemExit, match="no job is called stats"):
        jobs_named(["stats"], with_root=True)


def test_every_job_has_its_own_name() -> None:
    assert len({one.name for one in JOBS}) == len(JOBS)
