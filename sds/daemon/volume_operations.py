"""What can be asked of an open volume, beside what can be asked of any dataset (sds/daemon/operations.py)."""

from collections.abc import Callable

from sds.core.errors import BadInput
from sds.daemon.control import Handler
from sds.daemon.front import Json
from sds.daemon.operations import BLOCK_SIZE, Operations
from sds.daemon.sweeper import Sweeper
from sds.dataset.dataset import Dataset
from sds.pool.lease import Holder
from sds.pool.rows import SnapshotRow
from sds.volume.limits import check_size
from sds.volume.volume import Volume


class VolumeOperations(Operations):
    def __init__(
        self, dataset: Dataset, volume: Volume, sweeper: Sweeper, changed: Callable[[], None], holder: Holder
    ) -> None:
        super().__init__(dataset, sweeper, changed, holder)
        self._volume = volume

    def own_handlers(self) -> dict[str, Handler]:
        return {"resize": self.resize}

    def apply_property(self, key: str, value: str | None) -> None:
        if key == "compress":
            self._volume.compress_with(value or "lz4")

    async def _rollback(self, snapshot: SnapshotRow) -> None:
        await self._dataset.rollback(snapshot)
        await self._replaced(None)

    async def resize(self, size_bytes: int, force: bool = False) -> Json:
        check_size(size_bytes)
        if size_bytes < self._dataset.size_bytes and not force and await self._has_data_beyond(size_bytes):
            raise BadInput(
                f"{self._dataset.row.name} has data beyond {size_bytes} bytes, which would be lost: "
                "move it, or shrink with --force"
            )
        await self._dataset.resize(size_bytes)
        await self._replaced(None)
        self._changed()
        return {"size_bytes": self._dataset.size_bytes}

    async def _has_data_beyond(self, size_bytes: int) -> bool:
        end = -(-self._dataset.size_bytes // BLOCK_SIZE) * BLOCK_SIZE
        while size_bytes < end:
            for extent in await self._volume.extents(size_bytes, end - size_bytes, 1):
                if not extent.flags:
                    return True
                size_bytes += extent.length
        return False
