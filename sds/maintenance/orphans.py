"""Files without a row: what a deletion or an upload that was cut off, a move, or a backend that was away, left behind.

  O1  A segment is registered before its file is made (SG1 of sds.pool.segments), and the files are listed before the
      rows are read: so a listed segment file without a row will never have one. Packs and moved copies are made before
      their rows: only by who has the turn (MV7 of moving.py), which the caller holds here.
  O2  Files of a dataset that somebody has open are left alone.
  O3  Files of datasets that the catalog does not know are told apart: after an import from an old backup they may be
      all that is left of a dataset. They go only if the caller says so.
  O4  Only complete listings count: an error of a backend ends the search there.
  O5  In an object store a request may be carried out long after it was given up, or come from a machine that does not
      know yet that it lost the pool. What is there without a row goes when it was seen DELAY_S before, too.
"""

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sds.core.errors import SdsError
from sds.log.env import Env
from sds.pool.files import file_name
from sds.pool.found import list_packs, list_segments
from sds.pool.places import is_remote
from sds.pool.pool import Pool

DELAY_S: Final = 3600
SEEN: Final = "orphans"
"""Under this name the catalog's progress table keeps what O5 needs: {file: seconds since 1970}."""


@dataclass(frozen=True, slots=True)
class Orphans:
    files: int = 0
    size_bytes: int = 0
    unknown_files: int = 0
    """Left alone (O3)."""
    waiting_files: int = 0
    """Left alone for now (O5)."""
    problems: list[str] = field(default_factory=list)
    """Backends that could not be looked at (O4)."""


class _Listed(NamedTuple):
    name: str
    size_bytes: int
    copy: int
    dataset: int
    """That it belongs to; of a pack, its family."""
    is_pack: bool


async def delete_orphans(
    pool: Pool, env: Env, busy: Collection[int], with_unknown: bool, clock: Callable[[], float] = lambda: 0.0
) -> Orphans:
    """`busy`: ids of datasets that are open somewhere (O2)."""
    listed, problems = await _list(pool)
    lone = list(await env.run_blocking(_without_row, pool, listed, busy))
    known = await env.run_blocking(_known, pool)
    before = json.loads(pool.catalog.progress(SEEN) or "{}")
    seen: dict[str, int] = {}
    files = size_bytes = unknown = 0
    for one in lone:
        if one.dataset not in known[one.is_pack] and not with_unknown:
            unknown += 1
            continue
        backend = pool.backends[one.copy]
        if is_remote(backend.url):
            first = seen[f"{one.copy}:{one.name}"] = int(before.get(f"{one.copy}:{one.name}", clock()))
            if clock() - first < DELAY_S:
                continue
            del seen[f"{one.copy}:{one.name}"]
        await backend.delete(one.name)
        files += 1
        size_bytes += one.size_bytes
    await env.run_blocking(pool.catalog.set_progress, SEEN, json.dumps(seen) if seen else None)
    return Orphans(files, size_bytes, unknown, len(seen), problems)


async def _list(pool: Pool) -> tuple[list[_Listed], list[str]]:
    """O4."""
    found: list[_Listed] = []
    problems = []
    for copy, backend in pool.backends.items():
        try:
            segments, packs = await list_segments(backend), await list_packs(backend)
        except SdsError as error:
            problems.append(str(error))
            continue
        found += [_Listed(stat.name, stat.size_bytes, copy, name.dataset, False) for stat, name in segments]
        found += [_Listed(stat.name, stat.size_bytes, copy, name.family, True) for stat, name in packs]
    return found, problems


def _without_row(pool: Pool, listed: list[_Listed], busy: Collection[int]) -> Iterator[_Listed]:
    """O1, O2."""
    places = {(file_name(row), copy) for row in pool.catalog.all_segments() for copy in row.copies}
    for one in listed:
        if (one.name, one.copy) not in places and (one.is_pack or one.dataset not in busy):
            yield one


def _known(pool: Pool) -> dict[bool, set[int]]:
    """Ids of datasets, by False, and of families, by True, that the catalog knows."""
    rows = pool.catalog.all_segments()
    datasets = {row.dataset for row in rows} | {row.id for row in pool.catalog.datasets()}
    return {False: datasets, True: set(pool.catalog.families())}
