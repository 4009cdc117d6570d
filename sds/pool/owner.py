"""Which home uses a pool: the record `sds-owner` on each of its backends. Guards against two machines at once.

  OW1  A home uses a pool (opens, sweeps, moves, deletes, backs up) only while no backend has the record of another
       home with its generation or a later one. Records of earlier generations are leftovers of backends that were away.
  OW2  Where the store can, a record is replaced only if it is still the one that was read.
  OW3  Who has a dataset open renews its record every BEAT_S, and acknowledges nothing once the last renewal that
       succeeded began more than CONFIRM_S ago: whoever watches a record for LEASE_S > CONFIRM_S without a change, or
       wrote its own LEASE_S ago, knows that (takeover.py).
  OW4  Only counters and the own clock decide, never the clock of another machine: written_at is for people.
  OW5  No record means idle (pools of the first releases). A damaged one counts as none beside an own one.

| field      | type   | meaning                                                                     |
|------------|--------|-----------------------------------------------------------------------------|
| format     | int    | version of this table, 1                                                    |
| owner      | string | id of the home, 32 hex digits                                               |
| host       | string | name of its machine, for people                                             |
| generation | int    | grows by one with every takeover, from 1                                    |
| beat       | int    | grows with every record written                                             |
| state      | string | `in use`, `idle`, or `taken`: being imported                                |
| written_at | int    | seconds since 1970                                                          |
"""

import json
import logging
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Final

import trio

from backends.base import Backend
from backends.objects import ObjectStore
from sds.core.errors import BackendError, BadInput, Corrupt, Exists, Fenced, Missing, SdsError
from sds.core.units import shown
from sds.pool.catalog import Catalog
from sds.pool.home import Home

OWNER: Final = "sds-owner"
OWNER_BYTES_MAX: Final = 4096
OWNER_FORMAT: Final = 1
IN_USE, IDLE, TAKEN = "in use", "idle", "taken"
BEAT_S = 10.0
CONFIRM_S = 25.0
LEASE_S = 30.0
TRIES: Final = 5
_KNOWN: Final = "owner-generation"
_log = logging.getLogger(__name__)
_UUID = re.compile(r"[0-9a-f]{32}")
_FIELDS: Final = {
    "format": int, "owner": str, "host": str, "generation": int, "beat": int, "state": str, "written_at": int,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Identity:
    owner: str
    host: str


@dataclass(frozen=True, slots=True)
class OwnerRecord:
    owner: str
    host: str
    generation: int
    beat: int
    state: str
    written_at: int
    format: int = OWNER_FORMAT

    @property
    def since(self) -> str:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.written_at))


@dataclass(frozen=True, slots=True)
class Seen:
    """What is on a backend now."""

    record: OwnerRecord | None
    tag: str | None = None
    damaged: str = ""


@dataclass(frozen=True, slots=True)
class Survey:
    seen: Mapping[int, Seen]
    errors: Mapping[int, SdsError]


def identity(home: Home) -> Identity:
    return Identity(home.owner_id(), socket.gethostname())


def known_generation(catalog: Catalog) -> int:
    """The last one that this home had the pool as; 0: none yet. It does not go with a backup."""
    return int(catalog.progress(_KNOWN) or 0)


def remember_generation(catalog: Catalog, generation: int) -> None:
    if generation != known_generation(catalog):
        catalog.set_progress(_KNOWN, str(generation))


# -- one backend -----------------------------------------------------------------------------------------------------


def store_of(backend: Backend) -> ObjectStore | None:
    """The object store under a backend, whatever is wrapped around it."""
    inner = backend
    while (deeper := getattr(inner, "inner", None)) is not None:
        inner = deeper
    store: ObjectStore | None = getattr(inner, "store", None)
    return store


async def read_owner(backend: Backend) -> Seen:
    store, tag = store_of(backend), None
    try:
        if store is None:
            data = await backend.get(OWNER, OWNER_BYTES_MAX)
        else:
            found = await store.fetch(OWNER, OWNER_BYTES_MAX)
            data, tag = found.content, found.tag
        return Seen(decode_owner(data, backend.url), tag)
    except Missing:
        return Seen(None)
    except Corrupt as error:
        return Seen(None, tag, str(error))


async def write_owner(backend: Backend, record: OwnerRecord, seen: Seen) -> None:
    """Exists: it is not what was `seen` any more. Without conditional puts nothing tells (OW2)."""
    store, data = store_of(backend), encode_owner(record)
    if store is not None and store.conditional:
        try:
            await store.replace(OWNER, data, seen.tag)
        except BadInput:
            if store.conditional:
                raise
            # It has just turned out that this store knows no conditions.
        except (Exists, BackendError):
            if (await read_owner(backend)).record != record:
                raise
            return  # The request was sent twice, and the first one had arrived.
        else:
            return
    await backend.put(OWNER, data)


def tells_races(backend: Backend) -> bool:
    store = store_of(backend)
    return store is not None and store.conditional


def encode_owner(record: OwnerRecord) -> bytes:
    return json.dumps(asdict(record), indent=1, sort_keys=True).encode() + b"\n"


