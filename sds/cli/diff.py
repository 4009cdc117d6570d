"""`sds diff`: what changed since a snapshot, or between two."""

from argparse import Namespace

from sds.cli.output import print_json, print_table, size
from sds.cli.session import environment, holder, home_of, open_named, run
from sds.core.errors import BadInput
from sds.core.names import Target, parse_snapshot
from sds.daemon.operate import operate
from sds.daemon.worker import finished_snapshot
from sds.dataset.diff import changed_ranges
from sds.dataset.nodes import Nodes, expect_root
from sds.log.reader import FrameReader
from sds.pool.pool import Pool
from sds.pool.rows import SnapshotRow
from sds.volume.reading import INODE


def show(arguments: Namespace) -> None:
    ranges = run(_diff, arguments)
    if arguments.json:
        print_json([{"offset": offset, "length": length} for offset, length in ranges])
        return
    rows = [[str(offset), str(length), size(length)] for offset, length in ranges]
    print_table([">OFFSET", ">LENGTH", ">SIZE"], rows)


async def _diff(arguments: Namespace) -> list[tuple[int, int]]:
    first = parse_snapshot(arguments.target)
    second = _second(first, arguments.other)
    async with open_named(home_of(arguments), first.pool) as pool:
        env, me = environment(), holder(f"diff {first}")
        row = pool.catalog.dataset(first.dataset)
        old = await finished_snapshot(pool, row, first.snapshot or "", env, me)
        with pool.hold_snapshot(row, old, me, shared=True):
            if second is None:
                await operate(pool, row, env, me, "checkpoint")
                head = pool.catalog.dataset(first.dataset)
                root = head.checkpoint.root if head.checkpoint is not None else 0
                return await _ranges(pool, old, root, head.size_bytes)
            new = await finished_snapshot(pool, row, second.snapshot or "", env, me)
            with pool.hold_snapshot(row, new, me, shared=True):
                return await _ranges(pool, old, expect_root(new.root, str(second)), new.size_bytes)


def _second(first: Target, text: str | None) -> Target | None:
    """None: the present state."""
    if text is None or text == f"{first.pool}/{first.dataset}":
        return None
    second = parse_snapshot(text)
    if (second.pool, second.dataset) != (first.pool, first.dataset):
        raise BadInput(f"{first} and {second} are of different datasets: compare snapshots of one")
    return second


async def _ranges(pool: Pool, old: SnapshotRow, root: int, size_bytes: int) -> list[tuple[int, int]]:
    reader = FrameReader(pool, environment(), {})
    try:
        nodes = Nodes(reader, None)
        old_root = expect_root(old.root, f"snapshot @{old.name}")
        return await changed_ranges(nodes, old_root, root, INODE, max(old.size_bytes, size_bytes))
    finally:
        reader.close()
