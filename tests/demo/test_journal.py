"""The witness of files must notice every lie: a missing file, an old one, a torn one, one too many."""

from collections.abc import Callable
from pathlib import Path

import pytest

from demo.journal import Journal, content, losses, pieces

FILES = 120


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Has written on a filesystem that is right, and was stopped in order."""
    journal = Journal(tmp_path)
    journal.start()
    assert journal.reach(FILES)
    journal.stop()
    return journal


def wrong(journal: Journal) -> list[str]:
    return losses(journal.directory, journal.acked, journal.acked + 1)


def test_a_filesystem_that_keeps_everything_loses_nothing(journal: Journal) -> None:
    assert wrong(journal) == []
    assert journal.acked >= FILES
    assert journal.syncs > 1


def test_the_file_that_was_under_way_may_be_there_in_any_state_it_went_through(journal: Journal) -> None:
    last = journal.acked
    for data in (b"", pieces(last)[0], content(last)[:4096], content(last)):
        (journal.directory / f"{last}.new").write_bytes(data)
        assert wrong(journal) == []
    (journal.directory / f"{last}.new").rename(journal.directory / str(last))
    assert wrong(journal) == []


LIES: dict[str, Callable[[Path, int], object]] = {
    "the last one is missing": lambda path, last: (path / str(last)).unlink(),
    "one in the middle is missing": lambda path, last: (path / str(last // 2)).unlink(),
    "one is cut": lambda path, last: (path / str(last)).write_bytes(content(last)[:-1]),
    "one holds another's contents": lambda path, last: (path / "3").write_bytes(content(4)),
    "one has still its first name, too": lambda path, last: (path / "5.new").write_bytes(b""),
    "two more are there": lambda path, last: [
        (path / str(last + more)).write_bytes(content(last + more)) for more in (1, 2)
    ],
    "what is under way has zeros": lambda path, last: (path / f"{last + 1}.new").write_bytes(b"file" + bytes(9)),
    "what is under way is another": lambda path, last: (path / f"{last + 2}.new").write_bytes(b""),
    "something foreign is there": lambda path, last: (path / "foreign").write_bytes(b""),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_noticed(journal: Journal, lie: str) -> None:
    LIES[lie](journal.directory, journal.acked - 1)
    assert wrong(journal), lie


def test_a_writer_that_cannot_go_on_says_why_and_what_was_acknowledged(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "missing")
    journal.start()
    assert not journal.reach(1)
    assert "missing" in journal.broke_off
    assert journal.acked == 0
