"""`sds serve` as a worker: a volume, or a snapshot of one, over NBD."""

from collections.abc import Iterator
from contextlib import contextmanager

from sds.daemon.front import Announce, Front
from sds.daemon.nbd_front import Endpoint, NbdFront
from sds.daemon.opened import Opened
from sds.daemon.worker import serve_dataset, serve_snapshot
from sds.dataset.dataset import Settings
from sds.log.env import Env
from sds.pool.pool import Pool
from sds.pool.rows import DatasetRow, SnapshotRow
from sds.volume.snapshot import SnapshotVolume


async def serve_volume(
    pool: Pool, row: DatasetRow, snapshot: str | None, endpoint: Endpoint, settings: Settings, env: Env,
    announce: Announce,
) -> None:  # fmt: skip
    """Returns when it was told to end, and what was open is closed."""
    what = f"{pool.name}/{row.name}" + (f"@{snapshot}" if snapshot else "")
    command = f"sds serve {what}"
    if snapshot is None:

        def front_of(here: Opened) -> Front:
            return NbdFront(here.volume, endpoint, what)

        await serve_dataset(pool, row, front_of, settings, env, what, command, announce)
        return

    @contextmanager
    def front_of_snapshot(found: SnapshotRow) -> Iterator[Front]:
        volume = SnapshotVolume(pool, row, found, env)
        try:
            yield NbdFront(volume, endpoint, what)
        finally:
            volume.close()

    await serve_snapshot(pool, row, snapshot, front_of_snapshot, env, command, "", announce)
