"""Pools that come and go: export, import from the backends alone, destroy.

TR1  export backs up, says that the pool is idle, then removes the local state. Refused while a dataset is in use. A
     pool that another home took over is only forgotten.
TR2  import needs the backends only: newest valid catalog backup on any of them, segments from their
     listings. It checks what it can, takes the pool over (takeover.py), and only then reads what counts. But for the
     owner's record it writes nothing on a backend before the local catalog is in place.
TR3  destroy removes from the backends only files with names of ours: segments, packs, backups, the label last,
     so that a destroy that was cut off can be repeated.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import trio

from backends.base import Backend
from backends.preparing import DISK
from sds.core.errors import BadInput, Busy, Corrupt, Exists, Fenced, Missing
from sds.pool.backup import newest_backup
from sds.pool.catalog import Catalog
from sds.pool.create import check_shape, known_urls, take_back
from sds.pool.database import Clock
from sds.pool.found import find_segments, list_packs, list_segments
from sds.pool.home import CATALOG, Home
from sds.pool.label import Label, read_label
from sds.pool.lease import Holder
from sds.pool.owner import Identity, check_owner, identity, known_generation, release, remember_generation
from sds.pool.places import canonical_url, check_overlap
from sds.pool.pool import Connect, Pool, open_pool
from sds.pool.rows import BackendRow, PoolRow, SegmentRow
from sds.pool.state import journalled_segments, packs_in_use
from sds.pool.takeover import take_over


@dataclass(frozen=True, slots=True)
class Imported:
    pool: Pool
    left_out: list[SegmentRow]
    """Segments on the backends that belong to nothing in the catalog; they are left alone."""
    told: list[str]
    """What is damaged, a line each; it is in the events of the pool, too."""


def _say_nothing(line: str) -> None:
    pass


async def export_pool(pool: Pool, holder: Holder) -> Fenced | None:
    """TR1. The pool is closed. Fenced is not raised but returned: another home has the pool."""
    lost: Fenced | None = None
    async with pool.home.locked():
        with idle(pool, holder):
            try:
                await pool.check_newest()
                await pool.backup()
                await release(pool.name, pool.backends, identity(pool.home), known_generation(pool.catalog))
            except Fenced as error:
                lost = error
            await pool.close()
            pool.home.forget(pool.name)
    return lost


async def destroy_pool(pool: Pool, holder: Holder, force: bool = False) -> None:
    """TR3. The pool is closed; refused with datasets unless `force`."""
    async with pool.home.locked():
        await pool.check_newest()
        names = [row.name for row in pool.catalog.datasets()]
        if names and not force:
            raise Busy(
                f"pool {pool.name} has datasets ({', '.join(names[:3])}): destroy them first, or use --force"
            )
        with idle(pool, holder):
            for backend in pool.backends.values():
                for stat, _ in [*await list_segments(backend), *await list_packs(backend)]:
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


@dataclass(frozen=True, slots=True)
class _Plan:
    """What an import does, as far as it can be told before it writes anything."""

    row: PoolRow
    data: bytes
    """The newest backup of the catalog."""
    known: Mapping[str, int]
    """URL -> backend id."""
    absent: Sequence[str]
    """URLs of backends that are not given."""
    told: Sequence[str]


async def import_pool(
    home: Home, urls: Sequence[str], connect: Connect, clock: Clock, allow_missing: bool = False, force: bool = False,
    say: Callable[[str], None] = _say_nothing,
) -> Imported:  # fmt: skip
    """TR2. `say` gets warnings and progress at once. Busy: another home uses the pool (`force`: even so)."""
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
                backend = await trio.to_thread.run_sync(connect, url, None)
                # A device is known by its UUID, whatever the user called it.
                connected[backend.url if url.startswith(DISK) else url] = backend
            name, generation, left_out, told = await _take(home, connected, clock, allow_missing, force, say)
        finally:
            with trio.CancelScope(shield=True):
                for backend in connected.values():
                    await backend.close()
        pool = await open_pool(home, name, connect, allow_missing)
        try:
            await pool.backup()
            await release(name, pool.backends, identity(home), generation, clock)
        except BaseException:
            await pool.close()
            raise
    return Imported(pool, left_out, told)


async def _take(
    home: Home, connected: Mapping[str, Backend], clock: Clock, allow_missing: bool, force: bool,
    say: Callable[[str], None],
) -> tuple[str, int, list[SegmentRow], list[str]]:  # fmt: skip
    """Name, generation, what was left out, and what is to be told."""
    labels = await _labels(connected)
    plan = await _plan(home, connected, labels, clock, allow_missing)
    if plan.absent:
        say(
            f"WARNING: pool {plan.row.name} is taken over without {', '.join(plan.absent)}: see to it that no other"
            " machine that has it is still running"
        )
    me = identity(home)
    ordered = [connected[url] for url in sorted(connected, key=lambda url: labels[url].backend)]
    generation = await take_over(plan.row.name, ordered, me, force, say, clock)
    try:
        plan = await _plan(home, connected, labels, clock, allow_missing)  # whoever had it may have gone on until now
        left_out, told = await _rebuild(home, connected, plan, me, generation, clock)
    except BaseException:
        with trio.CancelScope(shield=True):
            await release(plan.row.name, dict(enumerate(ordered)), me, generation, clock)
        raise
    return plan.row.name, generation, left_out, told


async def _labels(connected: Mapping[str, Backend]) -> dict[str, Label]:
    if not connected:
        raise BadInput("name the backends of the pool to import")
    labels = {url: await read_label(backend) for url, backend in connected.items()}
    first = next(iter(labels.values()))
    for url, label in labels.items():
        if label.pool != first.pool:
            raise BadInput(
                f"backend {url} belongs to pool {label.name}, not to {first.name}: import one at a time"
            )
    return labels


async def _plan(
    home: Home, connected: Mapping[str, Backend], labels: Mapping[str, Label], clock: Clock, allow_missing: bool
) -> _Plan:
    data, told = await newest_backup(list(connected.values()))
    first = next(iter(labels.values()))
    scratch = Catalog.import_state(data, None, clock)
    try:
        row = scratch.pool()
        if row.uuid.hex() != first.pool:
            raise Corrupt(f"catalog backup of pool {row.name} on backends of pool {first.name}: remove it there")
        if home.has_pool(row.name):
            raise Exists(f"a pool {row.name} exists in {home.path}: export that one first")
        check_shape(len(scratch.backends()), row.copies, row.segment_size)
        known, absent = _match(scratch.backends(), labels, allow_missing)
    finally:
        scratch.close()
    return _Plan(row, data, known, absent, told)


async def _rebuild(
    home: Home, connected: Mapping[str, Backend], plan: _Plan, me: Identity, generation: int, clock: Clock
) -> tuple[list[SegmentRow], list[str]]:
    directory = home.new_pool_dir(plan.row.name)
    try:
        catalog = Catalog.import_state(plan.data, directory / CATALOG, clock)
        try:
            catalog.move_backends({backend_id: url for url, backend_id in plan.known.items()})
            backends = {plan.known[url]: backend for url, backend in connected.items()}
            found = await find_segments(backends, plan.row)
            left_out = catalog.register_found(found.rows, journalled_segments(plan.data), packs_in_use(plan.data))
            told = [*plan.told, *found.told]
            for line in told:
                catalog.add_event("import", line)
            catalog.add_event(
                "import", f"imported from {', '.join(connected)}; {len(left_out)} segments left out"
            )
            remember_generation(catalog, generation)
        finally:
            catalog.close()
        await check_owner(plan.row.name, backends, me, generation)
        home.install(directory, plan.row.name)
    except BaseException:
        home.discard(directory)
        raise
    return left_out, told


def _match(
    backends: Sequence[BackendRow], labels: Mapping[str, Label], allow_missing: bool
) -> tuple[dict[str, int], list[str]]:
    """URL -> backend id, by the UUID in the label, for a backend may have moved; and the URLs that are not given."""
    rows = {row.uuid: row for row in backends}
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
    return known, absent
