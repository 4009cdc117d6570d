"""What the kernel has to forget when a filesystem has become another state of itself (rollback).

  CN1  From the two trees' differences: every inode of which anything differs, and every name that leads to something
       else. Cost is that of the differences.
"""

from dataclasses import dataclass, field

from sds.core.keys import DATASET_INODE, DIRENT, split_key
from sds.dataset import tree
from sds.dataset.tree import NodeReader
from sds.filesystem.entries import decode_links


@dataclass(slots=True)
class Changed:
    inodes: set[int] = field(default_factory=set)
    names: list[tuple[int, bytes]] = field(default_factory=list)
    """(directory, name)"""


async def changed_nodes(nodes: NodeReader, old_root: int, new_root: int) -> Changed:
    changed = Changed()
    async for key, old, new in tree.diff(nodes, old_root, new_root):
        inode, kind, _ = split_key(key)
        if inode == DATASET_INODE:
            continue
        changed.inodes.add(inode)
        if kind == DIRENT:
            links = [set(decode_links(value, inode)) if value is not None else set() for value in (old, new)]
            changed.names += ((inode, link.name) for link in links[0] ^ links[1])
    return changed
