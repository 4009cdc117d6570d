"""Checks of pools with stores and copies, after a crash or an import.

  SCK1  `recover` as in check.py, for what store_oracle.py expects.
  SCK2  `verify` reads every copy of every sealed file wholly and believes nothing; closed worlds have no open ones.
  SCK3  `missing_files`: what a row of the catalog names is on one backend at least, wholly. At every event.
"""

from sds.core.names import SEGMENT_PREFIX
from sds.maintenance.moving import check
from sds.pool.files import StoredFile, file_name, files_of
from sds.volume.volume import Volume
from tests.sim.check import match_state, read_root
from tests.sim.oracle import VolumeModel
from tests.sim.store_oracle import LongHistory
from tests.sim.store_workload import open_as_worker
from tests.sim.store_world import StoreWorld
from tests.sim.workload import read_state
from tests.sim.world import QUIET

Expected = dict[str, VolumeModel]


async def recover(world: StoreWorld, expected: Expected, orderly: bool = True) -> None:
    """SCK1. The models in `expected` are rebased to what was found; what is gone by right is left out."""
    names = {row.name for row in world.catalog.datasets()}
    assert names <= expected.keys(), f"came from nowhere: {names - expected.keys()}"
    for name in sorted(expected.keys() - names):
        model = expected.pop(name)
        assert isinstance(model, LongHistory) and model.lost and model.is_clone, f"lost: {name}"
    for name, model in expected.items():
        known = {row.name: row.sequence for row in world.catalog.snapshots(world.catalog.dataset(name).id)}
        async with open_as_worker(world, world.catalog.dataset(name), QUIET) as (dataset, _):
            found = await read_state(Volume(dataset))
            match_state(model, found)
            await match_snapshots(world, model, dataset.row.id, known)
            model.rebase(found, dataset.log.sequence)
    if orderly:
        await verify(world)


async def match_snapshots(world: StoreWorld, model: VolumeModel, dataset_id: int, known: dict[str, int]) -> None:
    """OR3, SO2. `known`: snapshots before the recovery."""
    assert isinstance(model, LongHistory)
    rows = {row.name: row for row in world.catalog.snapshots(dataset_id)}
    for name, snapshot in list(model.snapshots.items()):
        row = rows.pop(name, None)
        if row is None:
            gone = model.lost and (name not in known or known[name] > model.acknowledged)
            assert gone or snapshot.destroying or not snapshot.acknowledged, f"snapshot {name} is lost"
            model.destroyed[name] = model.snapshots.pop(name)
            continue
        assert row.root is not None, f"snapshot {name} has no root"
        found = await read_root(world, row.root, row.size_bytes)
        assert found == snapshot.state, f"snapshot {name} of {model.name} has other content"
        snapshot.acknowledged = True
        snapshot.destroying = False
    for name, row in rows.items():
        assert model.lost and name in model.destroyed, f"snapshot {name} came from nowhere"
        snapshot = model.snapshots[name] = model.destroyed.pop(name)
        assert row.root is not None and await read_root(world, row.root, row.size_bytes) == snapshot.state
        snapshot.acknowledged, snapshot.destroying = True, False


async def verify(world: StoreWorld, is_closed: bool = True, imported: bool = False) -> None:
    """SCK2. `imported`: the end of a log may be in a larger file, for an import takes torn files for sealed ones."""
    rows = world.catalog.all_segments()
    for row in rows:
        assert row.sealed or not is_closed, f"segment {row.id:#x} is not sealed in a world where all is closed"
    urls = {row.id: row.url for row in world.catalog.backends()}
    for file in files_of(rows):
        reached = [copy for copy in file.copies if urls[copy] not in world.lost]
        for copy in reached:
            data = world.peek(copy, file.name)
            assert data is not None, f"{file.name} has a row and no file on {urls[copy]}"
            if imported and not file.pack:
                data = data[: file.size_bytes]
            problem = problem_with(world, file, data)
            assert not problem, f"{file.name} on {urls[copy]}: {problem}"


def problem_with(world: StoreWorld, file: StoredFile, data: bytes) -> str:
    if len(data) != file.size_bytes:
        return f"it has {len(data)} bytes, its rows {file.size_bytes}"
    return check(file, memoryview(bytearray(data)), world.catalog.pool().uuid)


def missing_files(world: StoreWorld) -> list[str]:
    """SCK3."""
    wrong = []
    for file in files_of(world.catalog.all_segments()):
        sizes = [len(data) for copy in file.copies if (data := world.peek(copy, file.name)) is not None]
        if file.size_bytes not in sizes:
            wrong.append(f"{file.name}: {file.size_bytes} bytes by its row, there are {sizes}")
    return wrong


def garbage(world: StoreWorld) -> list[str]:
    """Files without a row."""
    names = {file_name(row) for row in world.catalog.all_segments()}
    there = [(disk.url, name) for disk in world.disks for name in disk._names]
    there += [(store.url, name) for store in world.stores for name in store.objects.names()]
    wanted = (SEGMENT_PREFIX, "packs/")
    return [f"{url}/{name}" for url, name in there if name.startswith(wanted) and name not in names]
