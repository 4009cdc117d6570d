"""`sds mount` as a worker: what is shown for which kind of dataset.

| dataset                 | shown as                                                |
|-------------------------|---------------------------------------------------------|
| filesystem              | its files; its snapshots, read only, in .snapshots/NAME |
| filesystem@snapshot     | the files of then, read only                            |
| volume, volume@snapshot | a directory with one file, VOL.img                      |
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from fuse.rawfile import FILE_INODE, RawFile
from sds.daemon.filesystem_operations import FilesystemOperations
from sds.daemon.front import Announce, Front
from sds.daemon.mount_front import MountFront, Place
from sds.daemon.opened import Opened
from sds.daemon.unmounting import Where
from sds.daemon.worker import serve_dataset, serve_snapshot
from sds.dataset.dataset import Settings
from sds.dataset.nodes import expect_root
from sds.filesystem.attributes import Owner
from sds.filesystem.node_tree import NodeTree
from sds.filesystem.snapshot_tree import SnapshotTree, view_of
from sds.log.env import Env
from sds.pool.pool import Pool
from sds.pool.rows import DatasetRow, SnapshotRow
from sds.volume.snapshot import SnapshotVolume


async def mount_dataset(
    pool: Pool, row: DatasetRow, snapshot: str | None, place: Place, settings: Settings, env: Env, announce: Announce
) -> None:
    """Returns when it is unmounted, and what was open is closed."""
    what = f"{pool.name}/{row.name}" + (f"@{snapshot}" if snapshot else "")
    command = f"sds mount {what} {place.directory}"
    if snapshot is None:

        def front_of(here: Opened) -> Front:
            return _front(here, place)

        await serve_dataset(pool, row, front_of, settings, env, what, command, announce)
        return

    @contextmanager
    def front_of_snapshot(found: SnapshotRow) -> Iterator[Front]:
        with _tree(pool, row, found, env) as tree:
            yield MountFront(tree, place, Where(os.getpid(), place.directory, pool.name, row.id, found.id))

    await serve_snapshot(pool, row, snapshot, front_of_snapshot, env, command, str(place.socket), announce)


def _front(here: Opened, place: Place) -> Front:
    row = here.dataset.row
    where = Where(os.getpid(), place.directory, here.dataset.pool.name, row.id, 0)
    if row.kind == "volume":
        return MountFront(RawFile(here.volume, row.name, _me()), place, where, lambda: (FILE_INODE,))
    filesystem = here.filesystem
    filesystem.relatime = "noatime" not in place.options.flags and not place.options.read_only
    assert isinstance(here.operations, FilesystemOperations)
    tree = NodeTree(filesystem, here.operations.views)
    return MountFront(tree, place, where, filesystem.open_inodes)


@contextmanager
def _tree(pool: Pool, row: DatasetRow, snapshot: SnapshotRow, env: Env) -> Iterator[RawFile | SnapshotTree]:
    if row.kind == "fs":
        root = expect_root(snapshot.root, f"snapshot @{snapshot.name}")
        with view_of(pool, env, root, snapshot.mapped_blocks) as view:
            yield SnapshotTree(view)
        return
    volume = SnapshotVolume(pool, row, snapshot, env)
    try:
        yield RawFile(volume, row.name, _me())
    finally:
        volume.close()


def _me() -> Owner:
    return Owner(os.geteuid(), os.getegid())
