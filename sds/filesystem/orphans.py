"""Inodes without names: kept while somebody has them open, then deleted.

    last name goes ──▶ ORPHAN ──forgotten by the kernel, not open──▶ deleted (items, blocks, counted off)
                         └──── after a crash: found when the filesystem is opened ────▶ deleted

  OR1  The ORPHAN item is made in the transaction that takes the last name, and goes in the one that deletes the inode.
  OR2  What is deleted is an orphan at that moment: a rollback may have given names back to what waited here.
  OR3  An orphan that cannot be deleted now (the pool has failed, a map page is damaged) stays one; it is tried again
       when the filesystem is opened.
  OR4  Orphans without blocks, which take nearly no room, are deleted some TOGETHER.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial
from typing import Final

import trio

from sds.core.errors import SdsError
from sds.core.keys import DATASET_INODE, ORPHAN, kind_range
from sds.core.page import PAGE_BLOCKS
from sds.dataset.changes import prepare_unmap
from sds.dataset.dataset import Dataset
from sds.dataset.section import Wait, run
from sds.dataset.transaction import Transaction
from sds.filesystem.attributes import INLINE, XATTRS
from sds.filesystem.files import pages_of
from sds.filesystem.inodes import attr_key, inline_key, load_attr, load_counters, orphan_key, store_counters

TOGETHER: Final = 32
"""Orphans without blocks that are deleted in one transaction."""
_log = logging.getLogger(__name__)


class Orphans:
    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._waiting: set[int] = set()
        self._forgotten: set[int] = set()
        self._doomed: list[int] = []

    def note(self, inodes: Iterable[int]) -> None:
        """These have become orphans."""
        self._waiting.update(inodes)

    async def forgotten(self, inodes: Iterable[int], opened: Collection[int]) -> None:
        """The kernel has let go of these inodes."""
        mine = self._waiting.intersection(inodes)
        self._forgotten.update(inode for inode in mine if inode in opened)
        await self._delete([inode for inode in mine if inode not in opened])

    async def released(self, inode: int) -> None:
        """Nobody has this inode open any more."""
        if inode in self._forgotten:
            await self._delete([inode])

    async def find(self, opened: Collection[int]) -> None:
        """Delete what a crash left; what is open stays."""
        self._waiting.clear()
        self._forgotten.clear()
        self._doomed.clear()
        low, high = kind_range(DATASET_INODE, ORPHAN)
        while low < high:
            found, low = await run(partial(self._dataset.items.batch, low, high))
            inodes = [int.from_bytes(name[-8:], "big") for name, _ in found]
            self._waiting.update(inodes)
            await self.forgotten(inodes, opened)
        await self.settle()

    async def settle(self) -> None:
        """OR4: delete those that wait for company."""
        while self._doomed:
            inodes, self._doomed = self._doomed[:TOGETHER], self._doomed[TOGETHER:]
            await self._delete_plain(inodes)

    async def _delete(self, inodes: Iterable[int]) -> None:
        for inode in inodes:
            self._waiting.discard(inode)
            self._forgotten.discard(inode)
            try:
                if (await run(partial(load_attr, self._dataset.items, inode))).blocks:
                    await self._delete_file(inode)
                    continue
            except (SdsError, OSError) as error:
                _log.warning("%s: an unlinked inode, %d, stays: %s", self._dataset.row.name, inode, error)
                continue
            self._doomed.append(inode)
        if len(self._doomed) >= TOGETHER:
            await self.settle()

    async def _delete_plain(self, inodes: list[int]) -> None:
        """Those without blocks; what got blocks meanwhile is deleted as a file."""

        def section() -> list[int]:
            items = self._dataset.items
            orphans = [inode for inode in inodes if self._is_orphan(inode)]
            files = [inode for inode in orphans if load_attr(items, inode).blocks]
            self._remove([inode for inode in orphans if inode not in files], Transaction(self._dataset))
            return files

        try:
            for inode in await run(section):
                await self._delete_file(inode)
        except (SdsError, OSError) as error:
            _log.warning("%s: %d unlinked inodes stay: %s", self._dataset.row.name, len(inodes), error)

    async def _delete_file(self, inode: int) -> None:
        """One that has blocks."""
        blocks = self._dataset.map
        while await run(partial(self._is_orphan, inode)):
            attr = await run(partial(load_attr, self._dataset.items, inode))
            change = await prepare_unmap(blocks, inode, 0, pages_of(attr.size_bytes) * PAGE_BLOCKS)
            tx = Transaction(self._dataset)
            tx.unmap(change)
            try:
                if load_attr(self._dataset.items, inode) == attr and self._is_orphan(inode):
                    self._remove([inode], tx)
                    return
                until: Callable[[], Awaitable[object]] = trio.lowlevel.checkpoint
            except Wait as wait:
                until = wait.until
            await until()

    def _is_orphan(self, inode: int) -> bool:
        """OR2. Wait."""
        return self._dataset.items.get(orphan_key(inode)) is not None

    def _remove(self, inodes: list[int], tx: Transaction) -> None:
        if not inodes:
            return
        for inode in inodes:
            attr = load_attr(self._dataset.items, inode)
            if attr.is_symlink or attr.flags & XATTRS:
                tx.drop(inode)
            else:
                tx.delete(attr_key(inode))
                if attr.flags & INLINE:
                    tx.delete(inline_key(inode))
            tx.delete(orphan_key(inode))
        counters = load_counters(self._dataset.items)
        store_counters(tx, counters._replace(inodes=counters.inodes - len(inodes)))
        tx.commit(frees=True)
