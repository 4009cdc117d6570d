"""An internal check of a whole filesystem: does everything in it fit together?

    pass 1   all items in the order of their keys: what belongs to one inode fits together
    pass 2   all directory entries: names lead to inodes, and as many as these count
    pass 3   in memory: all directories hang on the root; counters and totals are right

  CH1  It changes nothing and mends nothing. What it says is true of a state that nobody changes meanwhile: a snapshot,
       or a filesystem without requests.
  CH2  [] means: every inode but the root is reachable from the root by as many names as it counts, or is an orphan
       that the next opening deletes; whatever is stored belongs to an inode; every number is right.
  CH3  Memory: about 50 bytes for each inode, and the caches of the view. A damaged item is a problem, and the check
       goes on; a node or a map page that cannot be read ends it (Corrupt, BackendError).
  CH4  Contents are not read, but for the last block of files if `reads_tails`: it must be zeros behind the end.
"""

import stat
from array import array
from bisect import bisect_left
from functools import partial
from typing import Final

import trio

from sds.core.address import BLOCK_SIZE
from sds.core.errors import Corrupt
from sds.core.keys import DATASET_INODE, DIRENT, INODE_MAX, ORPHAN, PROPERTY, inode_range, kind_range, split_key
from sds.core.page import PAGE_BLOCKS
from sds.dataset.blockmap import INDEX_MASK, INODE_SHIFT, PAGE_SHIFT
from sds.dataset.blockreader import BlockReader
from sds.dataset.section import run
from sds.filesystem.attributes import ROOT_INODE, Attr
from sds.filesystem.entries import Link, check_name, decode_links, hash_in, hash_of
from sds.filesystem.inode_check import Inode, type_name
from sds.filesystem.inodes import SEED_KEY, load_counters
from sds.filesystem.view import FilesystemView

PROBLEMS_MAX: Final = 1000
_UNKNOWN, _ON_THE_WAY, _HANGS_ON_ROOT, _LOST = range(4)


async def check_tree(view: FilesystemView, reads_tails: bool = False) -> list[str]:
    """Problems, one line each; [] if there are none."""
    check = _Check(view, reads_tails)
    await check.items()
    await check.entries()
    check.links()
    check.directories()
    await check.totals()
    hidden = check.count - len(check.problems)
    return check.problems + ([f"and {hidden} more problems"] if hidden else [])


