"""Backups of the catalog in the backends: `catalog/<generation, 16 hex digits>`, the KEPT newest on each.

BK1  A segment's file is deleted only after a backup that no longer needs the segment is durable on so many
     backends that losing `copies - 1` of them leaves one. So: delete the rows, back up, then delete the
     files. An import from the backends alone (newest backup + listing) then never misses a segment.
BK2  After each structural change (create, clone, snapshot, rename, destroy, backends) a backup is made.
BK3  A new backup is durable before an older one is deleted, and only names that parse are ever deleted.
BK4  A home whose catalog has never written the newest backup is stale: the pool was imported elsewhere meanwhile, or
     the home is an old copy. It may not open a dataset (it would show old data) nor delete a file.
"""

import logging
import re
from collections.abc import Mapping, Sequence

import trio

from backends.base import Backend
from backends.guarded import Guarded
from sds.core.errors import BackendError, Corrupt, Fenced, Missing, SdsError
from sds.pool.catalog import Catalog
from sds.pool.state import STATE_BYTES_MAX, state_generation

PREFIX = "catalog/"
KEPT = 3
_log = logging.getLogger(__name__)
_NAME = re.compile(r"catalog/([0-9a-f]{16})")


async def back_up(
    catalog: Catalog, backends: Mapping[int, Backend], copies: int, strict: bool = False
) -> int:
    """The generation written. So many backends took it that losing `copies - 1` of them leaves one (BK1), or all there
    are; those that are faulted are lost already. Else BackendError. `strict`: everyone has to."""
    data = await trio.to_thread.run_sync(catalog.export_state)
    generation = state_generation(data)
    failures: list[str] = []

    async def put(backend: Backend) -> None:
        for is_last in (False, True):
            try:
                await backend.put(f"{PREFIX}{generation:016x}", data)
                await prune(backend)
            except SdsError as error:
                if is_last:
                    failures.append(str(error))
                    _log.warning("no catalog backup: %s", error)
                continue
            return

    async with trio.open_nursery() as nursery:
        for backend in backends.values():
            nursery.start_soon(put, backend)
    lost = min(copies - 1, sum(isinstance(backend, Guarded) and backend.is_faulted for backend in backends.values()))
    needed = len(backends) if strict else max(1, min(copies, len(backends)) - lost)
    if len(backends) - len(failures) < needed:
        raise BackendError(f"catalog backup failed: {'; '.join(failures) or 'the pool has no backend'}")
    return generation


async def prune(backend: Backend, keep: int = KEPT) -> None:
    """BK3."""
    for generation in sorted(await generations(backend), reverse=True)[keep:]:
        await backend.delete(f"{PREFIX}{generation:016x}")


async def generations(backend: Backend) -> list[int]:
    matches = [_NAME.fullmatch(stat.name) for stat in await backend.list(PREFIX)]
    return [int(match[1], 16) for match in matches if match]


async def check_newest(catalog: Catalog, backends: Mapping[int, Backend]) -> None:
    """BK4. Backends are asked first: other processes of this home may just be making backups."""
    newest = max([generation for one in backends.values() for generation in await generations(one)], default=0)
    known = await trio.to_thread.run_sync(catalog.backup_generation)
    if newest > known:
        raise Fenced(
            f"the backends have a newer catalog (backup {newest:x}) than this home ({known:x}): the pool was imported "
            "elsewhere, use it there; or import it here under a new --home"
        )


async def newest_backup(backends: Sequence[Backend]) -> tuple[bytes, list[str]]:
    """The valid backup of the highest generation on any of them, and what is wrong with those that came before it: they
    are passed over for another copy, or an older one.
    """
    found: list[tuple[int, int]] = []
    for index, backend in enumerate(backends):
        found += [(generation, index) for generation in await generations(backend)]
    told: list[str] = []
    for generation, index in sorted(found, reverse=True):
        name = f"{PREFIX}{generation:016x}"
        where = f"{name} on {backends[index].url} was passed over"
        try:
            data = await backends[index].get(name, STATE_BYTES_MAX)
            if state_generation(data) == generation:
                return data, told
            told.append(f"{where}: another generation inside")
        except (Corrupt, BackendError, Missing) as error:
            told.append(f"{where}: {error}")
    why = f" ({told[0]})" if told else ""
    raise Missing(f"no valid catalog backup on {', '.join(backend.url for backend in backends)}{why}")
