"""What a worker mends beside its work: bad copies that reads met, and copies that are missing.

  HE1  Copies are made up for when every backend of the pool answers: one that is away may come back as it was. For one
       that will not, there is `sds pool remove --lost`, or `sds pool resilver`.
  HE2  It looks when a backend has come or returned, and every LOOK_S; where nothing is missing that costs one query.
  HE3  It keeps to HEAL_BYTES_PER_S, and takes turns with other processes (MV7 of sds.maintenance.moving).
"""

import logging
from typing import Final

import trio

from sds.core.errors import Busy, SdsError
from sds.log.env import Env
from sds.maintenance.limiter import Limiter
from sds.maintenance.mover import Mover
from sds.maintenance.moves import Goal
from sds.maintenance.moving import turn_of
from sds.maintenance.repair import Repairs
from sds.pool.lease import Holder
from sds.pool.policy import policy_of
from sds.pool.pool import Pool, is_faulted

LOOK_S: Final = 60.0
HEAL_BYTES_PER_S: Final = 50 << 20
_log = logging.getLogger(__name__)


class Healer:
    def __init__(self, pool: Pool, env: Env, holder: Holder) -> None:
        turn, limiter = turn_of(pool, holder), Limiter(HEAL_BYTES_PER_S)
        self._pool = pool
        self._env = env
        self._mover = Mover(pool, env, turn, limiter)
        self._wake = trio.Event()
        self.repairs = Repairs(pool, env, turn, limiter)

    def note_return(self) -> None:
        """A backend has come, or answers again."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.repairs.run)
            while True:
                with trio.move_on_after(LOOK_S):
                    await self._wake.wait()
                self._wake = trio.Event()
                try:
                    await self.look()
                except Busy as error:
                    _log.info("pool %s: healing is put off: %s", self._pool.name, error)
                except SdsError as error:
                    _log.warning("pool %s: healing: %s", self._pool.name, error)

    async def look(self) -> None:
        """Once. HE1."""
        pool = self._pool
        if pool.missing or any(map(is_faulted, pool.backends.values())):
            return
        for goal in await self._env.run_blocking(self._goals):
            done = await self._mover.work(goal)
            if done.files:
                text = f"{goal}: {done.files} files, {done.written_bytes} bytes written"
                await self._env.run_blocking(pool.catalog.add_event, "healed", text)

    def _goals(self) -> list[Goal]:
        """HE2."""
        pool = self._pool
        policies = {row.id: policy_of(row.properties, pool.copies) for row in pool.catalog.datasets()}
        goals: list[Goal] = []
        for row in pool.catalog.all_segments():
            if row.sealed and row.dataset in policies and len(row.copies) < policies[row.dataset].copies:
                goals.append("resilver")
                break
        if any(len(policy.place) > 1 for policy in policies.values()):
            goals.append("tier")
        return goals