class _Check:
    def __init__(self, view: FilesystemView, reads_tails: bool) -> None:
        self.problems: list[str] = []
        self.count = 0
        self._view = view
        self._reads_tails = reads_tails
        self._reader = BlockReader(view.map, view.reader)
        self._seed = 0
        self._paged = {key >> INODE_SHIFT for key in view.map.pages}
        """Inodes with pages that may not be in the tree yet."""
        self._orphans: list[int] = []
        self._mapped = 0
        self._numbers = array("Q")
        """Inodes in order; the arrays below are in step."""
        self._modes = array("I")
        self._nlinks = array("I")
        self._parents = array("Q")
        self._names = array("I")
        self._subdirectories = array("I")

    def problem(self, text: str) -> None:
        self.count += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(text)

    # -- pass 1 -------------------------------------------------------------------------------------------------------

    async def items(self) -> None:
        self._seed = await run(self._view.seed)
        inode = Inode(ROOT_INODE)
        low, high = inode_range(DATASET_INODE)[0], inode_range(INODE_MAX)[1]
        while low < high:
            items, low = await self._batch(low, high)
            for key, value in items:
                number, kind, suffix = split_key(key)
                if number == DATASET_INODE:
                    self._dataset_item(kind, suffix, value)
                    continue
                if number != inode.number:
                    await self._inode(inode)
                    inode = Inode(number)
                inode.add(kind, suffix, value)
        await self._inode(inode)
        for number in sorted(self._paged):  # none of these has an item
            await self._inode(Inode(number))

    def _dataset_item(self, kind: int, suffix: bytes, value: bytes) -> None:
        if kind == ORPHAN and len(suffix) == 8 and not value:
            self._orphans.append(int.from_bytes(suffix, "big"))
        elif kind != PROPERTY:
            self.problem(f"the dataset: an item of kind {kind} that nobody writes ({suffix.hex()})")

    async def _inode(self, inode: Inode) -> None:
        """All items of an inode have been seen."""
        attr = inode.attr
        self._paged.discard(inode.number)
        for text in inode.problems():
            self.problem(text)
        mapped = await self._mapped_blocks(inode)
        self._mapped += mapped
        if attr is None:
            if mapped:
                self.problem(f"inode {inode.number}: {mapped} blocks, but no attributes")
            elif inode.number == ROOT_INODE:
                self.problem("there is no root directory")
            return
        if mapped != attr.blocks:
            self.problem(f"inode {inode.number}: {mapped} blocks are mapped, its attributes say {attr.blocks}")
        if self._reads_tails and mapped and attr.size_bytes % BLOCK_SIZE:
            await self._tail(attr)
        self._numbers.append(inode.number)
        self._modes.append(attr.mode)
        self._nlinks.append(attr.nlink)
        self._parents.append(attr.parent)
        self._names.append(0)
        self._subdirectories.append(0)

    async def _mapped_blocks(self, inode: Inode) -> int:
        total = 0
        end = -(-inode.attr.size_bytes // BLOCK_SIZE) if inode.attr is not None else 0
        async for index in self._view.map.mapped_pages(inode.number, 0, INDEX_MASK):
            page = await self._view.map.page(inode.number << INODE_SHIFT | index)
            mapped = PAGE_BLOCKS - page.count(0)
            inside = min(max(end - (index << PAGE_SHIFT), 0), PAGE_BLOCKS)
            beyond = mapped - inside + page[:inside].count(0)
            if beyond and inode.attr is not None:
                self.problem(f"inode {inode.number}: {beyond} blocks of map page {index} lie beyond its end")
            total += mapped
        return total

    async def _tail(self, attr: Attr) -> None:
        block = b"".join(await self._reader.blocks(attr.inode, attr.size_bytes // BLOCK_SIZE, 1))
        if any(block[attr.size_bytes % BLOCK_SIZE :]):
            self.problem(f"inode {attr.inode}: its last block is not zeros behind its end, {attr.size_bytes} bytes")

    # -- pass 2 -------------------------------------------------------------------------------------------------------

    async def entries(self) -> None:
        for at, directory in enumerate(self._numbers):
            low, high = kind_range(directory, DIRENT)
            while low < high and stat.S_ISDIR(self._modes[at]):
                items, low = await self._batch(low, high)
                if items and not self._nlinks[at]:
                    self.problem(f"directory {directory}: removed, but there are entries in it")
                for key, value in items:
                    try:
                        links = decode_links(value, directory)
                    except Corrupt as error:
                        self.problem(str(error))
                        continue
                    self._group(directory, hash_in(key), links)
                    for link in links:
                        self._link(at, link)

    def _group(self, directory: int, hashed: int, links: list[Link]) -> None:
        """E1 to E3 of entries.py."""
        if len({link.name for link in links}) < len(links) or len({link.number for link in links}) < len(links):
            self.problem(f"directory {directory}: {[link.name for link in links]} are not told apart")
        for link in links:
            try:
                check_name(link.name)
            except OSError:
                self.problem(f"directory {directory}: {link.name!r} cannot be a name")
            if hash_of(link.name, self._seed) != hashed:
                self.problem(f"directory {directory}: nobody finds {link.name!r}, for it is stored under a wrong hash")

    def _link(self, directory_at: int, link: Link) -> None:
        directory = self._numbers[directory_at]
        where = f"directory {directory}: {link.name!r} leads to"
        at = self._place(link.inode)
        if at is None:
            self.problem(f"{where} inode {link.inode}, which does not exist")
            return
        self._names[at] += 1
        if link.type != self._modes[at] >> 12:
            self.problem(f"{where} a {type_name(link.type << 12)}, but {link.inode} is a {type_name(self._modes[at])}")
        if not stat.S_ISDIR(self._modes[at]):
            return
        self._subdirectories[directory_at] += 1
        if link.inode == ROOT_INODE:
            self.problem(f"{where} the root")
        elif self._parents[at] != directory:
            self.problem(f"{where} directory {link.inode}, whose parent is {self._parents[at]}")

    # -- pass 3 -------------------------------------------------------------------------------------------------------

    def links(self) -> None:
        """Link counts and orphans."""
        orphans = set(self._orphans)
        for at, number in enumerate(self._numbers):
            names, nlink, is_orphan = self._names[at], self._nlinks[at], number in orphans
            expected = names
            if stat.S_ISDIR(self._modes[at]):
                expected = 2 + self._subdirectories[at] if names or number == ROOT_INODE else 0
                if names > 1:
                    self.problem(f"directory {number}: {names} names lead to it")
            if nlink and not names and number != ROOT_INODE:
                self.problem(f"inode {number}: lost, no name leads to it (nlink {nlink})")
            elif nlink != expected:
                self.problem(f"inode {number}: nlink is {nlink}, should be {expected}")
            if is_orphan != (nlink == 0):
                marked = "marked" if is_orphan else "not marked"
                self.problem(f"inode {number}: nlink is {nlink}, but it is {marked} as an orphan")
        for number in self._orphans:
            if self._place(number) is None:
                self.problem(f"orphan {number} does not exist")

    def directories(self) -> None:
        """Each leads to the root by way of its parents."""
        states = bytearray(len(self._numbers))
        for start, number in enumerate(self._numbers):
            if not stat.S_ISDIR(self._modes[start]) or not self._nlinks[start]:
                continue
            way: list[int] = []
            at: int | None = start
            while at is not None and states[at] == _UNKNOWN and self._numbers[at] != ROOT_INODE:
                states[at] = _ON_THE_WAY
                way.append(at)
                at = self._place(self._parents[at])
            is_lost = at is None or states[at] in (_ON_THE_WAY, _LOST)
            for each in way:
                states[each] = _LOST if is_lost else _HANGS_ON_ROOT
            if is_lost and way:
                self.problem(f"directory {number}: its parents do not lead to the root")

    async def totals(self) -> None:
        try:
            counters = await run(partial(load_counters, self._view.items))
        except Corrupt as error:
            self.problem(str(error))
        else:
            if counters.inodes != len(self._numbers):
                self.problem(f"there are {len(self._numbers)} inodes, the counters say {counters.inodes}")
            if self._numbers and counters.next_inode <= self._numbers[-1]:
                self.problem(f"the next inode would be {counters.next_inode}, but there is {self._numbers[-1]} already")
        seed = await run(partial(self._view.items.get, SEED_KEY))
        if seed is None or len(seed) != 8:
            self.problem("the seed of the hash of names is damaged")
        if self._mapped != self._view.map.mapped_blocks:
            self.problem(f"{self._mapped} blocks are mapped, the dataset says {self._view.map.mapped_blocks}")

    def _place(self, number: int) -> int | None:
        at = bisect_left(self._numbers, number)
        return at if at < len(self._numbers) and self._numbers[at] == number else None

    async def _batch(self, low: bytes, high: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
        await trio.lowlevel.checkpoint()
        return await run(partial(self._view.items.batch, low, high))
