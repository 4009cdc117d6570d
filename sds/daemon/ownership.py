"""The record that this machine uses a pool, while a worker or a command has a dataset open (OW3 of sds.pool.owner).

  ON1  Before anything is opened all backends that answer say `in use` by this home; when its last process ends, `idle`.
  ON2  Every BEAT_S each backend is looked at, and its record renewed unless another process of this home has just done
       that. A renewal counts from the moment when it began (or when the record was last seen before it moved).
  ON3  Record of another home: the log fails, for ever, and the worker is told to end. Nothing is acknowledged any more.
  ON4  No renewal for CONFIRM_S (the backends are away, or this machine slept): flushes wait, and go on once a renewal
       shows that the pool is still ours. What was acknowledged before stays where it is: journal, stage.
  ON5  One backend is enough: an import takes over all of them. One with --allow-missing does not, and says so.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from backends.base import Backend
from sds.core.errors import Busy, Failed, Fenced, SdsError
from sds.log.env import Env, sole_error
from sds.log.log import Log
from sds.pool import owner
from sds.pool.label import read_label
from sds.pool.lease import Holder, Lease
from sds.pool.owner import Identity, OwnerRecord
from sds.pool.pool import Pool

PATIENCE_S: Final = 30.0
POLL_S: Final = 0.02
RELEASE_S: Final = 10.0
_log = logging.getLogger(__name__)


def _since_boot() -> float:
    """Goes on while the machine sleeps, unlike the clock of the event loop."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Ownership:
    def __init__(
        self, pool: Pool, me: Identity, generation: int, began_s: float, clock: Callable[[], float] = _since_boot
    ) -> None:
        """`began_s`: when the claim began that made it ours."""
        self._pool = pool
        self._me = me
        self._generation = generation
        self._clock = clock
        self._confirmed_s = began_s
        self._last: dict[int, tuple[OwnerRecord, float]] = {}
        """Backend id -> what was there last, and when we began to look."""
        self._under_way: set[int] = set()
        self._changed = trio.Event()
        self._log: Log | None = None
        self._end: Callable[[], None] = lambda: None
        self._told = self._let_go = False
        self.fenced: Fenced | None = None

    def guard(self, log: Log, end: Callable[[], None]) -> None:
        """ON3, ON4 for this log from now on; `end` tells its worker to end."""
        self._log, self._end = log, end
        log.may_acknowledge = self.confirmed
        if self.fenced is not None:
            self._fence(self.fenced)

    def release(self) -> None:
        """Nobody is answered any more: closing need not wait for backends that are away."""
        self._let_go = True
        if self._log is not None:
            self._log.may_acknowledge = None
        self._notify()

    @property
    def is_confirmed(self) -> bool:
        return self.fenced is None and self._clock() - self._confirmed_s <= owner.CONFIRM_S

    async def confirmed(self) -> None:
        """ON4. Failed: ON3."""
        while not self.is_confirmed and not self._let_go:
            if self.fenced is not None:
                raise Failed(str(self.fenced))
            if not self._told:
                self._told = True
                _log.warning(
                    "pool %s: no backend has confirmed for %.0f s that it is still in use here: flushes wait for that",
                    self._pool.name, self._clock() - self._confirmed_s,
                )  # fmt: skip
            await self._changed.wait()

    async def run(self) -> None:
        """ON2, until cancelled. A backend that hangs holds up no other."""
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    self._pool.let_go_of_removed()
                except SdsError as error:
                    _log.warning("pool %s: %s", self._pool.name, error)
                for key, backend in list(self._pool.backends.items()):
                    if key not in self._under_way:
                        self._under_way.add(key)
                        nursery.start_soon(self._beat, key, backend)
                await trio.sleep(owner.BEAT_S)

    async def _beat(self, key: int, backend: Backend) -> None:
        try:
            began_s = await self._renew(key, backend)
        except Fenced as error:
            self._fence(error)
        except SdsError as error:
            _log.debug("%s", error)  # ON4 tells it if it lasts
        else:
            self._confirmed_s = max(self._confirmed_s, began_s)
            self._told = False
            self._notify()
        finally:
            self._under_way.discard(key)

    async def _renew(self, key: int, backend: Backend) -> float:
        """From when on this renewal counts."""
        looked_s = self._clock()
        record = (await owner.read_owner(backend)).record
        if record is None:
            await read_label(backend)  # Missing: it was taken out of the pool, and is to stay empty
        last = self._last.get(key)
        if record is not None and self._is_ours(record) and last is not None and last[0].beat < record.beat:
            self._last[key] = (record, looked_s)
            return last[1]
        began_s = self._clock()
        record = await owner.renew(self._pool.name, backend, self._me, self._generation, owner.IN_USE)
        self._last[key] = (record, began_s)
        return began_s

    def _is_ours(self, record: OwnerRecord) -> bool:
        ours = (self._me.owner, self._generation, owner.IN_USE)
        return (record.owner, record.generation, record.state) == ours

    def _fence(self, error: Fenced) -> None:
        self.fenced = error
        if self._log is not None:
            self._log.fail(error)
            self._end()
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@asynccontextmanager
async def owned(pool: Pool, holder: Holder, env: Env) -> AsyncIterator[Ownership]:
    """ON1. Fenced: another home has the pool."""
    lease = await _join(pool, holder)
    try:
        me = await env.run_blocking(owner.identity, pool.home)
        known = await env.run_blocking(owner.known_generation, pool.catalog)
        began_s = _since_boot()
        generation = await owner.claim(pool.name, pool.backends, me, known, owner.IN_USE)
        await env.run_blocking(owner.remember_generation, pool.catalog, generation)
        ownership = Ownership(pool, me, generation, began_s)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ownership.run)
            yield ownership
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise sole_error(group) from None
    finally:
        with trio.CancelScope(shield=True):
            await _leave(pool, holder, lease)


async def _join(pool: Pool, holder: Holder) -> Lease:
    """Shared by all that use the pool. Whoever has it alone is just writing that the pool is idle."""
    deadline = trio.current_time() + PATIENCE_S
    while True:
        try:
            return Lease.take(pool.home.owner_lock_path(pool.uuid), f"pool {pool.name}", holder, shared=True)
        except Busy:
            if trio.current_time() > deadline:
                raise
        await trio.sleep(POLL_S)


async def _leave(pool: Pool, holder: Holder, lease: Lease) -> None:
    """The last one says that the pool is idle, so that the next machine need not wait."""
    lease.release()
    try:
        alone = Lease.take(pool.home.owner_lock_path(pool.uuid), f"pool {pool.name}", holder)
    except Busy:
        return
    try:
        with trio.move_on_after(RELEASE_S):
            me, known = owner.identity(pool.home), owner.known_generation(pool.catalog)
            await owner.release(pool.name, pool.backends, me, known)
    finally:
        alone.release(remove=True)
