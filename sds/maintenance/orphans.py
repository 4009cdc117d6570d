"""Segment files without a row: what a deletion that was cut off, or a backend that was away, left behind.

  O1  A segment is registered before its file is made (SG1 of sds.pool.segments), and the files are listed before the
      rows are read: so a listed file without a row will never have one. Only complete listings count: an error of the
      backend ends the search there.
  O2  Files of a dataset that somebody has open are left alone.
  O3  Files of datasets that the catalog does not know are told apart: after an import from an old backup they may be
      all that is left of a dataset. They go only if the caller says so.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sds.log.env import Env
from sds.pool.pool import Pool
from sds.pool.transfer import list_segments


@dataclass(frozen=True, slots=True)
class Orphans:
    files: int = 0
    size_bytes: int = 0
    unknown_files: int = 0
    """Left alone (O3)."""


async def delete_orphans(pool: Pool, env: Env, busy: Collection[int], with_unknown: bool) -> Orphans:
    """`busy`: ids of datasets that are open somewhere (O2)."""
    listed = {key: await list_segments(backend) for key, backend in pool.backends.items()}
    rows = await env.run_blocking(pool.catalog.all_segments)
    datasets = await env.run_blocking(pool.catalog.datasets)
    places = {(row.id, row.epoch, copy) for row in rows for copy in row.copies}
    known = {row.dataset for row in rows} | {row.id for row in datasets}
    files = size_bytes = unknown = 0
    for key, found in listed.items():
        for stat, name in found:
            if name.dataset in busy or (name.segment, name.epoch, key) in places:
                continue
            if name.dataset not in known and not with_unknown:
                unknown += 1
                continue
            await pool.backends[key].delete(stat.name)
            files += 1
            size_bytes += stat.size_bytes
    return Orphans(files, size_bytes, unknown)
