"""Extents of one request are clipped, joined, and never reach over what was left out."""

from sds.core.extent import DATA, HOLE, Extent, ExtentList


def test_they_are_clipped_to_the_request_and_joined() -> None:
    found = ExtentList(100, 1000, 9)
    assert found.add(50, DATA)
    assert found.add(300, HOLE)
    assert found.add(400, HOLE)
    assert found.add(500, DATA)
    assert not found.add(5000, HOLE)
    assert found.result() == [Extent(300, HOLE), Extent(100, DATA), Extent(600, HOLE)]


def test_after_the_last_that_fits_nothing_is_added_behind_the_gap() -> None:
    found = ExtentList(0, 1000, 1)
    assert found.add(300, HOLE)
    assert not found.add(400, DATA)
    assert not found.add(500, HOLE)
    assert found.result() == [Extent(300, HOLE)]
