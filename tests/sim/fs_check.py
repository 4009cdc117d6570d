"""Checks of filesystems after a crash: recovery against the oracle.

  FC1  Before anything is opened but the dataset, its items and blocks are exactly one of the states (OR2): nothing of
       an operation without the rest of it, nothing that the log does not say.
  FC2  Then the filesystem is opened: the tree is that state's, less the inodes without names; every one who looks sees
       it, and the internal check finds nothing.
  FC3  A snapshot is exactly what it was when its record was appended (OR3), and a sound tree.
"""

from sds.dataset.blockmap import BlockMap
from sds.dataset.dataset import Settings
from sds.dataset.items import Items
from sds.dataset.layer import Layers
from sds.dataset.nodes import Nodes
from sds.filesystem.check import check_tree
from sds.filesystem.view import FilesystemView
from sds.log.reader import FrameReader
from sds.pool.rows import SnapshotRow
from tests.sim.check import fsck
from tests.sim.fs_model import reap
from tests.sim.fs_oracle import Clock, FsHistory
from tests.sim.fs_state import Moment, Raw, difference, read_raw, tree_of
from tests.sim.fs_view import match_view
from tests.sim.fs_workload import SETTINGS, FsScript, open_actor
from tests.sim.world import World

FsExpected = dict[str, FsHistory]


async def recover_fs(
    world: World, expected: FsExpected, settings: Settings = SETTINGS, orderly: bool = True, clock: Clock | None = None
) -> None:
    """FC1 to FC3. The histories in `expected` are rebased to what was found. `orderly`: with fsck afterwards."""
    names = {row.name for row in world.catalog.datasets()}
    assert names == expected.keys(), f"lost or from nowhere: {names ^ expected.keys()}"
    script = FsScript(world, expected, clock=clock or Clock())
    for name, history in expected.items():
        async with world.open(name, settings) as dataset:
            found = match_raw(history, await read_raw(dataset.items, dataset.map, dataset.reader))
            await match_snapshots(world, history, dataset.row.id)
            history.rebase(found, dataset.log.sequence)
            actor = await open_actor(script, dataset)
            if found.tree.nodes:
                assert actor.tree == reap(found.tree, found.tree.orphans)
            await actor.check()
    if orderly:
        await fsck(world)


def match_raw(history: FsHistory, found: Raw) -> Moment:
    """FC1."""
    for _, state in reversed(history.allowed()):
        if state.raw == found:
            return state
    raise AssertionError(explain(history, found))


def explain(history: FsHistory, found: Raw) -> str:
    lines = [f"{history.name}: no state from {history.acknowledged} on is this one"]
    tree = tree_of(found)
    for sequence, state in history.states[-5:]:
        blocks = sorted(
            at for at in state.raw.blocks.keys() | found.blocks.keys()
            if state.raw.blocks.get(at) != found.blocks.get(at)
        )  # fmt: skip
        keys = sorted(
            key for key in state.raw.items.keys() | found.items.keys()
            if state.raw.items.get(key) != found.items.get(key)
        )  # fmt: skip
        lines += [f"state {sequence}: blocks {blocks[:8]}, items {keys[:8]}", difference(state.tree, tree)]
    return "\n".join(lines)


async def match_snapshots(world: World, history: FsHistory, dataset_id: int) -> None:
    """FC3. All roots are there once the dataset is open."""
    rows = {row.name: row for row in world.catalog.snapshots(dataset_id)}
    for name, snapshot in list(history.snapshots.items()):
        row = rows.pop(name, None)
        if row is None:
            assert snapshot.destroying or not snapshot.acknowledged, f"snapshot {name} is lost"
            del history.snapshots[name]
            continue
        await match_snapshot(world, row, snapshot.state)
        snapshot.acknowledged = True
        snapshot.destroying = False
    assert not rows, f"snapshots from nowhere: {sorted(rows)}"


async def match_snapshot(world: World, row: SnapshotRow, state: Moment) -> None:
    assert row.root is not None, f"snapshot {row.name} has no root"
    reader = FrameReader(world.pool(), world.env(), {})
    nodes, layers = Nodes(reader, None), Layers(row.root)
    blocks, items = BlockMap(nodes, layers, row.mapped_blocks, 64), Items(nodes, layers)
    try:
        raw = await read_raw(items, blocks, reader)
        assert raw == state.raw, f"snapshot {row.name}\n{difference(state.tree, tree_of(raw))}"
        if state.tree.nodes:
            view = FilesystemView(items, blocks, reader)
            await match_view(view, state.tree)
            problems = await check_tree(view, reads_tails=True)
            assert not problems, "\n".join(problems)
    finally:
        reader.close()
