"""A tree, held against what whoever mounts it is shown."""

from typing import Final

from sds.filesystem.attributes import Entry
from sds.filesystem.view import FilesystemView
from tests.sim.fs_state import BLOCK, ZERO, Node, Tree, seen

READ_MAX: Final = 1 << 20


async def match_view(view: FilesystemView, tree: Tree) -> None:
    """Whoever mounts it sees the tree, all of it."""
    for inode, node in tree.nodes.items():
        attr = await view.getattr(inode)
        assert seen(attr) == node._replace(content={}, target=b"", xattrs={}, entries={}), f"{attr} != {node}"
        if node.is_directory:
            entries = await list_all(view, inode, 3)
            assert {entry.name: entry.attr.inode for entry in entries} == node.entries, f"directory {inode}"
            assert len(entries) == len(node.entries), f"directory {inode}: entries are shown twice"
            for name, target in node.entries.items():
                assert (await view.lookup(inode, name)).inode == target
        elif node.is_file:
            await match_content(view, inode, node)
        elif node.target:
            assert await view.readlink(inode) == node.target
        assert sorted(await view.listxattr(inode)) == sorted(node.xattrs)
        for name, value in node.xattrs.items():
            assert await view.getxattr(inode, name) == value


async def list_all(view: FilesystemView, inode: int, limit: int) -> list[Entry]:
    entries: list[Entry] = []
    while more := await view.readdir(inode, entries[-1].cookie if entries else 0, limit):
        entries += more
    return entries


async def match_content(view: FilesystemView, inode: int, node: Node) -> None:
    """All bytes of a small file; of a large one those that are not zeros, and the ends."""
    if node.size <= READ_MAX:
        assert bytes(await view.read(inode, 0, node.size + 1)) == bytes_of(node, 0, node.size), f"inode {inode}"
        return
    for block in (0, *node.content, (node.size - 1) // BLOCK):
        found = bytes(await view.read(inode, block * BLOCK, BLOCK))
        assert found == bytes_of(node, block * BLOCK, BLOCK), f"inode {inode}, block {block}"


def bytes_of(node: Node, offset: int, length: int) -> bytes:
    """What reading gives."""
    length = max(min(length, node.size - offset), 0)
    first, last = offset // BLOCK, (offset + length + BLOCK - 1) // BLOCK
    data = b"".join(node.content.get(block, ZERO) for block in range(first, last))
    return data[offset - first * BLOCK :][:length]
