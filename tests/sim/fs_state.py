"""What a filesystem is, as a value: as its log tells it (`Raw`), and as whoever mounts it sees it (`Tree`).

  ST1  `Raw` is a second replay, of frames and operations alone and in the simplest way.
  ST2  `tree_of` reads a Raw by the formats. Whether what it shows is a sound tree is for others to say.
  ST3  Values are never changed in place.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

from sds.core.keys import ATTR, DATASET_INODE, DIRENT, INLINE, MAP, ORPHAN, SYMLINK, XATTR, split_key
from sds.core.page import PAGE_BLOCKS
from sds.core.txn import Delete, Drop, Operation, Put, Unmap
from sds.dataset.blockmap import INDEX_MASK, INODE_SHIFT, PAGE_SHIFT, BlockMap
from sds.dataset.items import Items
from sds.dataset.section import run
from sds.filesystem.attributes import Attr, decode_attr
from sds.filesystem.entries import decode_links
from sds.filesystem.inodes import COUNTERS_KEY, Counters, load_counters
from sds.log.reader import FrameReader

BLOCK: Final = 4096
ZERO: Final = bytes(BLOCK)
_END: Final = b"\xff" * 10
_PAGES_END: Final = INDEX_MASK


@dataclass(frozen=True, slots=True)
class Raw:
    items: Mapping[bytes, bytes] = field(default_factory=dict)
    """All but map pages."""
    blocks: Mapping[tuple[int, int], bytes] = field(default_factory=dict)
    """(inode, block): its bytes. Those that are mapped, be they zeros."""

    def written(self, inode: int, first: int, data: bytes) -> "Raw":
        new = {(inode, first + at // BLOCK): data[at : at + BLOCK] for at in range(0, len(data), BLOCK)}
        return Raw(self.items, {**self.blocks, **new})

    def changed(self, operations: Iterable[Operation]) -> "Raw":
        """By one transaction of a filesystem."""
        items, blocks = dict(self.items), dict(self.blocks)
        for operation in operations:
            match operation:
                case Put(key, value):
                    items[key] = value
                case Delete(key):
                    items.pop(key, None)
                case Drop(inode):
                    items = {key: value for key, value in items.items() if split_key(key)[0] != inode}
                    left = [block for number, block in blocks if number == inode]
                    assert not left, f"inode {inode} is dropped with blocks {left[:5]} still mapped"
                case Unmap(inode, first, count):
                    gone = range(first, first + count)
                    blocks = {at: data for at, data in blocks.items() if at[0] != inode or at[1] not in gone}
                case _:
                    raise AssertionError(operation)
        return Raw(items, blocks)


class Node(NamedTuple):
    """What can be seen of an inode."""

    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    parent: int
    """Of a directory; else 0."""
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int
    content: Mapping[int, bytes] = {}
    """By block; those that are zeros are left out."""
    target: bytes = b""
    xattrs: Mapping[bytes, bytes] = {}
    entries: Mapping[bytes, int] = {}

    @property
    def is_directory(self) -> bool:
        return self.mode & 0o170000 == 0o040000

    @property
    def is_file(self) -> bool:
        return self.mode & 0o170000 == 0o100000


class Tree(NamedTuple):
    nodes: Mapping[int, Node] = {}
    orphans: frozenset[int] = frozenset()
    counters: Counters = Counters(0, 0)

    def with_nodes(self, changed: Mapping[int, Node]) -> "Tree":
        return self._replace(nodes={**self.nodes, **changed})


class Moment(NamedTuple):
    """A state of a filesystem."""

    raw: Raw = Raw()
    tree: Tree = Tree()


def tree_of(raw: Raw) -> Tree:
    """ST2."""
    attrs: dict[int, Attr] = {}
    contents: dict[int, dict[int, bytes]] = {}
    targets: dict[int, bytes] = {}
    xattrs: dict[int, dict[bytes, bytes]] = {}
    entries: dict[int, dict[bytes, int]] = {}
    orphans = set()
    for key, value in sorted(raw.items.items()):
        inode, kind, suffix = split_key(key)
        if kind == ATTR:
            attrs[inode] = decode_attr(inode, value)
        elif kind == DIRENT:
            entries.setdefault(inode, {}).update((link.name, link.inode) for link in decode_links(value, inode))
        elif kind == SYMLINK:
            targets[inode] = targets.get(inode, b"") + value
        elif kind == XATTR:
            of = xattrs.setdefault(inode, {})
            of[suffix[:-2]] = of.get(suffix[:-2], b"") + value
        elif kind == INLINE:
            contents[inode] = {0: value.ljust(BLOCK, b"\0")} if any(value) else {}
        elif kind == ORPHAN and inode == DATASET_INODE:
            orphans.add(int.from_bytes(suffix, "big"))
    for (inode, block), data in raw.blocks.items():
        if data != ZERO:
            contents.setdefault(inode, {})[block] = data
    counters = load_counters(raw.items) if COUNTERS_KEY in raw.items else Counters(0, 0)
    nodes = {
        inode: seen(attr)._replace(
            content=contents.get(inode, {}), target=targets.get(inode, b""), xattrs=xattrs.get(inode, {}),
            entries=entries.get(inode, {}),
        )
        for inode, attr in attrs.items()
    }  # fmt: skip
    return Tree(nodes, frozenset(orphans), counters)


def stored_inodes(raw: Raw) -> set[int]:
    """Of which there is anything."""
    found = {split_key(key)[0] for key in raw.items} | {inode for inode, _ in raw.blocks}
    return found - {DATASET_INODE}


def seen(attr: Attr) -> Node:
    """What attributes tell of an inode."""
    return Node(
        attr.mode, attr.nlink, attr.uid, attr.gid, attr.rdev, attr.size_bytes, attr.parent if attr.is_directory else 0,
        attr.atime_ns, attr.mtime_ns, attr.ctime_ns, attr.btime_ns,
    )  # fmt: skip


def difference(expected: Tree, found: Tree) -> str:
    """One line for each inode that is not the same."""
    lines = []
    if expected.orphans != found.orphans or expected.counters != found.counters:
        lines.append(f"orphans {set(expected.orphans)} != {set(found.orphans)}")
        lines.append(f"{expected.counters} != {found.counters}")
    for inode in sorted(expected.nodes.keys() | found.nodes.keys()):
        one, other = expected.nodes.get(inode), found.nodes.get(inode)
        if one is None or other is None:
            lines.append(f"inode {inode}: {'should not be' if one is None else 'is missing'}")
        elif one != other:
            fields = (name for name, a, b in zip(Node._fields, one, other, strict=True) if a != b)
            lines += [f"inode {inode}: {name}: {_short(one, name)} != {_short(other, name)}" for name in fields]
    return "\n".join(lines[:20])


def _short(node: Node, name: str) -> str:
    value = getattr(node, name)
    if name == "content":
        value = {block: data[:12] for block, data in value.items()}
    return str(value)[:300]


async def read_raw(items: Items, blocks: BlockMap, reader: FrameReader) -> Raw:
    """All that an engine holds, read item by item and block by block, by its lowest layer."""
    found: dict[bytes, bytes] = {}
    inodes = {key >> INODE_SHIFT for key in blocks.pages}
    low = b""
    while low < _END:
        batch, low = await run(partial(items.batch, low, _END))
        for key, value in batch:
            inode, kind, _ = split_key(key)
            if kind == MAP:
                inodes.add(inode)
            else:
                found[key] = value
    mapped = {}
    for inode in sorted(inodes):
        async for index in blocks.mapped_pages(inode, 0, _PAGES_END):
            page = await blocks.page(inode << INODE_SHIFT | index)
            for at in range(PAGE_BLOCKS):
                if page[at]:
                    mapped[inode, (index << PAGE_SHIFT) + at] = bytes(await reader.blocks(page[at], 1))
    return Raw(found, mapped)
