"""Space comes back: segments that nothing refers to any more are deleted. One family (datasets that may share
segments) at a time, beside running writers, without stopping anybody and without any lease.

    read the catalog (generation, datasets, snapshots, segments) ─▶ mark ─▶ rows go, if the generation is still the
    same ─▶ backup of the catalog ─▶ files go

Why nothing that is needed can be deleted, with T the moment at which the datasets' rows were read:

  SW1  Roots are the published checkpoint of every dataset (clones have one from birth), the uploaded one if the pool
       has object stores, and the root of every snapshot. All frames that can be reached from them are marked. With a
       snapshot whose root is pending, nothing is swept.
  SW2  Protected are, per dataset, its own segments from its replay position at T on (the uploaded checkpoint's, if that
       is older). Ids of segments rise in the order of the log, so that is everything written since the checkpoint was
       frozen: the tail, the nodes of checkpoints under way, prepared segments. Segments allocated after T have higher
       ids.
  SW3  What a writer can refer to after T is what it wrote after T (SW2), what is in its map at T, which is the
       published tree (SW1) and the tail behind it (SW2), and what it gets from elsewhere: a rollback.
  SW4  Rollback and clone take the root of a snapshot. If its row was there when snapshots were read, it is marked; if
       it was made after T, its content is that of a head after T, so SW3 covers it. Both also raise the family's
       generation, as does destroy: then delete_segments is refused, and the sweep begins anew.
  SW5  Datasets are read before snapshots: a snapshot made in between is covered by its head's row, which is older.
  SW6  A rollback counts from its record in the log on, but its root is published later. Meanwhile the snapshot is held
       (sds.daemon.operations) and cannot be destroyed; after a kill, destroying a snapshot of a dataset that was not
       closed in order recovers it first (sds.daemon.operate), which publishes the rollback.
  SW7  Rows go first, then a backup that has checkpoints at least as new as those at T, then files (BK1 of
       sds.pool.backup). So an import from the backends finds all that its checkpoints and their logs refer to.
  SW8  A reader that took an address from the map before it was overwritten may find its segment gone: it gets Missing
       and looks at the map again (sds.volume.reading); an open file stays readable.
"""

import logging
from array import array
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

import trio

from sds.core.errors import Busy, SdsError
from sds.core.keys import MAP, split_key
from sds.core.node import Node
from sds.core.page import decode_value
from sds.dataset import tree
from sds.dataset.nodes import Nodes
from sds.log.env import Env
from sds.maintenance.plan import dead_segments, replay_starts, stored_bytes
from sds.pool.files import file_name
from sds.pool.places import is_remote
from sds.pool.pool import Pool
from sds.pool.rows import DatasetRow, SegmentRow

TRIES: Final = 5
PAGES_PER_STEP: Final = 16
_ADDRESS_SHIFT: Final = 24
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Swept:
    ids: frozenset[int] = frozenset()
    size_bytes: int = 0
    """What comes back, all copies."""

    @property
    def segments(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Family:
    """What the catalog says about a family, read in the order that SW5 asks for."""

    id: int
    generation: int
    datasets: list[DatasetRow]
    roots: list[int]
    """Of snapshots and heads, oldest first."""
    has_pending: bool
    is_remote: bool
    """The pool has object stores."""
    segments: list[SegmentRow]


def read_family(pool: Pool, family: int) -> Family:
    """SW5."""
    catalog = pool.catalog
    generation = catalog.generation(family)
    datasets = catalog.datasets_of_family(family)
    snapshots = catalog.snapshots_of_family(family)
    heads = [ref.root for row in datasets for ref in (row.uploaded, row.checkpoint) if ref is not None and ref.root]
    roots = [row.root for row in snapshots if row.root] + list(dict.fromkeys(heads))
    pending = any(row.root is None for row in snapshots)
    remote = any(is_remote(row.url) for row in catalog.backends())
    return Family(family, generation, datasets, roots, pending, remote, catalog.segments_of_family(family))


class Mark:
    """Collects the segments that trees refer to. Shared subtrees and map pages are looked at once."""

    def __init__(self, nodes: Nodes) -> None:
        self.segments: set[int] = set()
        self._nodes = nodes
        self._seen: set[int] = set()
        self._pages = 0

    def note(self, addresses: Iterable[int]) -> None:
        """These are referred to; 0 is a hole."""
        self.segments.update({address >> _ADDRESS_SHIFT for address in addresses})

    async def add(self, root: int) -> None:
        async for address, node in tree.walk(self._nodes, root, self._seen):
            self.note((address,))
            if node.level == 0:
                await self._add_leaf(node)
            await trio.lowlevel.checkpoint()

    async def _add_leaf(self, leaf: Node) -> None:
        for key, value in zip(leaf.keys, leaf.values, strict=True):
            if split_key(key)[1] != MAP:
                continue
            page = decode_value(value)
            if not isinstance(page, array):
                if page in self._seen:
                    continue
                self._seen.add(page)
                self.note((page,))
                page = await self._nodes.read_page(page)
            self.note(page)
            self._pages += 1
            if self._pages % PAGES_PER_STEP == 0:
                await trio.lowlevel.checkpoint()


async def sweep_family(pool: Pool, family: int, nodes: Nodes, env: Env) -> Swept:
    """Delete the dead segments of a family. Busy if it keeps changing; Missing if the family is gone."""
    for attempt in range(TRIES):
        found = await env.run_blocking(read_family, pool, family)
        if found.has_pending:
            return Swept()
        mark = Mark(nodes)
        for root in found.roots:
            await mark.add(root)
        dead = dead_segments(found.segments, replay_starts(found.datasets, found.is_remote), mark.segments)
        if not dead:
            return Swept()
        try:
            expected = (family, found.generation)
            await env.run_blocking(pool.catalog.delete_dead, dead, expected)
        except Busy:
            if attempt == TRIES - 1:
                raise
            continue
        await pool.backup()  # SW7
        await delete_files(pool, dead)
        size_bytes = sum(stored_bytes(row, pool.segment_size) for row in dead)
        return Swept(frozenset(row.id for row in dead), size_bytes)
    raise AssertionError("not reached")


async def delete_files(pool: Pool, rows: Collection[SegmentRow]) -> None:
    """Of rows that are gone. What cannot be deleted now is garbage without a row: `sds pool clean` finds it."""
    for name, copy in {(file_name(row), copy): None for row in rows for copy in row.copies}:
        backend = pool.backends.get(copy)
        if backend is None:
            continue
        try:
            await backend.delete(name)
        except SdsError as error:
            _log.warning("a dead segment stays for now: %s", error)
