"""Copies of sealed files are made, given up and healed, beside everything else that goes on in the pool.

    read one copy wholly, verify ─▶ write the new ones ─▶ sync, seal, settle, look at their size ─▶ change the row, if
    it is still what we saw ─▶ backup of the catalog ─▶ delete what no row lists

  MV1  A copy leaves a row only if, in this very move, another copy of the same file was read and verified wholly, and
       is where it stays: it was there and settled, or was written from what was verified, synced, sealed and settled.
  MV2  A row is changed only if it is still what the move began with (FI2 of sds.pool.files). If the cleaner, a sweep or
       another mover was faster, nothing is changed; the file is planned anew.
  MV3  The file of a dropped copy goes last: after the row was changed and a backup of the catalog is durable (BK1 of
       sds.pool.backup), and only if the row, read again, does not list it.
  MV4  A file on a backend is written, or deleted, only while no row lists it. So a bad copy leaves its row before it is
       replaced in its place: a cut in between leaves one copy fewer, never a row with half a file.
  MV5  A cut at any point leaves at most files without a row. A later move that needs their place deletes them first.
  MV6  Only sealed files (FI3). What a backend that does not answer has is never counted as good, nor deleted.
  MV7  One process of a home at a time moves files of a pool, or deletes files without a row (Turn): a new copy
       is a file without a row until its row is changed.
  MV8  A move holds one file in memory, at most 32 MiB; at most MOVES_MAX are under way.
"""

import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import trio

from backends.base import Backend
from backends.cache import open_original
from sds.core.errors import BackendError, Busy, Corrupt, Missing, NoSpace, SdsError
from sds.core.frame import pool_key
from sds.log.copies import reserve_bytes
from sds.log.env import Env
from sds.maintenance.limiter import Limiter
from sds.maintenance.moves import Move, Place
from sds.maintenance.scratch import Scratch
from sds.maintenance.verify import verify_pack, verify_segment
from sds.pool.files import StoredFile, file_name
from sds.pool.label import read_label
from sds.pool.lease import Holder, Lease
from sds.pool.placement import Candidate, choose
from sds.pool.places import tier_of
from sds.pool.pool import Pool, check_label

MOVES_MAX: Final = 4
PIECE_BYTES: Final = 4 << 20
TURN_PATIENCE_S: Final = 60.0
POLL_S: Final = 0.05
READS_MAX: Final = 2
"""A sector that cannot be read twice is bad."""
_log = logging.getLogger(__name__)
Turn = Callable[[], AbstractAsyncContextManager[None]]
"""MV7."""


@dataclass(frozen=True, slots=True)
class Moved:
    file: StoredFile
    added: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    bad: dict[int, str] = field(default_factory=dict)
    """Copies that did not verify on the way, and why."""
    problems: tuple[str, ...] = ()
    was_changed: bool = False
    """By somebody else: nothing was done."""


class Source(NamedTuple):
    copy: int
    data: memoryview


class Healed(NamedTuple):
    file: StoredFile
    """As it is now."""
    problem: str
    """Empty: it has as many copies as before, all that were bad are replaced."""
    was_changed: bool = False


def turn_of(pool: Pool, holder: Holder) -> Turn:
    """MV7. Busy, after a while, says who has it."""
    here = trio.Lock()

    @asynccontextmanager
    async def turn() -> AsyncIterator[None]:
        deadline = trio.current_time() + TURN_PATIENCE_S
        path = pool.home.run_dir / f"{pool.uuid.hex()}-moves.lock"
        async with here:
            while True:
                try:
                    lease = Lease.take(path, f"the maintenance of pool {pool.name}", holder)
                    break
                except Busy:
                    if trio.current_time() > deadline:
                        raise
                await trio.sleep(POLL_S)
            with lease:
                yield

    return turn


def places_of(pool: Pool) -> list[Place]:
    """For the planner."""
    found = []
    for row in pool.catalog.backends():
        backend = pool.backends.get(row.id)
        free = total = 0
        if backend is not None:
            usage = backend.usage()
            total = usage.total_bytes
            free = max(0, usage.free_bytes - reserve_bytes(total, pool.segment_size))
        tier = tier_of(row.url, row.tier)
        found.append(Place(row.id, row.label, tier, row.state == "draining", backend is not None, free, total))
    return found


# -- moving --------------------------------------------------------------------------------------------------------


