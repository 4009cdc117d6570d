"""An open pool: its catalog and its backends.

PO1  Every connected backend carries the label of this pool and of the backend that the catalog means by that
     id.
PO2  A foreign label is Corrupt, always. A backend that cannot be reached is an error that names it, or, if
     the caller allows it, an entry of `missing`: with copies=N a pool works on without N-1 of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from backends.base import Backend
from sds.core.errors import BackendError, Corrupt, Missing, SdsError
from sds.pool.backup import back_up, check_newest
from sds.pool.catalog import Catalog
from sds.pool.home import Home
from sds.pool.label import Label, read_label
from sds.pool.lease import Holder, Lease
from sds.pool.placement import Candidate
from sds.pool.rows import BackendRow, DatasetRow, PoolRow, SnapshotRow

Connect = Callable[[str], Backend]
"""URL -> backend; quick but may block: it is called in a thread. backends.registry.connect is one."""


@dataclass(slots=True)
class Pool:
    home: Home
    row: PoolRow
    catalog: Catalog
    backends: dict[int, Backend]
    missing: dict[int, str] = field(default_factory=dict)
    """Backend id -> why it is not there."""

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
        """See pool/backup.py, BK1 and BK2. The generation that is durable now."""
        return await back_up(self.catalog, self.backends, self.copies)

    async def check_newest(self) -> None:
        """Fenced if this home's catalog is stale. See pool/backup.py, BK4."""
        await check_newest(self.catalog, self.backends)

    def candidates(self) -> list[Candidate]:
        found = []
        for row in self.catalog.backends():
            backend = self.backends.get(row.id)
            if backend is not None and row.state == "online":
                found.append(Candidate(row.id, row.label, backend.usage().free_bytes))
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
            for backend in self.backends.values():
                await backend.close()
        self.catalog.close()


async def open_pool(home: Home, name: str, connect: Connect, allow_missing: bool = False) -> Pool:
    """PO1, PO2. Missing if there is no such pool."""
    catalog = await trio.to_thread.run_sync(Catalog.open, home.catalog_path(name))
    pool: Pool | None = None
    try:
        pool = Pool(home, catalog.pool(), catalog, {})
        if pool.name != name:
            raise Corrupt(
                f"{home.catalog_path(name)} is the catalog of pool {pool.name}: put it back in its place"
            )
        for row in catalog.backends():
            await _attach(pool, row, connect, allow_missing)
    except BaseException:
        await pool.close() if pool else catalog.close()
        raise
    return pool


async def _attach(pool: Pool, row: BackendRow, connect: Connect, allow_missing: bool) -> None:
    backend: Backend | None = None
    try:
        backend = await trio.to_thread.run_sync(connect, row.url)
        check_label(await read_label(backend), pool.row, row)
    except Corrupt:
        await _close(backend)
        raise
    except SdsError as error:
        await _close(backend)
        if not allow_missing:
            what = f"pool {pool.name}: backend {row.url} is missing: {error}"
            raise (Missing if isinstance(error, Missing) else BackendError)(what) from error
        pool.missing[row.id] = str(error)
    except BaseException:
        await _close(backend)
        raise
    else:
        pool.backends[row.id] = backend


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
