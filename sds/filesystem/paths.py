"""The path of an inode, for messages: the way up through the `parent` of each, and its name in that directory.

  PA1  A help for people, never an error: what is not found, or damaged itself, is shown as a number.
  PA2  Bounded: of each directory at most ENTRIES_MAX entries are looked at, and DEPTH_MAX directories.
"""

import os
from functools import partial
from typing import Final

from sds.core.errors import SdsError
from sds.core.keys import DIRENT, kind_range
from sds.dataset.items import Items
from sds.dataset.section import run
from sds.filesystem.attributes import ROOT_INODE
from sds.filesystem.entries import decode_links
from sds.filesystem.inodes import load_attr

ENTRIES_MAX: Final = 100_000
DEPTH_MAX: Final = 64


async def path_of(items: Items, inode: int) -> str:
    """PA1: a hard link has others."""
    names: list[str] = []
    while inode != ROOT_INODE:
        try:
            parent = (await run(partial(load_attr, items, inode))).parent
            name = await _name_in(items, parent, inode)
        except (SdsError, OSError):
            parent, name = ROOT_INODE, None
        names.append(f"(inode {inode})" if name is None else os.fsdecode(name))
        if len(names) >= DEPTH_MAX:
            names.append("...")
            break
        inode = parent
    return "/" + "/".join(reversed(names))


async def _name_in(items: Items, directory: int, inode: int) -> bytes | None:
    low, high = kind_range(directory, DIRENT)
    seen = 0
    while low < high and seen < ENTRIES_MAX:
        found, low = await run(partial(items.batch, low, high))
        for _, value in found:
            for link in decode_links(value, directory):
                if link.inode == inode:
                    return link.name
        seen += len(found)
    return None