async def carry_out(pool: Pool, env: Env, move: Move, limiter: Limiter) -> Moved:
    """Within a turn. Afterwards, before the turn ends: `finish`."""
    file = move.file
    if not await is_unchanged(pool, env, file):
        return Moved(file, was_changed=True)
    stays = [copy for copy in file.copies if copy not in move.drop]
    bad: dict[int, str] = {}
    # What is to be dropped may serve to make the new copies, not to prove that it can be spared.
    source = await first_good(pool, env, file, stays + list(move.drop if move.add else ()), limiter, bad)
    if source is None:
        return Moved(file, bad=bad, problems=(f"{file.name}: no copy that is good: {_some(bad)}",))
    added, problems = await write_all(pool, file, move.add, source.data, limiter)
    drop = move.drop if len(added) == len(move.add) else ()
    if drop and source.copy in stays:
        try:
            await pool.backends[source.copy].settle(file.name)  # MV1
        except SdsError as error:
            drop = ()
            problems.append(str(error))
    copies = [copy for copy in file.copies if copy not in drop] + added
    if copies == list(file.copies):
        return Moved(file, bad=bad, problems=tuple(problems))
    if not await _change(pool, env, file, copies, added):
        return Moved(file, bad=bad, problems=tuple(problems), was_changed=True)
    return Moved(file, tuple(added), drop, bad, tuple(problems))


async def finish(pool: Pool, env: Env, moved: Iterable[Moved]) -> None:
    """MV3. What cannot be deleted now is a file without a row: `sds pool clean` finds it."""
    drops = [(one.file, copy) for one in moved for copy in one.dropped if copy in pool.backends]
    if not drops:
        return
    await pool.backup()
    for file, copy in drops:
        if copy in await _listed(pool, env, file):
            continue
        await delete_from(pool.backends[copy], file.name)


async def heal(pool: Pool, env: Env, file: StoredFile, bad: Collection[int], limiter: Limiter) -> Healed:
    """Within a turn. Bad copies, which were read and did not verify, are written anew from one that does: in the same
    place if that takes them, else in another one."""
    if not await is_unchanged(pool, env, file):
        return Healed(file, "", was_changed=True)
    rest = [copy for copy in file.copies if copy not in bad]
    wrong: dict[int, str] = {}
    source = await first_good(pool, env, file, rest, limiter, wrong)
    if source is None:
        return Healed(file, _some(wrong) or "there is no other copy")
    await pool.backends[source.copy].settle(file.name)  # MV1
    if not await _change(pool, env, file, rest, ()):  # MV4
        return Healed(file, "", was_changed=True)
    now = with_copies(file, rest)
    problems = []
    for copy in bad:
        tried: list[int] = []
        while (place := _place_for(pool, now, copy, tried)) is not None:
            tried.append(place)
            added, failures = await write_all(pool, now, (place,), source.data, limiter)
            if added and await _change(pool, env, now, [*now.copies, place], added):
                now = with_copies(now, [*now.copies, place])
                break
            problems += failures
        else:
            problems.append(f"no place takes another copy of {file.name}: add a backend, then resilver")
    return Healed(now, "" if len(now.copies) == len(file.copies) else "; ".join(problems))


def _place_for(pool: Pool, file: StoredFile, copy: int, tried: Sequence[int]) -> int | None:
    """The place of the bad copy itself, then others in failure domains that have none."""
    candidates = pool.candidates()
    if not tried and any(one.backend == copy for one in candidates):
        return copy
    labels = {row.id: row.label for row in pool.catalog.backends()}
    taken = {labels.get(other) for other in file.copies}
    able: list[Candidate] = [
        one for one in candidates if one.label not in taken and one.backend not in (*tried, copy, *file.copies)
    ]
    try:
        return choose(file.rows[0].id, able, 1, file.size_bytes)[0]
    except NoSpace:
        return None


# -- rows ----------------------------------------------------------------------------------------------------------


def with_copies(file: StoredFile, copies: Sequence[int]) -> StoredFile:
    return StoredFile(file.name, tuple(replace(row, copies=tuple(copies)) for row in file.rows))


async def is_unchanged(pool: Pool, env: Env, file: StoredFile) -> bool:
    """MV2, looked at early: to read and write a file for nothing costs more than a look."""
    try:
        for row in file.rows:
            now = await env.run_blocking(pool.catalog.segment, row.id)
            if file_name(now) != file.name or replace(now, verified_at=row.verified_at) != row:
                return False
    except Missing:
        return False
    return True


async def _listed(pool: Pool, env: Env, file: StoredFile) -> set[int]:
    """Where the file lies by the catalog as it is now; nowhere if its rows are gone or lie elsewhere."""
    found: set[int] = set()
    for row in file.rows:
        try:
            now = await env.run_blocking(pool.catalog.segment, row.id)
        except Missing:
            continue
        if file_name(now) == file.name:
            found.update(now.copies)
    return found


async def _change(
    pool: Pool, env: Env, file: StoredFile, copies: Sequence[int], added: Collection[int]
) -> bool:
    """MV2. False: somebody was faster, and what was added is deleted again."""
    try:
        await env.run_blocking(pool.catalog.set_copies, file, copies)
    except Busy:
        listed = await _listed(pool, env, file)
        for copy in added:
            if copy not in listed:
                await delete_from(pool.backends[copy], file.name)
        return False
    return True


# -- files ---------------------------------------------------------------------------------------------------------


