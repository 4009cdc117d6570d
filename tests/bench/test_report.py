"""The arithmetic of the benchmarks: a wrong median would be a wrong promise."""

import pytest

from bench.fio import SIX_JOBS
from bench.nbd import Plan, cases, summary
from bench.report import amount, ratio_of_pairs, size_bytes, table


def test_a_ratio_compares_neighbours_and_not_medians() -> None:
    """In the third round the whole machine was slow; the ratio does not notice."""
    assert ratio_of_pairs([100, 120, 30], [50, 60, 15]) == 2.0


@pytest.mark.parametrize(("text", "size"), [("1G", 1 << 30), ("512M", 512 << 20), ("2T", 2 << 40), ("4096", 4096)])
def test_sizes_read_as_the_command_line_reads_them(text: str, size: int) -> None:
    assert size_bytes(text) == size


def test_read_jobs_run_warm_and_cold_and_write_jobs_once() -> None:
    names = [case.name for case in cases(None, with_cold=True)]

    assert len(names) == 9
    assert names[:3] == ["randwrite-4k-qd32", "randread-4k-qd32 warm", "randread-4k-qd32 cold"]
    assert len(cases(None, with_cold=False)) == len(SIX_JOBS)


def test_the_summary_names_medians_and_ratios_of_ours_to_each_peer() -> None:
    plan = Plan("1G", 5.0, 3, cases(["randwrite-4k-qd1"], with_cold=True))
    samples = {"randwrite-4k-qd1": {"sds": [20.0, 30.0, 10.0], "qemu-nbd": [10.0, 10.0, 10.0]}}

    text, data = summary(samples, plan)

    assert data["randwrite-4k-qd1"]["median"] == {"sds": 20.0, "qemu-nbd": 10.0}
    assert data["randwrite-4k-qd1"]["ratio"] == {"qemu-nbd": 2.0}
    assert text.splitlines()[1].split() == ["randwrite-4k-qd1", "IOPS", "20", "10", "2.00", "x"]


def test_tables_align_names_left_and_numbers_right() -> None:
    assert table(["job", "n"], [["a", "1"], ["bcde", "100"]]) == "job     n\na       1\nbcde  100"
    assert [amount(value) for value in (4.567, 345.6, 12_345)] == ["4.57", "346", "12.3 k"]
