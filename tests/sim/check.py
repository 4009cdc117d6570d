"""Checks of a world after a crash: recovery against the oracle, and an fsck that believes nothing.

  CK1  `recover` opens every volume, compares it and its snapshots with what is expected (OR2, OR3), closes it.
  CK2  `fsck` reads the closed world without the engine's caches: every address in every tree leads to a valid frame of
       that very block, on every copy; counts are right; rows have files.
"""

from array import array

from sds.core.address import BLOCKS_PER_FRAME, offset_of, segment_of
from sds.core.errors import Missing
from sds.core.frame import DATA, decode_header, frame_is_valid, pool_key
from sds.core.keys import MAP, split_key
from sds.core.names import SEGMENT_PREFIX, segment_name
from sds.core.page import PAGE_BLOCKS, decode_value
from sds.dataset import tree
from sds.dataset.blockmap import INODE_SHIFT, PAGE_SHIFT, BlockMap
from sds.dataset.dataset import Settings
from sds.dataset.layer import Layers
from sds.dataset.nodes import Nodes
from sds.log.reader import FrameReader
from sds.volume.volume import Volume
from tests.sim.oracle import BLOCK, State, VolumeModel
from tests.sim.workload import read_state
from tests.sim.world import QUIET, World

Expected = dict[str, VolumeModel]


async def recover(world: World, expected: Expected, settings: Settings = QUIET, orderly: bool = True) -> None:
    """CK1. The models in `expected` are rebased to what was found. `orderly`: with close and fsck afterwards."""
    names = {row.name for row in world.catalog.datasets()}
    assert names >= expected.keys(), f"lost: {expected.keys() - names}"
    assert names <= expected.keys(), f"came from nowhere: {names - expected.keys()}"
    for name, model in expected.items():
        async with world.open(name, settings) as dataset:
            found = await read_state(Volume(dataset))
            match_state(model, found)
            await match_snapshots(world, model, dataset.row.id)
            model.rebase(found, dataset.log.sequence)
    if orderly:
        await fsck(world)


def match_state(model: VolumeModel, found: State) -> None:
    """OR2."""
    assert any(found == state for _, state in model.allowed()), explain(model, found)


def explain(model: VolumeModel, found: State) -> str:
    lines = [f"{model.name}: no state from {model.acknowledged} on is this one; size {found.size_bytes}"]
    for sequence, state in model.states:
        both = state.blocks.keys() | found.blocks.keys()
        wrong = sorted(block for block in both if state.blocks.get(block) != found.blocks.get(block))
        lines.append(f"  state {sequence}: size {state.size_bytes}, differs in blocks {wrong[:20]}")
    return "\n".join(lines)


async def match_snapshots(world: World, model: VolumeModel, dataset_id: int) -> None:
    """OR3. All roots are there once the volume is open."""
    rows = {row.name: row for row in world.catalog.snapshots(dataset_id)}
    for name, snapshot in list(model.snapshots.items()):
        row = rows.pop(name, None)
        if row is None:
            assert snapshot.destroying or not snapshot.acknowledged, f"snapshot {name} is lost"
            del model.snapshots[name]
            continue
        assert row.root is not None, f"snapshot {name} has no root"
        found = await read_root(world, row.root, row.size_bytes)
        assert found == snapshot.state, f"snapshot {name} of {model.name} has other content"
        snapshot.acknowledged = True
        snapshot.destroying = False
    assert not rows, f"snapshots from nowhere: {sorted(rows)}"