async def first_good(
    pool: Pool, env: Env, file: StoredFile, copies: Iterable[int], limiter: Limiter, bad: dict[int, str]
) -> Source | None:
    """The first copy that verifies, wholly read. Those before it are noted in `bad`."""
    for copy in copies:
        try:
            return Source(copy, await read_verified(pool, env, file, copy, limiter))
        except SdsError as error:
            bad[copy] = str(error)
    return None


async def read_verified(
    pool: Pool, env: Env, file: StoredFile, copy: int, limiter: Limiter, scratch: Scratch | None = None
) -> memoryview:
    """All of a file, where it is stored: what a cache has proves nothing. Corrupt, Missing: this copy is bad.
    BackendError: it cannot be read now. With `scratch` the bytes are valid until that is used again."""
    data = await read_whole(pool, file, copy, limiter, scratch)
    problem = await env.run_blocking(check, file, data, pool.uuid)
    if problem:
        raise Corrupt(f"{pool.backends[copy].url}: {file.name}: {problem}")
    return data


async def read_whole(
    pool: Pool, file: StoredFile, copy: int, limiter: Limiter, scratch: Scratch | None = None
) -> memoryview:
    """As read_verified, but nothing is verified."""
    backend = pool.backends.get(copy)
    if backend is None:
        raise BackendError(f"backend {copy} is not there: bring it back")
    reader = await open_original(backend, file.name)
    try:
        with (scratch or Scratch()).take(file.size_bytes) as data:
            for start in range(0, len(data), PIECE_BYTES):
                piece = data[start : start + PIECE_BYTES]
                await limiter.take(len(piece))
                await reader.read(start, piece)
    finally:
        reader.close()
    return data


async def problem_of(
    pool: Pool, env: Env, file: StoredFile, copy: int, limiter: Limiter, scratch: Scratch | None = None
) -> str:
    """What is wrong with a copy; empty: nothing. BackendError: its backend as a whole does not answer, or is not there
    any more (a disk that is not mounted shows an empty directory): that says nothing about the copy."""
    problem = ""
    for _ in range(READS_MAX):
        try:
            await read_verified(pool, env, file, copy, limiter, scratch)
        except (Corrupt, Missing) as error:
            problem = str(error)
            break
        except BackendError as error:
            problem = str(error)
        else:
            return ""
    await expect_itself(pool, copy)
    return problem


async def expect_itself(pool: Pool, copy: int) -> None:
    """BackendError if the label of a backend cannot be read or is not what it was."""
    row = next(row for row in pool.catalog.backends() if row.id == copy)
    try:
        check_label(await read_label(pool.backends[copy]), pool.row, row)
    except (Corrupt, Missing) as error:
        raise BackendError(str(error)) from error


def check(file: StoredFile, data: memoryview, pool_uuid: bytes) -> str:
    """What is wrong with the content of a file; empty: nothing."""
    key = pool_key(pool_uuid)
    if file.pack:
        return verify_pack(data, file.rows, file.family, pool_uuid, key).problem
    return verify_segment(data, file.rows[0], pool_uuid, key).problem


async def write_all(
    pool: Pool, file: StoredFile, places: Iterable[int], data: memoryview, limiter: Limiter
) -> tuple[list[int], list[str]]:
    """Those that took it, and what was wrong with the others: there nothing is left behind if that can be helped."""
    added, problems = [], []
    for place in places:
        backend = pool.backends.get(place)
        try:
            if backend is None:
                raise BackendError(f"backend {place} is not there: bring it back")
            await _write(backend, file.name, data, limiter)
            added.append(place)
        except SdsError as error:
            problems.append(str(error))
            if backend is not None:
                await delete_from(backend, file.name)
    return added, problems


async def _write(backend: Backend, name: str, data: memoryview, limiter: Limiter) -> None:
    """No row lists this file (MV4). What was left there by a move that was cut off goes first (MV5)."""
    if await _size_on(backend, name) is not None:
        await backend.delete(name)
    await backend.create(name, len(data))
    for start in range(0, len(data), PIECE_BYTES):
        piece = data[start : start + PIECE_BYTES]
        await limiter.take(len(piece))
        await backend.write(name, start, piece, start + len(piece) == len(data))
    await backend.seal(name, len(data))
    await backend.settle(name)
    size = await _size_on(backend, name)
    if size != len(data):
        raise Corrupt(f"{backend.url}: {name}: has {size} bytes, {len(data)} were written: do not trust this backend")


async def _size_on(backend: Backend, name: str) -> int | None:
    return next((stat.size_bytes for stat in await backend.list(name) if stat.name == name), None)


async def delete_from(backend: Backend, name: str) -> None:
    try:
        await backend.delete(name)
    except SdsError as error:
        _log.warning("a file was left behind: %s", error)


def _some(problems: dict[int, str]) -> str:
    return "; ".join(problems.values())
