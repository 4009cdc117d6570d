"""What differs between two states of one filesystem, as paths.

    +  a name is there that was not          path: in the new state
    -  a name is gone                        path: in the old state
    R  a name has moved                      path: in the old state, new_path: in the new one
    M  contents or attributes have changed   path: in the new state

  DP1  Both views stand on published trees of the same dataset: nothing of them is only in memory.
  DP2  Each name counts: of a file with two names that was written to, both are M. A directory is M if its own
       attributes or its list of names changed. A directory that moves is one R; of what is in it nothing is said.
  DP3  M says that something was written, be it the same bytes again (DF1 of sds/dataset/diff.py). Times of access and
       of change (atime, ctime) and link counts are no difference. A name that leads to another inode of the same type
       now is M, too; but if that inode had another name before, its R and the - of the one it replaced are told.
  DP4  Cost: the changes, and the sizes of the directories that they are in and of those above, for inodes do not know
       their names. Only a file that has several names, or had, may have them anywhere: if one of these was modified and
       not all its names are in the directory of its newest name, the names of the whole filesystem are walked, once.
"""

import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

import trio

from sds.core.errors import Corrupt
from sds.core.keys import ATTR, DATASET_INODE, DIRENT, kind_range, split_key
from sds.dataset import tree
from sds.dataset.nodes import Nodes
from sds.dataset.section import run
from sds.filesystem.attributes import ROOT_INODE, Attr, decode_attr
from sds.filesystem.entries import Link, decode_links
from sds.filesystem.view import FilesystemView

_DIRECTORY: Final = stat.S_IFDIR >> 12
STEP: Final = 256
"""Differences that are looked at before others get their turn."""


class Change(NamedTuple):
    kind: str
    """One of + - M R"""
    path: bytes
    """From the root of the filesystem on, which is b"/"."""
    new_path: bytes | None = None


class Place(NamedTuple):
    """A name of an inode."""

    directory: int
    name: bytes
    type: int
    inode: int


Places = defaultdict[int, list[Place]]
"""By inode."""


@dataclass(slots=True)
class _Differences:
    removed: Places = field(default_factory=lambda: defaultdict(list))
    added: Places = field(default_factory=lambda: defaultdict(list))
    modified: set[int] = field(default_factory=set)
    """Of the inodes that are in both."""


async def changed_paths(old: FilesystemView, new: FilesystemView) -> list[Change]:
    """Sorted by path."""
    found = await _differences(old, new)
    old_paths, new_paths = _Paths(old), _Paths(new)
    modified = await _names_of_modified(new, found)
    await old_paths.resolve(place.directory for places in found.removed.values() for place in places)
    await new_paths.resolve(place.directory for places in (*found.added.values(), modified) for place in places)
    changes = {Change("M", new_paths.path(place)) for place in modified}
    if ROOT_INODE in found.modified:
        changes.add(Change("M", b"/"))
    gone: set[tuple[bytes, int]] = set()
    come: set[tuple[bytes, int]] = set()
    for inode in found.removed.keys() | found.added.keys():
        before, after = sorted(found.removed.get(inode, ())), sorted(found.added.get(inode, ()))
        moved = min(len(before), len(after))
        for source, target in zip(before, after, strict=False):
            changes.add(Change("R", old_paths.path(source), new_paths.path(target)))
        gone.update((old_paths.path(place), place.type) for place in before[moved:])
        come.update((new_paths.path(place), place.type) for place in after[moved:])
    changes.update(Change("M", path) for path, _ in gone & come)
    changes.update(Change("-", path) for path, _ in gone - come)
    changes.update(Change("+", path) for path, _ in come - gone)
    return sorted(changes, key=lambda change: (change.path, change.kind, change.new_path or b""))


async def _differences(old: FilesystemView, new: FilesystemView) -> _Differences:
    assert not old.items.unmerged and not new.items.unmerged, "DP1"
    found = _Differences()
    only_in_one: set[int] = set()
    count = 0
    nodes = Nodes(new.reader, None)
    async for key, before, after in tree.diff(nodes, old.items.layers.root, new.items.layers.root):
        count += 1
        if not count % STEP:
            await trio.lowlevel.checkpoint()
        inode, kind, _ = split_key(key)
        if inode == DATASET_INODE:
            continue
        if kind == DIRENT:
            _compare_names(found, inode, before, after)
        elif kind == ATTR and (before is None or after is None):
            only_in_one.add(inode)
        elif kind != ATTR or _shown(inode, before) != _shown(inode, after):
            found.modified.add(inode)
    found.modified -= only_in_one
    return found


