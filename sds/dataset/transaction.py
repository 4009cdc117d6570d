"""A transaction: changes of items, and blocks written or unmapped with them, in the log and in memory at once.

    tx = Transaction(dataset)     in a section (sds.dataset.section)
    tx.get, tx.put, ...           sees its own changes
    tx.commit()                   all of it, or Wait and nothing

  TX1  One operation in the log (D2 of sds.dataset.dataset): DATA frames, if any, and one TXN frame behind them.
  TX2  Before `commit` nothing outside of the transaction has changed; if it raises, nothing has.
  TX3  What only frees (`frees`) may use the reserve: on a full pool things can still be removed.
  TX4  A transaction that changes nothing writes nothing.
"""

from dataclasses import dataclass

from sds.core.frame import HEADER_SIZE, RAW, TXN
from sds.core.txn import TXN_SIZE_MAX, Drop, Operation, Unmap, encode_delete, encode_put, encode_txn
from sds.dataset.blockmap import page_keys
from sds.dataset.blockwriter import BlockWriter, Frame, stored_bytes
from sds.dataset.changes import Unmapping
from sds.dataset.dataset import Dataset
from sds.dataset.section import Wait


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks to be written: whole ones, from block `first` of the inode on."""

    writer: BlockWriter
    inode: int
    first: int
    count: int
    frames: list[Frame]


class Transaction:
    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._changed: dict[bytes, bytes | None] = {}
        self._dropped: list[int] = []
        self._blocks: Blocks | None = None
        self._unmappings: list[Unmapping] = []

    def get(self, key: bytes) -> bytes | None:
        """The value with the changes of this transaction, None if there is none. Wait."""
        if key in self._changed:
            return self._changed[key]
        return self._dataset.items.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self._changed[key] = value

    def delete(self, key: bytes) -> None:
        self._changed[key] = None

    def drop(self, inode: int) -> None:
        """All items of an inode, of which this transaction changes none."""
        self._dropped.append(inode)

    def write(self, blocks: Blocks) -> None:
        """Blocks, one run in a transaction. Wait: their map pages have to be in memory."""
        assert self._blocks is None
        for key in page_keys(blocks.inode, blocks.first, blocks.count):
            if key not in self._dataset.map.pages:
                raise Wait(lambda key=key: self._dataset.map.page(key))  # type: ignore[misc]
        self._blocks = blocks

    def unmap(self, change: Unmapping) -> None:
        """Blocks that become holes; `change` was prepared with nothing waited for since."""
        self._unmappings.append(change)

    def commit(self, frees: bool = False) -> None:
        """TX1. Wait: there is no room now."""
        payload = self._payload()
        if not payload and self._blocks is None:
            return
        frees = frees and self._blocks is None  # the reserve takes no data
        self._check_room(len(payload), frees)
        if self._blocks is not None:
            self._blocks.writer.append(
                self._blocks.inode, self._blocks.first, self._blocks.frames, more=bool(payload)
            )
        if payload:
            address = self._dataset.log.append(TXN, RAW, 0, 0, payload, len(payload), metadata=frees)
            assert address, "has_room promised room"
        self._apply()

    def _payload(self) -> bytes:
        parts = [encode_delete(k) if v is None else encode_put(k, v) for k, v in self._changed.items()]
        if self._unmappings or self._dropped:
            first: list[Operation] = [Unmap(u.inode, u.first, u.count) for u in self._unmappings]
            parts.insert(0, encode_txn([*first, *map(Drop, self._dropped)]))
        payload = b"".join(parts)
        assert len(payload) <= TXN_SIZE_MAX
        return payload

    def _check_room(self, payload_bytes: int, frees: bool) -> None:
        dataset, log = self._dataset, self._dataset.log
        if dataset.items.unmerged >= dataset.settings.items_max:
            raise Wait(dataset.wait_item_room)
        need, count = HEADER_SIZE + payload_bytes, 1
        if self._blocks is not None:
            need += stored_bytes(self._blocks.frames)
            count += len(self._blocks.frames)
        if not log.has_room(need, count, metadata=frees):
            raise Wait(lambda: log.wait_room(need, count, metadata=frees))

    def _apply(self) -> None:
        items = self._dataset.items
        for change in self._unmappings:
            change.apply()
        for inode in self._dropped:
            items.drop(inode)
        for key, value in self._changed.items():
            if value is None:
                items.delete(key)
            else:
                items.put(key, value)
