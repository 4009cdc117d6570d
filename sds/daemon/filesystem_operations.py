"""What is different when an open filesystem is asked for something (sds/daemon/operations.py).

  FO1  A snapshot that somebody looks at in .snapshots is let go of before it is destroyed; with a file open in it, it
       is Busy.
  FO2  After a rollback the kernel forgets exactly what differs between the two states. With the writeback cache it
       would not (it believes its own sizes and times), so there it is refused.
"""

from collections.abc import Callable

from sds.core.errors import Busy
from sds.daemon.front import Json
from sds.daemon.operations import Operations
from sds.daemon.sweeper import Sweeper
from sds.dataset.dataset import Dataset
from sds.dataset.nodes import expect_root
from sds.filesystem.changed import Changed, changed_nodes
from sds.filesystem.filesystem import Filesystem
from sds.filesystem.snapshots import SnapshotViews
from sds.pool.lease import Holder
from sds.pool.rows import SnapshotRow


class FilesystemOperations(Operations):
    def __init__(
        self,
        dataset: Dataset,
        filesystem: Filesystem,
        sweeper: Sweeper,
        changed: Callable[[], None],
        holder: Holder,
    ) -> None:
        super().__init__(dataset, sweeper, changed, holder)
        self._filesystem = filesystem
        self.views = SnapshotViews(dataset, holder)

    def close(self) -> None:
        self.views.close_all()

    def apply_property(self, key: str, value: str | None) -> None:
        if key == "compress":
            self._filesystem.compress_with(value or "lz4")
        elif key == "quota":
            self._filesystem.space.quota_bytes = int(value or 0)

    async def destroy_snapshot(self, name: str) -> Json:
        """FO1."""
        self.views.close(self._pool.catalog.snapshot(self._dataset.row.id, name))
        return await super().destroy_snapshot(name)

    async def _rollback(self, snapshot: SnapshotRow) -> None:
        """FO2. Nothing may change between the two states that are compared; afterwards the older one may be swept."""
        if self.front is not None and self.front.caches_writes:
            raise Busy(
                f"{self._dataset.row.name} is mounted with the writeback cache, so the kernel keeps sizes of its own: "
                "unmount it, then roll back"
            )
        changed = Changed()
        try:
            with self._filesystem.paused():
                before = await self._dataset.newest_root()
                after = expect_root(snapshot.root, f"snapshot @{snapshot.name}")
                if self.front is not None:
                    changed = await changed_nodes(self._dataset.nodes, before, after)
                next_inode = await self._filesystem.next_inode()
                await self._dataset.rollback(snapshot)
                await self._filesystem.rolled_back(next_inode)
        finally:  # not while it is paused: to forget pages, the kernel may have to write some first
            await self._replaced(changed)
