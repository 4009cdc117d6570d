"""Making pools and adding backends: all or nothing.

CR1  Everything is checked before anything is written.
CR2  Order: labels and a first catalog backup on the backends, then the local catalog appears by one rename.
     If any step fails, what was written is taken back; the backends are as they were.
"""

import logging
import uuid
from collections.abc import Iterable, Sequence

import trio

from backends.base import Backend
from backends.preparing import prepare, undo
from sds.core.errors import BadInput, Exists, SdsError
from sds.core.names import parse_pool
from sds.core.units import format_size
from sds.pool.backup import back_up, prune
from sds.pool.catalog import Catalog
from sds.pool.database import Clock
from sds.pool.home import CATALOG, Home
from sds.pool.label import LABEL, Label, write_label
from sds.pool.owner import IDLE, OWNER, claim, identity, remember_generation
from sds.pool.places import canonical_url, check_directory, check_overlap, local_path, prune_directory
from sds.pool.pool import Connect, Pool, open_pool
from sds.pool.rows import BackendRow, PoolRow

SEGMENT_SIZE_MIN, SEGMENT_SIZE_MAX = 64 << 10, 32 << 20
COPIES_MAX = 16
BACKENDS_MAX = 256
_log = logging.getLogger(__name__)


async def create_pool(
    home: Home,
    name: str,
    urls: Sequence[str],
    connect: Connect,
    clock: Clock,
    copies: int = 1,
    segment_size: int = SEGMENT_SIZE_MAX,
    force: bool = False,
) -> Pool:
    """CR1, CR2. The new pool, open. `force`: also on devices on which there is something already."""
    parse_pool(name)
    check_shape(len(urls), copies, segment_size)
    home.ensure()
    async with home.locked():
        if home.has_pool(name):
            raise Exists(f"pool {name} exists already: choose another name")
        canonical = check_places(home, urls)
        row = PoolRow(uuid.uuid4().bytes, name, segment_size, copies, created_at=int(clock()))
        await _build(home, row, canonical, connect, clock, force)
        return await open_pool(home, name, connect)


async def add_backend(
    pool: Pool, url: str, connect: Connect, clock: Clock, domain: str = "", tier: str = "", force: bool = False
) -> BackendRow:
    """Takes one more backend into an open pool. `domain`: its failure domain; by default it is one of its
    own.
    """
    async with pool.home.locked():
        if len(pool.catalog.backends()) >= BACKENDS_MAX:
            raise BadInput(f"a pool has at most {BACKENDS_MAX} backends")
        generation = await pool.check_owner()
        (canonical,) = check_places(pool.home, [url])
        canonical = await _prepare(canonical, force)
        try:
            backend = await connect_empty(canonical, connect)
        except BaseException:
            await _undo([canonical])
            raise
        label = Label(pool.uuid.hex(), pool.name, uuid.uuid4().hex, int(clock()))
        row: BackendRow | None = None
        try:
            await write_label(backend, label)
            await claim(pool.name, {0: backend}, identity(pool.home), generation, IDLE, clock)
            row = pool.catalog.add_backend(canonical, label.backend, domain or canonical, tier=tier)
            pool.backends[row.id] = backend
            await pool.backup()
        except BaseException:
            if row is not None:
                pool.backends.pop(row.id, None)
                pool.catalog.remove_backend(row.id)
            await take_back([backend])
            await backend.close()
            await _undo([canonical])
            raise
    return row


async def remove_backend(pool: Pool, backend_id: int) -> None:
    """Lets go of a backend that holds no copies any more (Busy otherwise): its label goes, and what this machine keeps
    of it."""
    async with pool.home.locked():
        rows = pool.catalog.backends()
        domains = {row.label for row in rows if row.id != backend_id}
        if len(domains) < pool.copies:
            raise BadInput(f"{pool.copies} copies need {pool.copies} backends: add another one first")
        uuids = [row.uuid for row in rows if row.id == backend_id]
        pool.catalog.remove_backend(backend_id)
        pool.missing.pop(backend_id, None)
        backend = pool.backends.pop(backend_id, None)
        await pool.backup()
        if backend is not None:
            await take_back([backend])
            await backend.close()
        for one in uuids:
            await trio.to_thread.run_sync(pool.home.discard, pool.home.local_dir(one))


