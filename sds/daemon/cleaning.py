"""Space comes back on behalf of a command: families are swept by a worker that has a member open, or else here."""

import logging
import time

from sds.core.errors import BackendError, Busy, Corrupt, Missing, NoSpace, SdsError
from sds.daemon.operate import operate, worker_socket
from sds.dataset.nodes import Nodes
from sds.log.env import Env
from sds.log.reader import FrameReader
from sds.maintenance.cleaner import Cleaner
from sds.maintenance.limiter import Limiter
from sds.maintenance.moving import turn_of
from sds.maintenance.orphans import Orphans, delete_orphans
from sds.maintenance.sweep import sweep_family
from sds.pool.lease import Holder
from sds.pool.pool import Pool

_log = logging.getLogger(__name__)


async def sweep_pool(pool: Pool, env: Env, holder: Holder) -> int:
    """The bytes that came back, all copies."""
    total = 0
    for family in await env.run_blocking(pool.catalog.families):
        total += await sweep_one(pool, family, env, holder)
    return total


async def sweep_one(pool: Pool, family: int, env: Env, holder: Holder) -> int:
    for row in await env.run_blocking(pool.catalog.datasets_of_family, family):
        if worker_socket(pool, row):
            answer = await operate(pool, row, env, holder, "sweep")
            return int(answer["bytes"]) if isinstance(answer, dict) else 0
    await pool.check_newest()  # BK4 of sds.pool.backup: a stale mark would delete what is needed
    reader = FrameReader(pool, env, {})
    try:
        return (await sweep_family(pool, family, Nodes(reader, None), env)).size_bytes
    except Missing:
        return 0  # the family went with its last segment, by another sweep
    finally:
        reader.close()


async def clean_pool(pool: Pool, env: Env, holder: Holder) -> int:
    """The bytes that came back, one copy: what is alive in half-dead files is packed together."""
    total = 0
    for family in await env.run_blocking(pool.catalog.families):
        try:
            total += await _clean_one(pool, family, env, holder)
        except (Busy, Missing, Corrupt, BackendError, NoSpace) as error:
            _log.warning("family %d was not cleaned: %s", family, error)
    return total


async def _clean_one(pool: Pool, family: int, env: Env, holder: Holder) -> int:
    for row in await env.run_blocking(pool.catalog.datasets_of_family, family):
        if worker_socket(pool, row):
            answer = await operate(pool, row, env, holder, "clean")
            return int(answer["bytes"]) if isinstance(answer, dict) else 0
    await pool.check_newest()
    reader = FrameReader(pool, env, {})
    try:
        cleaner = Cleaner(pool, family, Nodes(reader, None), env, turn_of(pool, holder), Limiter())
        total = 0
        while (done := await cleaner.clean(await cleaner.survey())).pays:
            total += done.freed_bytes
        return total + (await cleaner.clean(await cleaner.survey(), small=True)).freed_bytes
    finally:
        reader.close()


async def sweep_after(pool: Pool, family: int, env: Env, holder: Holder) -> None:
    """After something was destroyed. That is done: what keeps its space from coming back now is told, no more."""
    try:
        await sweep_one(pool, family, env, holder)
    except SdsError as error:
        _log.warning("its space is not back yet (%s): `sds pool clean %s` tries again", error, pool.name)


async def remove_orphans(pool: Pool, env: Env, holder: Holder, with_unknown: bool) -> Orphans:
    """What is open stays untouched, and nobody opens anything meanwhile."""
    await pool.check_newest()
    busy: set[int] = set()
    leases = []
    try:
        for row in await env.run_blocking(pool.catalog.datasets):
            try:
                leases.append(pool.lease(row, holder))
            except Busy:
                busy.add(row.id)
        async with turn_of(pool, holder)():
            return await delete_orphans(pool, env, busy, with_unknown, time.time)
    finally:
        for lease in leases:
            lease.release()


def remove_stage(env: Env, pool: Pool, dataset_id: int) -> None:
    """Of a dataset that is gone: what a killed worker left in memory."""
    stage = env.open_stage(pool.uuid, dataset_id, 1, pool.segment_size)
    stage.remove()
    stage.close()
