"""Snapshots of an open filesystem, as views that are opened when somebody looks at them.

  SV1  A view is there at once, also while the snapshot's tree is being merged: then it stands on the frozen layers, and
       moves to the tree when that is published (its old one may be swept from then on).
  SV2  A snapshot is held while it has a view: nobody destroys it. `close` lets go of it, if nothing in it is open.
  SV3  A slot is a small number that stands for a snapshot in node ids. It is not used again while this object lives.
"""

import errno
from dataclasses import dataclass
from typing import Final

from sds.core.errors import Busy, Missing
from sds.dataset.blockmap import BlockMap
from sds.dataset.dataset import Dataset
from sds.dataset.items import Items
from sds.dataset.layer import Layer, Layers
from sds.filesystem.inodes import error
from sds.filesystem.view import FilesystemView
from sds.pool.lease import Holder, Lease
from sds.pool.rows import SnapshotRow

PAGES_MAX: Final = 1 << 12
SLOT_MAX: Final = 0xFFFE



@dataclass(slots=True)
class Slot:
    number: int
    row: SnapshotRow
    hold: Lease
    view: FilesystemView
    pending: Layer | None
    """SV1: the layer whose tree the view waits for."""
    opened: int = 0


class SnapshotViews:
    def __init__(self, dataset: Dataset, holder: Holder) -> None:
        self._dataset = dataset
        self._holder = holder
        self._slots: dict[int, Slot] = {}
        self._by_id: dict[int, Slot] = {}
        self._last = 0

    async def rows(self) -> list[SnapshotRow]:
        """All snapshots, oldest first."""
        return await self._dataset.env.run_blocking(self._dataset.pool.catalog.snapshots, self._dataset.row.id)

    async def find(self, name: str) -> int:
        """The slot of a snapshot. ENOENT."""
        dataset = self._dataset
        try:
            row = await dataset.env.run_blocking(dataset.pool.catalog.snapshot, dataset.row.id, name)
        except Missing:
            raise error(errno.ENOENT) from None
        slot = self._by_id.get(row.id) or self._open(row)
        return slot.number

    def _open(self, row: SnapshotRow) -> Slot:
        if self._last >= SLOT_MAX:
            raise error(errno.ENFILE)
        dataset = self._dataset
        layers = Layers(row.root) if row.root is not None else dataset.layers.up_to(row.id)
        pending = layers.frozen[-1] if layers is not None and row.root is None else None
        if layers is None:  # published since its row was read
            layers = Layers(dataset.pool.catalog.snapshot(dataset.row.id, row.name).root or 0)
        hold = dataset.pool.hold_snapshot(dataset.row, row, self._holder, shared=True)
        self._last += 1
        slot = Slot(self._last, row, hold, self._view(layers, row.mapped_blocks), pending)
        self._slots[slot.number] = self._by_id[row.id] = slot
        return slot

    def _view(self, layers: Layers, mapped_blocks: int) -> FilesystemView:
        dataset = self._dataset
        blocks = BlockMap(dataset.nodes, layers, mapped_blocks, PAGES_MAX)
        return FilesystemView(Items(dataset.nodes, layers), blocks, dataset.reader)

    def view(self, number: int) -> FilesystemView:
        """ESTALE: the snapshot was destroyed."""
        slot = self._slot(number)
        if slot.pending is not None and slot.pending.published.is_set():
            slot.view = self._view(Layers(slot.pending.root), slot.pending.mapped_blocks)
            slot.pending = None
        return slot.view

    def name(self, number: int) -> str:
        return self._slot(number).row.name

    def note_open(self, number: int, difference: int) -> None:
        """A file was opened (1) or closed (-1)."""
        if number in self._slots:
            self._slots[number].opened += difference

    def close(self, row: SnapshotRow) -> None:
        """SV2. Busy."""
        slot = self._by_id.get(row.id)
        if slot is None:
            return
        if slot.opened > 0:
            raise Busy(f"snapshot @{row.name} is in use: files in .snapshots/{row.name} are open, close them first")
        del self._by_id[row.id], self._slots[slot.number]
        slot.hold.release()

    def close_all(self) -> None:
        for slot in self._slots.values():
            slot.hold.release()
        self._slots.clear()
        self._by_id.clear()

    def _slot(self, number: int) -> Slot:
        slot = self._slots.get(number)
        if slot is None:
            raise error(errno.ESTALE)
        return slot
