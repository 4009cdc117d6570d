"""How much a filesystem may hold, and what df shows.

  SP1  Used is what its files store (blocks of 4 KiB) and INODE_BYTES for each inode, before compression and copies.
  SP2  With a quota, df shows the quota as size, and what would go beyond it is EDQUOT before anything has changed.
  SP3  Free is never more than what the pool can still take, with all copies in distinct failure domains and without
       the reserve that is kept for deleting.
  SP4  Extended attributes and targets of symbolic links count for nothing.
"""

import errno
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from sds.core.address import BLOCK_SIZE
from sds.dataset.blockmap import BlockMap
from sds.filesystem.attributes import INODE_BYTES, Attr, Statfs
from sds.filesystem.entries import Source
from sds.filesystem.inodes import Counters, error, load_counters
from sds.log.copies import reserve_bytes
from sds.pool.pool import Pool

FREE_INODES_MAX: Final = 1 << 40


class Space:
    """`quota_bytes` 0: none."""

    def __init__(self, blocks: BlockMap, free_bytes: Callable[[], int], quota_bytes: int = 0) -> None:
        self._map = blocks
        self._free_bytes = free_bytes
        self.quota_bytes = quota_bytes

    def used_bytes(self, counters: Counters) -> int:
        """SP1."""
        return self._map.mapped_blocks * BLOCK_SIZE + counters.inodes * INODE_BYTES

    def check(self, source: Source, before: Attr | None, after: Attr) -> None:
        """EDQUOT if an inode may not become this (None: it is new). Wait."""
        if not self.quota_bytes:
            return
        more = (after.blocks - (before.blocks if before else 0)) * BLOCK_SIZE + (0 if before else INODE_BYTES)
        if more > 0 and self.used_bytes(load_counters(source)) + more > self.quota_bytes:
            raise error(errno.EDQUOT)

    def statfs(self, counters: Counters) -> Statfs:
        """SP2, SP3."""
        used = self.used_bytes(counters)
        free = self._free_bytes()
        if self.quota_bytes:
            free = max(0, min(free, self.quota_bytes - used))
        total = self.quota_bytes or used + free
        blocks_free = free // BLOCK_SIZE
        return Statfs(
            BLOCK_SIZE, -(-total // BLOCK_SIZE), blocks_free, blocks_free,
            counters.inodes + free // INODE_BYTES, min(free // INODE_BYTES, FREE_INODES_MAX),
        )  # fmt: skip


def free_bytes_of(pool: Pool) -> int:
    """What the pool can still take of a dataset's bytes (SP3)."""
    domains: Counter[str] = Counter()
    for candidate in pool.candidates():
        kept = reserve_bytes(pool.backends[candidate.backend].usage().total_bytes, pool.segment_size)
        domains[candidate.label] += max(0, candidate.free_bytes - kept)
    return placeable_bytes(list(domains.values()), min(pool.copies, len(domains)))


def placeable_bytes(free_bytes: Sequence[int], copies: int) -> int:
    """How much can be stored in `copies` copies, each in another failure domain with so much free."""
    most = sorted(free_bytes, reverse=True)
    # The k largest domains may be larger than is of use: then each has a copy of everything, and the others the rest.
    return min((sum(most[k:]) // (copies - k) for k in range(copies)), default=0)