async def read_root(world: World, root: int, size_bytes: int) -> State:
    """The content of a tree, block by block."""
    reader = FrameReader(world.pool(), world.env(), {})
    blocks = BlockMap(Nodes(reader, None), Layers(root), 0, 64)
    found = {}
    try:
        async for index in blocks.mapped_pages(1, 0, -(-size_bytes // (BLOCK * PAGE_BLOCKS))):
            page = await blocks.page(1 << INODE_SHIFT | index)
            for at, address in enumerate(page):
                if address:
                    data = bytes(await reader.blocks(address, 1))
                    if any(data):
                        found[(index << PAGE_SHIFT) + at] = data
    finally:
        reader.close()
    return State(size_bytes, found)


async def fsck(world: World, is_closed: bool = True) -> None:
    """CK2."""
    rows = {row.id: row for row in world.catalog.all_segments()}
    files: dict[int, dict[int, bytes]] = {}
    disks = {row.id: disk for row, disk in zip(world.catalog.backends(), world.disks, strict=True)}
    for row in rows.values():
        name = segment_name(row.dataset, row.id, row.epoch)
        copies = {copy: disks[copy].peek(name) for copy in row.copies}
        assert copies, f"segment {row.id} has no copies"
        assert None not in copies.values(), f"segment {row.id} has a row and no file"
        files[row.id] = {copy: data for copy, data in copies.items() if data is not None}
        if is_closed:
            assert row.sealed, f"segment {row.id} is not sealed in a world where all is closed"
            assert all(len(data) == row.size_bytes for data in files[row.id].values()), f"size of segment {row.id}"
    reader = FrameReader(world.pool(), world.env(), {})
    nodes = Nodes(reader, None)
    try:
        for dataset in world.catalog.datasets():
            ref = dataset.checkpoint
            if ref is not None:
                count = await check_tree(nodes, ref.root, files, dataset.kind)
                assert count == ref.mapped_blocks, f"{dataset.name}: mapped_blocks"
            for snapshot in world.catalog.snapshots(dataset.id):
                if snapshot.root is not None:
                    count = await check_tree(nodes, snapshot.root, files, dataset.kind)
                    assert count == snapshot.mapped_blocks, f"{dataset.name}@{snapshot.name}: mapped_blocks"
    finally:
        reader.close()


async def check_tree(nodes: Nodes, root: int, files: dict[int, dict[int, bytes]], dataset_kind: str) -> int:
    """The number of mapped blocks of a tree all of whose addresses lead somewhere."""
    mapped = 0
    async for _, node in tree.walk(nodes, root, set()):
        if node.level:
            continue
        for name, value in zip(node.keys, node.values, strict=True):
            inode, kind, suffix = split_key(name)
            if kind != MAP:
                assert dataset_kind == "fs"
                continue
            found = decode_value(value)
            page = found if isinstance(found, array) else await nodes.read_page(found)
            first = int.from_bytes(suffix, "big") << PAGE_SHIFT
            for at, address in enumerate(page):
                if address:
                    mapped += 1
                    check_block(files, address, inode, first + at)
    return mapped


def check_block(files: dict[int, dict[int, bytes]], address: int, inode: int, block: int) -> None:
    segment, offset = segment_of(address), offset_of(address)
    if segment not in files:
        raise Missing(f"block {block} is in segment {segment}, which is not in the catalog")
    for copy, data in files[segment].items():
        where = f"block {block}: segment {segment} at {offset} on backend {copy}"
        header = decode_header(data, offset)
        assert header is not None, f"{where}: no frame"
        key = pool_key(bytes(range(100, 116)))
        assert frame_is_valid(memoryview(data), offset, header, address & -BLOCKS_PER_FRAME, key), f"{where}: bad frame"
        expected = (DATA, inode, block - (address & BLOCKS_PER_FRAME - 1))
        assert (header.kind, header.inode, header.first_block) == expected, f"{where}: of another block"


def orphans(world: World) -> list[str]:
    """Files without a row: garbage that a crash left."""
    names = {segment_name(row.dataset, row.id, row.epoch) for row in world.catalog.all_segments()}
    there = [(disk.url, name) for disk in world.disks for name in disk._names if name.startswith(SEGMENT_PREFIX)]
    return [f"{url}/{name}" for url, name in there if name not in names]