def decode_owner(data: bytes, url: str) -> OwnerRecord:
    where = f"backend {url}: {OWNER} is damaged"
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{where} (not JSON)") from error
    if isinstance(fields, dict) and type(fields.get("format")) is int and fields["format"] > OWNER_FORMAT:
        raise Fenced(f"backend {url}: {OWNER} has format {fields['format']}, this program knows 1: upgrade sds")
    if not isinstance(fields, dict) or {key: type(value) for key, value in fields.items()} != _FIELDS:
        raise Corrupt(f"{where} (wrong fields)")
    record = OwnerRecord(**fields)
    is_good = (
        _UUID.fullmatch(record.owner) is not None
        and record.format == OWNER_FORMAT
        and record.state in (IN_USE, IDLE, TAKEN)
        and 1 <= record.generation < 1 << 63
        and 0 <= record.beat < 1 << 63
        and 0 <= record.written_at < 1 << 40
        and len(record.host) <= 255
    )
    if not is_good:
        raise Corrupt(f"{where} (impossible values)")
    return replace(record, host=record.host if record.host.isprintable() else shown(record.host))


# -- all backends ----------------------------------------------------------------------------------------------------


async def survey(backends: Mapping[int, Backend]) -> Survey:
    seen: dict[int, Seen] = {}
    errors: dict[int, SdsError] = {}
    newer: list[Fenced] = []

    async def look(key: int, backend: Backend) -> None:
        try:
            seen[key] = await read_owner(backend)
        except Fenced as error:
            newer.append(error)
        except SdsError as error:
            errors[key] = error

    async with trio.open_nursery() as nursery:
        for key, backend in backends.items():
            nursery.start_soon(look, key, backend)
    if newer:
        raise newer[0]
    return Survey(seen, errors)


def check(pool: str, seen: Iterable[Seen], me: Identity, known: int) -> int:
    """OW1. The generation as which this home has the pool; `known`: the highest that it remembers."""
    found = list(seen)
    records = [one.record for one in found if one.record is not None]
    mine = max([known, *(record.generation for record in records if record.owner == me.owner)])
    others = [record for record in records if record.owner != me.owner and record.generation >= max(mine, 1)]
    if others:
        raise fenced(pool, max(others, key=lambda record: record.generation))
    damaged = [one.damaged for one in found if one.damaged]
    if damaged and not records:
        raise Corrupt(f"{damaged[0]}, so nobody knows who uses the pool: export it here, import it with --force")
    return mine


def fenced(pool: str, record: OwnerRecord) -> Fenced:
    return Fenced(
        f"pool {pool} was taken over by {record.host} (generation {record.generation}, {record.since}): use it there,"
        f" or `sds pool export {pool}` here and import it with --force"
    )


async def check_owner(pool: str, backends: Mapping[int, Backend], me: Identity, known: int) -> int:
    """OW1, of all backends that answer; BackendError if none does."""
    found = await survey(backends)
    if not found.seen:
        why = "; ".join(map(str, found.errors.values())) or "it has no backend"
        raise BackendError(f"pool {pool}: no backend says who uses it: {why}")
    return check(pool, found.seen.values(), me, known)


async def claim(
    pool: str, backends: Mapping[int, Backend], me: Identity, known: int, state: str,
    clock: Callable[[], float] = time.time,
) -> int:  # fmt: skip
    """Writes records of this home, which has the pool (OW1) or is the first. The generation."""
    generation = max(1, await check_owner(pool, backends, me, known))
    errors: list[SdsError] = []
    lost: list[Fenced] = []

    async def write(backend: Backend) -> None:
        try:
            await renew(pool, backend, me, generation, state, clock)
        except Fenced as error:
            lost.append(error)
        except SdsError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for backend in backends.values():
            nursery.start_soon(write, backend)
    if lost:
        raise lost[0]
    if len(errors) == len(backends):
        raise BackendError(f"pool {pool}: no backend takes the record that it is in use: {errors[0]}")
    return generation


async def renew(
    pool: str, backend: Backend, me: Identity, generation: int, state: str, clock: Callable[[], float] = time.time
) -> OwnerRecord:  # fmt: skip
    """The record written on one backend; Fenced if another home has it."""
    for last in range(TRIES):
        seen = await read_owner(backend)
        check(pool, [Seen(seen.record)], me, generation)
        beat = seen.record.beat + 1 if seen.record is not None else 1
        record = OwnerRecord(me.owner, me.host, generation, beat, state, int(clock()))
        try:
            await write_owner(backend, record, seen)
        except Exists as error:
            if last == TRIES - 1:
                raise BackendError(f"backend {backend.url}: {OWNER} is written by others all the time") from error
            continue
        return record
    raise AssertionError("unreachable")


async def release(
    pool: str, backends: Mapping[int, Backend], me: Identity, known: int, clock: Callable[[], float] = time.time
) -> None:  # fmt: skip
    """Idle from now on, where backends answer and it is ours. The next home waits for records that still say in use."""
    try:
        await claim(pool, backends, me, known, IDLE, clock)
    except SdsError as error:
        _log.debug("pool %s: %s", pool, error)