def _compare_names(found: _Differences, directory: int, before: bytes | None, after: bytes | None) -> None:
    old, new = (
        {(link.name, link.inode): link for link in (decode_links(value, directory) if value is not None else ())}
        for value in (before, after)
    )
    for places, links in ((found.removed, old.items() - new.items()), (found.added, new.items() - old.items())):
        for _, link in links:
            places[link.inode].append(Place(directory, link.name, link.type, link.inode))


def _shown(inode: int, value: bytes | None) -> Attr:
    """DP3: the attributes without those that are no difference."""
    assert value is not None
    attr = decode_attr(inode, value)
    return attr._replace(flags=0, nlink=0, parent=0, atime_ns=0, ctime_ns=0)


# -- names of inodes --------------------------------------------------------------------------------------------------


async def _names_of_modified(new: FilesystemView, found: _Differences) -> list[Place]:
    """All names of these inodes in the new state but those that are told as added (+)."""
    places: list[Place] = []
    missing: dict[int, int] = {}
    """How many names of which inode are not known yet."""
    by_parent: defaultdict[int, set[int]] = defaultdict(set)
    for inode in sorted(found.modified - {ROOT_INODE}):
        attr = await new.getattr(inode)
        added = sorted(found.added.get(inode, ()))
        places += added[: len(found.removed.get(inode, ()))]
        names = min(attr.nlink, 1) if attr.is_directory else attr.nlink
        if names > len(added):
            missing[inode] = names - len(added)
            by_parent[attr.parent].add(inode)
    known = {(place.directory, place.name) for each in found.added.values() for place in each}
    for parent, inodes in by_parent.items():
        places += await _find(new, parent, inodes, missing, known)
    if missing:
        places += await _walk(new, missing, known)
    return places


async def _find(
    view: FilesystemView, directory: int, wanted: set[int], missing: dict[int, int], known: set[tuple[int, bytes]]
) -> list[Place]:
    """Names in this directory that are missing and not known; until none of those in `wanted` is missing."""
    places: list[Place] = []
    low, high = kind_range(directory, DIRENT)
    while low < high and not wanted.isdisjoint(missing):
        links, low = await _some_links(view, directory, low, high)
        places += _picked(directory, links, missing, known)
    return places


async def _walk(view: FilesystemView, missing: dict[int, int], known: set[tuple[int, bytes]]) -> list[Place]:
    """DP4: all names of the filesystem, until none is missing."""
    places: list[Place] = []
    directories, seen = [ROOT_INODE], {ROOT_INODE}
    while directories and missing:
        directory = directories.pop()
        low, high = kind_range(directory, DIRENT)
        while low < high and missing:
            links, low = await _some_links(view, directory, low, high)
            places += _picked(directory, links, missing, known)
            below = {link.inode for link in links if link.type == _DIRECTORY} - seen
            seen |= below
            directories += below
    return places


async def _some_links(view: FilesystemView, directory: int, low: bytes, high: bytes) -> tuple[list[Link], bytes]:
    await trio.lowlevel.checkpoint()
    items, low = await run(partial(view.items.batch, low, high))
    return [link for _, value in items for link in decode_links(value, directory)], low


def _picked(
    directory: int, links: list[Link], missing: dict[int, int], known: set[tuple[int, bytes]]
) -> Iterator[Place]:
    for link in links:
        if link.inode in missing and (directory, link.name) not in known:
            known.add((directory, link.name))
            missing[link.inode] -= 1
            if not missing[link.inode]:
                del missing[link.inode]
            yield Place(directory, link.name, link.type, link.inode)


class _Paths:
    """Paths in one state: of names in directories that were resolved before."""

    def __init__(self, view: FilesystemView) -> None:
        self._view = view
        self._paths = {ROOT_INODE: b""}
        self._places: dict[int, Place] = {}
        """Where directories are."""

    async def resolve(self, directories: Iterable[int]) -> None:
        """Find where these are, and all above them. Every directory is looked through once at most."""
        seen = {ROOT_INODE}
        below: defaultdict[int, set[int]] = defaultdict(set)
        waiting = list(directories)
        while waiting:
            directory = waiting.pop()
            if directory in seen:
                continue
            seen.add(directory)
            parent = (await self._view.getattr(directory)).parent
            below[parent].add(directory)
            waiting.append(parent)
        for parent, children in below.items():
            missing = dict.fromkeys(children, 1)
            for place in await _find(self._view, parent, children, missing, set()):
                self._places[place.inode] = place

    def path(self, place: Place) -> bytes:
        names, at = [place.name], place.directory
        while at not in self._paths:
            above = self._places.get(at)
            if above is None or len(names) > len(self._places):
                raise Corrupt(f"directory {at} is not in its parent: the filesystem is damaged, restore a snapshot")
            names.append(above.name)
            at = above.directory
        names.append(self._paths[at])
        path = b"/".join(reversed(names))
        self._paths[place.directory] = path[: -len(place.name) - 1]
        return path
