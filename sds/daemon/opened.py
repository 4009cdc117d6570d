"""Having a dataset open: lease, recovery, backup, and what can be asked of it. For workers, and for commands on a
closed dataset.

  OD1  The row of a dataset is read after its lease was taken: before, somebody else may have moved it on.
  OD2  A backup of the catalog is durable before anything is acknowledged in a new epoch. Without it, an import from
       the backends would take the log of this epoch for the leftovers of a recovery that was cut off.
  OD3  All the while this machine is on record as the one that uses the pool, and acknowledges nothing without that.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from sds.core.errors import Busy
from sds.daemon.backups import Backups
from sds.daemon.control_client import is_served
from sds.daemon.filesystem_operations import FilesystemOperations
from sds.daemon.healing import Healer
from sds.daemon.operations import Operations
from sds.daemon.ownership import owned
from sds.daemon.sweeper import Sweeper
from sds.daemon.volume_operations import VolumeOperations
from sds.dataset.dataset import Dataset, Settings, open_dataset
from sds.filesystem.attributes import Owner
from sds.filesystem.filesystem import Filesystem
from sds.filesystem.opening import open_filesystem
from sds.log.env import Env
from sds.pool.attendant import Attendant
from sds.pool.lease import Holder, Lease, holders
from sds.pool.pool import Pool
from sds.pool.rows import DatasetRow
from sds.volume.volume import Volume

PATIENCE_S: Final = 30.0
POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Opened:
    dataset: Dataset
    content: Volume | Filesystem
    operations: Operations
    sweeper: Sweeper
    backups: Backups
    healer: Healer
    attendant: Attendant

    @property
    def volume(self) -> Volume:
        assert isinstance(self.content, Volume)
        return self.content

    @property
    def filesystem(self) -> Filesystem:
        assert isinstance(self.content, Filesystem)
        return self.content


async def take_lease(pool: Pool, row: DatasetRow, holder: Holder) -> Lease:
    """Commands that have it open for the moment, and workers that are about to end, are waited for. Other workers are
    not: Busy says who has it."""
    path = pool.home.lock_path(pool.uuid, row.id)
    deadline = trio.current_time() + PATIENCE_S
    while True:
        try:
            return pool.lease(row, holder)
        except Busy:
            served = any(other.socket and is_served(Path(other.socket)) for other in holders(path))
            if served or trio.current_time() > deadline:
                raise
        await trio.sleep(POLL_S)


@asynccontextmanager
async def opened(pool: Pool, dataset_id: int, holder: Holder, env: Env, settings: Settings) -> AsyncIterator[Opened]:
    """A dataset whose lease the caller holds. Leaving the block in order closes it in order."""
    await pool.check_newest()  # BK4 of sds.pool.backup
    async with owned(pool, holder, env) as ownership:  # OD3
        row = await env.run_blocking(pool.catalog.dataset_by_id, dataset_id)  # OD1
        async with _content(pool, row, holder, env, settings) as here:
            ownership.guard(here.dataset.log, lambda: here.operations.stop())
            try:
                yield here
            finally:
                ownership.release()


@asynccontextmanager
async def _content(
    pool: Pool, row: DatasetRow, holder: Holder, env: Env, settings: Settings
) -> AsyncIterator[Opened]:
    async with open_dataset(pool, row, env, settings, str(holder)) as dataset:
        backups = Backups(pool.backup)
        sweeper = Sweeper(dataset, holder)
        healer = Healer(pool, env, holder)
        attendant = Attendant(pool)
        attendant.on_return = healer.note_return
        attendant.on_attach = dataset.serve_store
        dataset.reader.on_damage = healer.repairs.note_bad
        dataset.uploads.on_uploaded = backups.request
        content: Volume | Filesystem
        operations: Operations
        if row.kind == "volume":
            content = volume = Volume(dataset)
            operations = VolumeOperations(dataset, volume, sweeper, backups.request, holder)
        else:
            content = files = await open_filesystem(dataset, Owner(os.geteuid(), os.getegid()))
            operations = FilesystemOperations(dataset, files, sweeper, backups.request, holder)
        await pool.backup()  # OD2
        try:
            yield Opened(dataset, content, operations, sweeper, backups, healer, attendant)
        finally:
            operations.close()
