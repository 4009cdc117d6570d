"""Snapshots of an open filesystem, as views that are opened when somebody looks into them.

    known (a slot) ──looked into──▶ open: held, a view ──destroyed, or not looked into for long──▶ known

  SV1  A view is there at once, also while the snapshot's tree is being merged: then it stands on the frozen layers, and
       moves to the tree when that is published (its old one may be swept from then on).
  SV2  A snapshot is held while it is open: nobody destroys it. `close` lets go of it, if no file in it is open.
  SV3  A slot is a small number that stands for a snapshot in node ids. It is not used again while this object lives.
  SV4  At most OPEN_MAX are open, unless files are open in more: a view costs memory and a file descriptor.
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
OPEN_MAX: Final = 32


@dataclass(slots=True)
class OpenView:
    hold: Lease
    view: FilesystemView
    layers: Layers
    pending: Layer | None
    """SV1: the layer whose tree the view waits for."""
    files: int = 0


class SnapshotViews:
    def __init__(self, dataset: Dataset, holder: Holder) -> None:
        self._dataset = dataset
        self._holder = holder
        self._slots: dict[int, int] = {}
        """Snapshot id -> slot."""
        self._names: dict[int, str] = {}
        """Slot -> name of the snapshot when it was last seen."""
        self._open: dict[int, OpenView] = {}
        """By slot, the one looked into last at the end."""

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
        return self.slot_of(row)

    def slot_of(self, row: SnapshotRow) -> int:
        """SV3. ENFILE: there are no more."""
        slot = self._slots.get(row.id)
        if slot is None:
            if len(self._slots) >= SLOT_MAX:
                raise error(errno.ENFILE)
            slot = self._slots[row.id] = len(self._slots) + 1
        self._names[slot] = row.name
        return slot

    def name(self, slot: int) -> str:
        return self._names.get(slot, "?")

    def view(self, slot: int) -> FilesystemView:
        """ESTALE: the snapshot was destroyed."""
        found = self._open.pop(slot, None)
        if found is None:
            self._make_room()
            found = self._opened(slot)
        self._open[slot] = found
        if found.pending is not None and found.pending.published.is_set():
            found.layers.move_to(found.pending.root)  # in place: whoever reads now looks again
            found.pending = None
        return found.view

    def _opened(self, slot: int) -> OpenView:
        dataset, catalog = self._dataset, self._dataset.pool.catalog
        row = next((row for row in catalog.snapshots(dataset.row.id) if self._slots.get(row.id) == slot), None)
        if row is None:
            raise error(errno.ESTALE)
        hold = dataset.pool.hold_snapshot(dataset.row, row, self._holder, shared=True)
        try:
            row = catalog.snapshot(dataset.row.id, row.name)  # not destroyed before we had hold of it
        except Missing:
            hold.release()
            raise error(errno.ESTALE) from None
        layers = Layers(row.root) if row.root is not None else dataset.layers.up_to(row.id)
        pending = layers.frozen[-1] if layers is not None and row.root is None else None
        if layers is None:  # published since its row was read
            layers = Layers(catalog.snapshot(dataset.row.id, row.name).root or 0)
        blocks = BlockMap(dataset.nodes, layers, row.mapped_blocks, PAGES_MAX)
        view = FilesystemView(Items(dataset.nodes, layers), blocks, dataset.reader)
        return OpenView(hold, view, layers, pending)

    def _make_room(self) -> None:
        """SV4."""
        unused = [slot for slot, found in self._open.items() if not found.files]
        for slot in unused[: max(0, len(self._open) - OPEN_MAX + 1)]:
            self._open.pop(slot).hold.release()

    def note_open(self, slot: int, difference: int) -> None:
        """A file was opened (1) or closed (-1)."""
        if slot in self._open:
            self._open[slot].files += difference

    def close(self, row: SnapshotRow) -> None:
        """SV2. Busy."""
        slot = self._slots.get(row.id, 0)
        found = self._open.get(slot)
        if found is None:
            return
        if found.files > 0:
            raise Busy(f"snapshot @{row.name} is in use: files in .snapshots/{row.name} are open, close them first")
        self._open.pop(slot).hold.release()

    def close_all(self) -> None:
        for found in self._open.values():
            found.hold.release()
        self._open.clear()
