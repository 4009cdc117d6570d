"""All who write to a pool go on in new segments: so a backend that leaves gets nothing new (EV2 of evacuating.py)."""

from sds.daemon.destroying import recover
from sds.daemon.evacuating import Cut
from sds.daemon.operate import operate, worker_socket
from sds.log.env import Env
from sds.pool.lease import Holder
from sds.pool.pool import Pool


def cut_of(pool: Pool, env: Env, holder: Holder) -> Cut:
    """Every worker of the pool goes on in new segments; what killed workers left is recovered."""

    async def cut() -> None:
        for row in await env.run_blocking(pool.catalog.datasets):
            if worker_socket(pool, row):
                await operate(pool, row, env, holder, "cut")
            else:
                await recover(pool, row, env, holder)

    return cut
