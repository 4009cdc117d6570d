"""An open pool: its catalog and its backends.

PO1  Every connected backend carries the label of this pool and of the backend that the catalog means by that
     id.
PO2  A foreign label is Corrupt, always. A backend that cannot be reached, or whose label (or what is below) is
     damaged, is an error that names it, or, if the caller allows it, an entry of `missing`: with copies=N a pool works
     on without N-1 of them.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from backends.base import Backend
from backends.guarded import Guarded, Health
from sds.core.errors import BackendError, Corrupt, Missing, SdsError
from sds.pool.backup import back_up, check_newest
from sds.pool.catalog import Catalog
from sds.pool.home import Home
from sds.pool.label import Label, read_label
from sds.pool.lease import Holder, Lease
from sds.pool.owner import check_owner, identity, known_generation
from sds.pool.placement import Candidate
from sds.pool.places import is_remote, tier_of
from sds.pool.policy import policy_of
from sds.pool.rows import BackendRow, DatasetRow, PoolRow, SnapshotRow

_log = logging.getLogger(__name__)

Connect = Callable[[str, Path | None], Backend]
"""URL, directory on this machine for its journal and cache (None: only small files are read and written) -> backend.
Quick but may block: it is called in a thread. backends.registry.connect is one."""


@dataclass(slots=True)
class Pool:
    home: Home
    row: PoolRow
    catalog: Catalog
    backends: dict[int, Backend]
    missing: dict[int, str] = field(default_factory=dict)
    """Backend id -> why it is not there."""
    connect: Connect | None = None
    """For backends that come later (attendant.py)."""
    _retired: list[Backend] = field(default_factory=list)

    @property
    def uuid(self) -> bytes:
        return self.row.uuid

    @property
    def name(self) -> str:
        return self.row.name

    @property
    def segment_size(self) -> int:
        return self.row.segment_size

    @property
    def copies(self) -> int:
        return self.row.copies

    async def backup(self) -> int:
        """See pool/backup.py, BK1 and BK2. The generation that is durable now. Fenced: OW1 of pool/owner.py."""
        self.let_go_of_removed()
        await self.check_owner()
        return await back_up(self.catalog, self.backends, self._most_copies())

    def let_go_of_removed(self) -> None:
        """A backend that somebody took out of the pool may be another pool's by now: nothing is written there."""
        rows = {row.id for row in self.catalog.backends()}
        for gone in [key for key in self.backends if key not in rows]:
            self._retired.append(self.backends.pop(gone))

    def _most_copies(self) -> int:
        """That any dataset asks for: as many backends may be lost, less one."""
        policies = [policy_of(row.properties, self.copies) for row in self.catalog.datasets()]
        return max([self.copies, *(policy.copies for policy in policies)])

    async def check_newest(self) -> None:
        """Fenced if this home's catalog is stale (BK4 of pool/backup.py), or another home has the pool."""
        await check_newest(self.catalog, self.backends)
        await self.check_owner()

    async def check_owner(self) -> int:
        """Fenced if another home has the pool (OW1 of pool/owner.py); else the generation as which this one has it."""
        known = known_generation(self.catalog)
        return await check_owner(self.name, self.backends, identity(self.home), known)

    @property
    def domains(self) -> int:
        """Failure domains, whether their backends answer or not."""
        return len({row.label for row in self.catalog.backends() if row.state == "online"})

    def candidates(self) -> list[Candidate]:
        found = []
        for row in self.catalog.backends():
            backend = self.backends.get(row.id)
            if backend is not None and row.state == "online" and not is_faulted(backend):
                found.append(Candidate(row.id, row.label, backend.usage().free_bytes, tier_of(row.url, row.tier)))
        return found

    def lease(self, dataset: DatasetRow, holder: Holder) -> Lease:
        """Exclusive; Busy says who has it."""
        return Lease.take(self.home.lock_path(self.uuid, dataset.id), f"{self.name}/{dataset.name}", holder)

    def hold_snapshot(
        self, dataset: DatasetRow, snapshot: SnapshotRow, holder: Holder, shared: bool
    ) -> Lease:
        """Shared while it is served, exclusive while it is destroyed."""
        path = self.home.snapshot_lock_path(self.uuid, snapshot.id)
        return Lease.take(path, f"{self.name}/{dataset.name}@{snapshot.name}", holder, shared)

    async def close(self) -> None:
        with trio.CancelScope(shield=True):
            for backend in [*self.backends.values(), *self._retired]:
                try:
                    await backend.close()
                except SdsError as error:  # it hangs: the others are let go of all the same
                    _log.warning("%s", error)
        self.catalog.close()


def is_faulted(backend: Backend) -> bool:
    """Nothing new is placed on it, and reads ask it last. An object store that is away is not: its journal is here."""
    return isinstance(backend, Guarded) and backend.is_faulted


async def open_pool(home: Home, name: str, connect: Connect, allow_missing: bool = False) -> Pool:
    """PO1, PO2. Missing if there is no such pool."""
    catalog = await trio.to_thread.run_sync(Catalog.open, home.catalog_path(name))
    pool: Pool | None = None
    try:
        pool = Pool(home, catalog.pool(), catalog, {}, connect=connect)
        if pool.name != name:
            raise Corrupt(
                f"{home.catalog_path(name)} is the catalog of pool {pool.name}: put it back in its place"
            )
        for row in catalog.backends():
            await attach(pool, row, connect, allow_missing)
    except BaseException:
        await pool.close() if pool else catalog.close()
        raise
    return pool


async def attach(pool: Pool, row: BackendRow, connect: Connect, allow_missing: bool) -> None:
    """Connect one backend of the catalog. PO1, PO2."""
    backend: Backend | None = None
    try:
        backend = await trio.to_thread.run_sync(connect, row.url, pool.home.local_dir(row.uuid))
        label = await read_label(backend)
    except SdsError as error:
        await _close(backend)
        if not allow_missing:
            if isinstance(error, Corrupt):
                raise
            what = f"pool {pool.name}: backend {row.url} is missing: {error}"
            raise (Missing if isinstance(error, Missing) else BackendError)(what) from error
        pool.missing[row.id] = str(error)
    except BaseException:
        await _close(backend)
        raise
    else:
        try:
            check_label(label, pool.row, row)
        except BaseException:
            await _close(backend)
            raise
        pool.backends[row.id] = backend if is_remote(row.url) else Guarded(backend, _teller(pool, row))


def _teller(pool: Pool, row: BackendRow) -> Callable[[Health, Health], None]:
    """A fault of a backend, and its end, are worth telling."""

    def tell(before: Health, after: Health) -> None:
        if "faulted" in (before.state, after.state):
            text = f"backend {row.url} of pool {pool.name} is {after.state}: {after.last_error}"
            _log.warning("%s", text)

    return tell


async def _close(backend: Backend | None) -> None:
    if backend is not None:
        with trio.CancelScope(shield=True):
            await backend.close()


def check_label(label: Label, pool: PoolRow, backend: BackendRow) -> None:
    """PO1."""
    if label.pool != pool.uuid.hex():
        raise Corrupt(
            f"backend {backend.url} belongs to pool {label.name} ({label.pool}), not to {pool.name}"
            f" ({pool.uuid.hex()}): mount the right disk there"
        )
    if label.backend != backend.uuid:
        raise Corrupt(
            f"backend {backend.url} is another one of pool {pool.name}: its disk was swapped, swap it back"
        )
