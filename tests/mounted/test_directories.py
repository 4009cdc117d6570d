"""Listing directories while they change."""

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.filesystem.syscalls import DirectoryStream

pytestmark = pytest.mark.real("mkfs.ext4", "fusermount3")
MANY = 20_000


def fill(directory: Path, count: int) -> set[bytes]:
    names = {b"%d" % number for number in range(count)}
    for name in names:
        os.close(os.open(os.fsencode(directory) + b"/" + name, os.O_CREAT | os.O_EXCL))
    return names


def test_positions_stay_true_while_entries_come_and_go(place: Path) -> None:
    names = fill(place, 300)
    with DirectoryStream(place) as stream:
        places, order = [stream.tell()], list[bytes]()
        while (name := stream.read()) is not None:
            order.append(name)
            places.append(stream.tell())
        assert set(order) == names | {b".", b".."} and len(order) == 302
        gone = set(order[10:100:2]) - {b".", b".."}
        for name in gone:
            os.unlink(os.fsencode(place) + b"/" + name)
        for number in range(100):
            (place / f"new-{number}").touch()
        for at in (0, 9, 10, 11, 50, 99, 150, 300, 301):
            stream.seek(places[at])
            rest = [name for name in stream.rest() if not name.startswith(b"new-")]
            assert Counter(rest) == Counter(set(order[at:]) - gone - {b".", b".."}), f"from position {at}"


def test_a_position_leads_to_the_same_entry_after_reading_on(place: Path) -> None:
    fill(place, 1000)
    with DirectoryStream(place) as stream:
        for _ in range(500):
            stream.read()
        position = stream.tell()
        following = [stream.read() for _ in range(10)]
        stream.rest()
        stream.seek(position)
        assert [stream.read() for _ in range(10)] == following


def test_rewinding_shows_what_is_there_now(place: Path) -> None:
    fill(place, 10)
    with DirectoryStream(place) as stream:
        begin = stream.tell()
        assert len(stream.rest()) == 10
        (place / "0").unlink()
        (place / "new").touch()
        stream.seek(begin)
        assert sorted(stream.rest()) == sorted([*(b"%d" % number for number in range(1, 10)), b"new"])


def test_what_is_there_all_the_time_is_listed_once_while_others_go_and_come(ours: Path) -> None:
    """20,000 entries, in many replies; for each second one that is listed, another one is deleted and one made."""
    names = fill(ours, MANY)
    seen: Counter[bytes] = Counter()
    deleted: set[bytes] = set()
    with DirectoryStream(ours) as stream:
        while (name := stream.read()) is not None:
            seen[name] += 1
            victim = b"%d" % (len(seen) * 7919 % MANY)
            if len(seen) % 2 and victim not in deleted:
                os.unlink(os.fsencode(ours) + b"/" + victim)
                deleted.add(victim)
                (ours / f"new-{len(seen)}").touch()
    assert len(deleted) > MANY // 4
    twice = [name for name, count in seen.items() if count > 1]
    assert not twice, twice[:5]
    missing = names - seen.keys() - deleted
    assert not missing, f"{len(missing)} were not listed: {sorted(missing)[:5]}"
    assert len(os.listdir(ours)) == MANY


def test_a_full_directory_is_emptied_by_who_lists_it(place: Path) -> None:
    """As rm -r does: unlink while reading."""
    fill(place, 3000)
    with DirectoryStream(place) as stream:
        while (name := stream.read()) is not None:
            if name not in (b".", b".."):
                os.unlink(os.fsencode(place) + b"/" + name)
    assert os.listdir(place) == []
    place.rmdir()
    assert not place.exists()


def test_types_in_a_listing_are_right(place: Path) -> None:
    (place / "file").touch()
    (place / "directory").mkdir()
    (place / "link").symlink_to("directory")
    os.mkfifo(place / "fifo")
    with os.scandir(place) as entries:
        for entry in entries:
            assert entry.is_file(follow_symlinks=False) == (entry.name == "file")
            assert entry.is_dir(follow_symlinks=False) == (entry.name == "directory")
            assert entry.is_symlink() == (entry.name == "link")
            assert entry.inode() == (place / entry.name).lstat().st_ino


def test_the_dots_lead_where_they_should(place: Path) -> None:
    (place / "a" / "b").mkdir(parents=True)
    inodes = {}
    with DirectoryStream(place / "a") as stream:
        assert {stream.read(), stream.read(), stream.read()} == {b".", b"..", b"b"}
    for name in (".", ".."):
        inodes[name] = (place / "a" / name).stat().st_ino
    assert inodes == {".": (place / "a").stat().st_ino, "..": place.stat().st_ino}