def check_shape(backends: int, copies: int, segment_size: int) -> None:
    if not 1 <= backends <= BACKENDS_MAX:
        raise BadInput(f"a pool has 1 to {BACKENDS_MAX} backends, not {backends}")
    if not 1 <= copies <= COPIES_MAX:
        raise BadInput(f"--copies {copies}: use 1 to {COPIES_MAX}")
    if copies > backends:
        raise BadInput(f"--copies {copies} needs {copies} backends, there are {backends}: add backends")
    if segment_size & segment_size - 1 or not SEGMENT_SIZE_MIN <= segment_size <= SEGMENT_SIZE_MAX:
        low, high = format_size(SEGMENT_SIZE_MIN), format_size(SEGMENT_SIZE_MAX)
        raise BadInput(f"--segment-size {segment_size}: use a power of two from {low} to {high}")


def check_places(home: Home, urls: Iterable[str]) -> list[str]:
    """The canonical URLs; BadInput if one of them cannot be taken (see places.py)."""
    taken = dict.fromkeys(known_urls(home))
    canonical = [canonical_url(url) for url in urls]
    for url in canonical:
        check_overlap(url, taken)
        taken[url] = None
    for path in filter(None, map(local_path, canonical)):
        check_directory(path)
    return canonical


def known_urls(home: Home) -> list[str]:
    """Of the backends of all pools of this home."""
    urls = []
    for name in home.pool_names():
        catalog = Catalog.open(home.catalog_path(name))
        try:
            urls += [row.url for row in catalog.backends()]
        finally:
            catalog.close()
    return urls


async def connect_empty(url: str, connect: Connect) -> Backend:
    """For kinds of backends that are no directories: they must have no file."""
    backend = await trio.to_thread.run_sync(connect, url, None)
    try:
        found = await backend.list("")
        if any(stat.name == LABEL for stat in found):
            raise BadInput(f"backend {url} belongs to a pool (it has {LABEL}): see `sds pool import`")
        if found:
            raise BadInput(f"backend {url} is not empty ({found[0].name}): give an empty place")
    except BaseException:
        await backend.close()
        raise
    return backend


async def take_back(backends: Iterable[Backend]) -> None:
    """Removes label and backups as far as the backend can; for an undo, when a first error is on its way
    already.
    """
    with trio.CancelScope(shield=True):
        for backend in backends:
            try:
                await prune(backend, keep=0)
                await backend.delete(OWNER)
                await backend.delete(LABEL)
            except SdsError:
                continue  # A backend that fails now failed before, too: the first error tells.
            await trio.to_thread.run_sync(prune_directory, backend.url)


async def _prepare(url: str, force: bool) -> str:
    prepared = await prepare(url, force)
    for warning in prepared.warnings:
        _log.warning("%s", warning)
    return prepared.url


async def _undo(urls: Iterable[str]) -> None:
    with trio.CancelScope(shield=True):
        for url in urls:
            try:
                await undo(url)
            except SdsError as error:
                _log.warning("%s", error)  # the first error is on its way already


async def _build(
    home: Home, row: PoolRow, wanted: Sequence[str], connect: Connect, clock: Clock, force: bool
) -> None:
    """CR2."""
    backends: list[Backend] = []
    urls: list[str] = []
    directory = home.new_pool_dir(row.name)
    try:
        for place in wanted:
            # No comprehension: if one fails, those before it must be closed.
            urls.append(await _prepare(place, force))
            backends.append(await connect_empty(urls[-1], connect))
        catalog = Catalog.create(directory / CATALOG, row, clock)
        try:
            known = {
                catalog.add_backend(url, uuid.uuid4().hex, url).id: b
                for url, b in zip(urls, backends, strict=True)
            }
            await back_up(catalog, known, len(known), strict=True)
            for one in catalog.backends():
                await write_label(known[one.id], Label(row.uuid.hex(), row.name, one.uuid, row.created_at))
            remember_generation(catalog, await claim(row.name, known, identity(home), 0, IDLE, clock))
        finally:
            catalog.close()
        home.install(directory, row.name)
    except BaseException:
        await take_back(backends)
        await _undo(urls)
        home.discard(directory)
        raise
    finally:
        with trio.CancelScope(shield=True):
            for backend in backends:
                await backend.close()
