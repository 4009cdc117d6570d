"""Taking over a pool that another home may use (OW1-OW5 of owner.py).

  TO1  The next generation is written on every backend, in the order of their UUIDs: of two at the same time one passes
       the first backend, and the other has written nothing.
  TO2  A record in use is watched for LEASE_S: if it moves, its owner is alive: Busy. If not, its owner is dead, or has
       stopped to acknowledge (OW3).
  TO3  By force it is taken at once; then LEASE_S pass before anything is read: until then the former owner may go on
       acknowledging, and what it wrote by then is found. The same after a takeover that did not get to its end.
  TO4  Where races cannot be told when writing (directories, stores without conditional puts) records are read back
       after a moment.
"""

import time
from collections.abc import Callable, Iterable, Sequence

import trio

from backends.base import Backend
from sds.core.errors import BackendError, Busy, Corrupt, Exists
from sds.pool import owner
from sds.pool.owner import (
    IDLE,
    OWNER,
    TAKEN,
    TRIES,
    Identity,
    OwnerRecord,
    Seen,
    read_owner,
    store_of,
    tells_races,
    write_owner,
)

LOOK_S = 1.0
RACE_S = 0.1
RACE_REMOTE_S = 5.0
"""TO4: of directories, of stores."""


async def take_over(
    pool: str, backends: Sequence[Backend], me: Identity, force: bool, say: Callable[[str], None],
    clock: Callable[[], float] = time.time,
) -> int:  # fmt: skip
    """TO1-TO4. `backends` in the order of their UUIDs. The new generation, which says TAKEN on all of them.
    Busy: somebody uses it, or takes it just now.
    """
    seen = [await read_owner(backend) for backend in backends]
    wait = _unfinished(seen, me)
    rival = _rival(seen, me)
    if force and (rival is not None or any(one.damaged for one in seen)):
        who = f"in use by {rival.host}" if rival is not None else "in use by nobody knows whom"
        say(f"WARNING: pool {pool} is {who} and is taken away: what that machine has not uploaded is lost")
        wait = True
    elif rival is not None:
        seen = await _watch(pool, backends, seen, me, rival, say)
    elif any(one.damaged for one in seen):
        damage = next(one.damaged for one in seen if one.damaged)
        raise Corrupt(f"{damage}: see that nobody uses the pool, then use --force")
    generation = 1 + max((one.record.generation for one in seen if one.record is not None), default=0)
    for backend, before in zip(backends, seen, strict=True):
        await _seize(pool, backend, before, me, generation, force, clock)
    await _verify(pool, backends, me, generation, say)
    if wait:
        say(f"pool {pool}: waiting {owner.LEASE_S:g} s, so that the former owner has noticed")
        await trio.sleep(owner.LEASE_S)
    return generation


def _rival(seen: Iterable[Seen], me: Identity) -> OwnerRecord | None:
    """Another home that says that it uses the pool, be it as an earlier owner: it may not have noticed yet."""
    found = [one.record for one in seen if one.record is not None]
    used = [record for record in found if record.owner != me.owner and record.state != IDLE]
    return max(used, key=lambda record: record.generation, default=None)


def _unfinished(seen: Iterable[Seen], me: Identity) -> bool:
    """An import by this home ended half way: it may have been by force, and not have waited."""
    found = [one.record for one in seen if one.record is not None]
    return any(record.owner == me.owner and record.state == TAKEN for record in found)


async def _watch(
    pool: str, backends: Sequence[Backend], seen: list[Seen], me: Identity, rival: OwnerRecord,
    say: Callable[[str], None],
) -> list[Seen]:  # fmt: skip
    """TO2. What there is in the end, if it did not move or says that it is idle; else Busy."""
    say(f"pool {pool} is in use by {rival.host}: looking for its heartbeat for {owner.LEASE_S:g} s")
    until = trio.current_time() + owner.LEASE_S
    while trio.current_time() < until:
        await trio.sleep(min(LOOK_S, until - trio.current_time()))
        try:
            now = [await read_owner(backend) for backend in backends]
        except BackendError:
            if trio.current_time() >= until:
                raise
            continue  # A heartbeat that is missed now shows later: they only count up.
        if [one.record for one in now] == [one.record for one in seen]:
            continue
        if _rival(now, me) is None and not any(one.damaged for one in now):
            return now
        moved = [
            new.record for old, new in zip(seen, now, strict=True)
            if new.record is not None and new.record != old.record and new.record.state != IDLE
        ]  # fmt: skip
        if moved:
            raise _in_use(pool, moved[0])
        seen = now
    return seen


def _in_use(pool: str, record: OwnerRecord) -> Busy:
    return Busy(
        f"pool {pool} is in use by {record.host}, last heartbeat just now: stop it there and export it, or use --force"
        " (what it has not uploaded is lost)"
    )


async def _seize(
    pool: str, backend: Backend, seen: Seen, me: Identity, generation: int, force: bool, clock: Callable[[], float]
) -> None:  # fmt: skip
    """Exactly what was seen is replaced; by force also what differs from it in its heartbeat only."""
    for _ in range(TRIES):
        beat = seen.record.beat + 1 if seen.record is not None else 1
        record = OwnerRecord(me.owner, me.host, generation, beat, TAKEN, int(clock()))
        now = await read_owner(backend)
        if now == seen:
            try:
                await write_owner(backend, record, seen)
            except Exists:
                now = await read_owner(backend)
            else:
                return
        if now.record is not None and now.record.generation >= generation:
            raise Busy(f"pool {pool} was just taken by {now.record.host}: use it there")
        if not force:
            if now.record is not None and now.record.state != IDLE:
                raise _in_use(pool, now.record)
            raise Busy(f"pool {pool} is being used by somebody else just now: try again")
        seen = now
    raise Busy(f"backend {backend.url}: {OWNER} is written by somebody else all the time: stop that machine")


async def _verify(
    pool: str, backends: Sequence[Backend], me: Identity, generation: int, say: Callable[[str], None]
) -> None:  # fmt: skip
    """Where a race could not be told when writing: was somebody later than we?"""
    unsure = [backend for backend in backends if not tells_races(backend)]
    blind = [backend for backend in unsure if store_of(backend) is not None]
    if blind:
        say(
            f"WARNING: {blind[0].url} ignores conditional puts: two machines that import pool {pool} at the same moment"
            " cannot be told apart for sure"
        )
    if unsure:
        await trio.sleep(RACE_REMOTE_S if blind else RACE_S)
    for backend in unsure:
        record = (await read_owner(backend)).record
        if record is None or (record.owner, record.generation) != (me.owner, generation):
            who = record.host if record is not None else "somebody who removed its record"
            raise Busy(f"pool {pool} was just taken by {who}: use it there")
