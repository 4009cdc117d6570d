"""Pools that come and go: export, import from the backends alone, destroy.

TR1  export backs up, then removes the local state; nothing on the backends changes hands. Refused while a
     dataset is in use.
TR2  import needs the backends only: newest valid catalog backup on any of them, segments from their
     listings. It writes nothing on a backend before the local catalog is in place.
TR3  destroy removes from the backends only files with names of ours: segments, backups, and the label last,
     so that a destroy that was cut off can be repeated.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import trio

from backends.base import Backend, Stat
from sds.core.errors import BadInput, Busy, Corrupt, Exists, Missing
from sds.core.names import SEGMENT_PREFIX, SegmentName, parse_segment_name
from sds.pool.backup import newest_backup
from sds.pool.catalog import Catalog
from sds.pool.create import check_shape, known_urls, take_back
from sds.pool.database import Clock
from sds.pool.home import CATALOG, Home
from sds.pool.label import Label, read_label
from sds.pool.lease import Holder
from sds.pool.places import canonical_url, check_overlap
from sds.pool.pool import Connect, Pool, open_pool
from sds.pool.rows import BackendRow, SegmentRow


@dataclass(frozen=True, slots=True)
class Imported:
    pool: Pool
    left_out: list[SegmentRow]
    """Segments on the backends that belong to nothing in the catalog; they are left alone."""


async def export_pool(pool: Pool, holder: Holder) -> None:
    """TR1. The pool is closed."""
    async with pool.home.locked():
        with idle(pool, holder):
            await pool.backup()
            await pool.close()
            pool.home.forget(pool.name)


async def destroy_pool(pool: Pool, holder: Holder, force: bool = False) -> None:
    """TR3. The pool is closed; refused with datasets unless `force`."""
    async with pool.home.locked():
        names = [row.name for row in pool.catalog.datasets()]
        if names and not force:
            raise Busy(
                f"pool {pool.name} has datasets ({', '.join(names[:3])}): destroy them first, or use --force"
            )
        with idle(pool, holder):
            for backend in pool.backends.values():
                for stat, _ in await list_segments(backend):
                    await backend.delete(stat.name)
            await take_back(pool.backends.values())
            await pool.close()
            pool.home.forget(pool.name)


@contextmanager
def idle(pool: Pool, holder: Holder) -> Iterator[None]:
    """Holds every dataset and snapshot of the pool; Busy says which one is in use by whom."""
    with ExitStack() as held:
        for dataset in pool.catalog.datasets():
            held.enter_context(pool.lease(dataset, holder))
            for snapshot in pool.catalog.snapshots(dataset.id):
                held.enter_context(pool.hold_snapshot(dataset, snapshot, holder, shared=False))
        yield


async def import_pool(
    home: Home, urls: Sequence[str], connect: Connect, clock: Clock, allow_missing: bool = False
) -> Imported:
    """TR2."""
    home.ensure()
    async with home.locked():
        canonical = [canonical_url(url) for url in urls]
        taken = dict.fromkeys(known_urls(home))
        for url in canonical:
            check_overlap(url, taken)
            taken[url] = None
        connected: dict[str, Backend] = {}
        try:
            for url in canonical:
                connected[url] = await trio.to_thread.run_sync(connect, url)
            name, left_out = await _rebuild(home, connected, clock, allow_missing)
        finally:
            with trio.CancelScope(shield=True):
                for backend in connected.values():
                    await backend.close()
        pool = await open_pool(home, name, connect, allow_missing)
        await pool.backup()
    return Imported(pool, left_out)


async def _rebuild(
    home: Home, connected: Mapping[str, Backend], clock: Clock, allow_missing: bool
) -> tuple[str, list[SegmentRow]]:
    if not connected:
        raise BadInput("name the backends of the pool to import")
    labels = {url: await read_label(backend) for url, backend in connected.items()}
    first = next(iter(labels.values()))
    for url, label in labels.items():
        if label.pool != first.pool:
            raise BadInput(
                f"backend {url} belongs to pool {label.name}, not to {first.name}: import one at a time"
            )
    data = await newest_backup(list(connected.values()))
    scratch = Catalog.import_state(data, None, clock)
    row = scratch.pool()
    scratch.close()
    if row.uuid.hex() != first.pool:
        raise Corrupt(f"catalog backup of pool {row.name} on backends of pool {first.name}: remove it there")
    if home.has_pool(row.name):
        raise Exists(f"a pool {row.name} exists in {home.path}: export that one first")
    directory = home.new_pool_dir(row.name)
    try:
        catalog = Catalog.import_state(data, directory / CATALOG, clock)
        try:
            check_shape(len(catalog.backends()), row.copies, row.segment_size)
            known = _match(catalog, labels, allow_missing)
            found = await _find_segments(
                {known[url]: backend for url, backend in connected.items()}, row.segment_size
            )
            left_out = catalog.register_found(found)
            catalog.add_event(
                "import", f"imported from {', '.join(connected)}; {len(left_out)} segments left out"
            )
        finally:
            catalog.close()
        home.install(directory, row.name)
    except BaseException:
        home.discard(directory)
        raise
    return row.name, left_out


def _match(catalog: Catalog, labels: Mapping[str, Label], allow_missing: bool) -> dict[str, int]:
    """URL -> backend id, by the UUID in the label; a backend may have moved to another URL."""
    rows: dict[str, BackendRow] = {row.uuid: row for row in catalog.backends()}
    known: dict[str, int] = {}
    for url, label in labels.items():
        if label.backend not in rows:
            raise Corrupt(
                f"backend {url} has the pool's label, but the newest catalog backup does not know it"
            )
        known[url] = rows[label.backend].id
    if len(set(known.values())) < len(known):
        raise Corrupt(
            f"two of {', '.join(labels)} have the label of the same backend: one is a copy, leave it out"
        )
    absent = [row.url for row in rows.values() if row.id not in known.values()]
    if absent and not allow_missing:
        raise Missing(f"pool import needs all backends, not given: {', '.join(absent)}")
    catalog.move_backends({backend_id: url for url, backend_id in known.items()})
    return known


async def _find_segments(backends: Mapping[int, Backend], segment_size: int) -> list[SegmentRow]:
    """One row per segment and epoch. A file shorter than a segment was sealed: open ones have their full
    size.

    A sealed segment may be full, too: recovery looks for the footer before it believes that one is open.
    """
    copies: dict[SegmentName, list[tuple[int, int]]] = {}
    for backend_id, backend in backends.items():
        for stat, name in await list_segments(backend):
            copies.setdefault(name, []).append((backend_id, stat.size_bytes))
    rows = []
    for name, places in copies.items():
        size_bytes = min(size for _, size in places)
        ids = tuple(backend_id for backend_id, _ in places)
        sealed = size_bytes < segment_size
        rows.append(
            SegmentRow(name.segment, name.dataset, name.epoch, ids, sealed, size_bytes if sealed else 0)
        )
    return rows


async def list_segments(backend: Backend) -> list[tuple[Stat, SegmentName]]:
    """What is named like a segment; other files are none of ours."""
    found = []
    for stat in await backend.list(SEGMENT_PREFIX):
        try:
            found.append((stat, parse_segment_name(stat.name)))
        except BadInput:
            continue
    return found
