"""Opening a filesystem: one that is new gets its root directory, what a crash left unlinked is deleted."""

import os
import stat
from functools import partial

from sds.dataset.dataset import Dataset
from sds.dataset.section import run
from sds.dataset.transaction import Transaction
from sds.filesystem.attributes import ROOT_INODE, Attr, Owner
from sds.filesystem.filesystem import Clock, Filesystem, coarse_now_ns
from sds.filesystem.inodes import COUNTERS_KEY, SEED_KEY, Counters, store_attr, store_counters


async def open_filesystem(
    dataset: Dataset, owner: Owner, clock: Clock = coarse_now_ns, seed: int | None = None, relatime: bool = True
) -> Filesystem:
    """`owner` owns the root directory of a new filesystem; `seed`: of its hash of names, random if not given."""
    chosen = int.from_bytes(os.urandom(8), "little") if seed is None else seed
    await run(partial(_format, dataset, owner, clock(), chosen))
    filesystem = Filesystem(dataset, clock, relatime)
    await filesystem.orphans.find(())
    return filesystem


def _format(dataset: Dataset, owner: Owner, now_ns: int, seed: int) -> None:
    """The root directory and the counters, if they are not there."""
    if dataset.items.get(COUNTERS_KEY) is not None:
        return
    tx = Transaction(dataset)
    tx.put(SEED_KEY, seed.to_bytes(8, "little"))
    store_counters(tx, Counters(ROOT_INODE + 1, 1))
    mode = stat.S_IFDIR | 0o755
    root = Attr(
        ROOT_INODE, 0, mode, 2, owner.uid, owner.gid, 0, 0, 0, ROOT_INODE, now_ns, now_ns, now_ns, now_ns
    )
    store_attr(tx, root)
    tx.commit()
