"""A scrub on behalf of a command: verify and heal, then bring back to their number what has too few copies."""

from collections.abc import Callable

from sds.log.env import Env
from sds.maintenance.limiter import Limiter
from sds.maintenance.mover import Mover, Tally
from sds.maintenance.moving import turn_of
from sds.maintenance.scrub import Report, Scrub, Scrubbed
from sds.pool.lease import Holder
from sds.pool.pool import Pool


async def scrub_pool(
    pool: Pool, env: Env, holder: Holder, clock: Callable[[], float], bytes_per_s: int, anew: bool, report: Report
) -> tuple[Scrubbed, Tally]:
    """`bytes_per_s`: 0: no limit; for all it reads and writes."""
    await pool.check_newest()  # BK4 of sds.pool.backup
    turn = turn_of(pool, holder)
    limiter = Limiter(bytes_per_s)
    scrubbed = await Scrub(pool, env, turn, clock, limiter, report).run(anew)
    resilvered = await Mover(pool, env, turn, limiter).work("resilver")
    return scrubbed, resilvered
