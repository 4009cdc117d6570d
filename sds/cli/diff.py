"""`sds diff`: what changed since a snapshot, or between two. Of a volume ranges of bytes, of a filesystem paths.

  CD1  Snapshots are held while they are compared. The present state is that of a checkpoint made for it; the dataset
       goes on meanwhile, so its tree may be swept away under us: then the comparison starts over with a newer one.
  CD2  Paths are printed one in a line whatever their bytes are: what is no printable UTF-8, and \\, is \\ooo (octal).
       In JSON such bytes are the lone surrogates of os.fsdecode.
"""

import os
from argparse import Namespace
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from sds.cli.output import print_json, print_table, size
from sds.cli.session import environment, holder, home_of, open_named, run
from sds.core.errors import BadInput, Corrupt, Missing
from sds.core.names import Target, parse_snapshot
from sds.daemon.operate import operate
from sds.daemon.worker import finished_snapshot
from sds.dataset.diff import changed_ranges
from sds.dataset.nodes import Nodes, expect_root
from sds.filesystem.diff import Change, changed_paths
from sds.filesystem.snapshot_tree import view_of
from sds.log.reader import FrameReader
from sds.pool.lease import Holder
from sds.pool.pool import Pool
from sds.pool.rows import DatasetRow, SnapshotRow
from sds.volume.reading import INODE

TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class State:
    root: int
    mapped_blocks: int
    size_bytes: int


Compare = Callable[[Pool, State, State], Coroutine[Any, Any, list[Any]]]


def show(arguments: Namespace) -> None:
    first = parse_snapshot(arguments.target)
    kind, found = run(_diff, arguments, first, _second(first, arguments.other))
    if kind == "fs":
        _show_paths(found, arguments.json)
    else:
        _show_ranges(found, arguments.json)


async def _diff(arguments: Namespace, first: Target, second: Target | None) -> tuple[str, list[Any]]:
    async with open_named(home_of(arguments), first.pool) as pool:
        me = holder(f"diff {first}")
        row = pool.catalog.dataset(first.dataset)
        compare = _paths if row.kind == "fs" else _ranges
        with ExitStack() as holds:
            old = await _snapshot(pool, row, first, me, holds)
            if second is not None:
                return row.kind, await compare(pool, old, await _snapshot(pool, row, second, me, holds))
            return row.kind, await _with_present(pool, row, old, me, compare)


def _second(first: Target, text: str | None) -> Target | None:
    """None: the present state."""
    if text is None or text == f"{first.pool}/{first.dataset}":
        return None
    second = parse_snapshot(text)
    if (second.pool, second.dataset) != (first.pool, first.dataset):
        raise BadInput(f"{first} and {second} are of different datasets: compare snapshots of one")
    return second


async def _snapshot(pool: Pool, row: DatasetRow, target: Target, me: Holder, holds: ExitStack) -> State:
    found: SnapshotRow = await finished_snapshot(pool, row, target.snapshot or "", environment(), me)
    holds.enter_context(pool.hold_snapshot(row, found, me, shared=True))
    pool.catalog.snapshot(row.id, found.name)  # not destroyed before we had hold of it
    return State(expect_root(found.root, str(target)), found.mapped_blocks, found.size_bytes)


async def _with_present(pool: Pool, row: DatasetRow, old: State, me: Holder, compare: Compare) -> list[Any]:
    """CD1."""
    for attempt in range(TRIES):
        await operate(pool, row, environment(), me, "checkpoint")
        head = pool.catalog.dataset_by_id(row.id)
        ref = head.checkpoint
        new = State(ref.root, ref.mapped_blocks, head.size_bytes) if ref is not None else State(0, 0, head.size_bytes)
        try:
            return await compare(pool, old, new)
        except (Missing, Corrupt):
            if attempt == TRIES - 1:
                raise
    raise AssertionError("not reached")


async def _ranges(pool: Pool, old: State, new: State) -> list[tuple[int, int]]:
    reader = FrameReader(pool, environment(), {})
    try:
        nodes = Nodes(reader, None)
        return await changed_ranges(nodes, old.root, new.root, INODE, max(old.size_bytes, new.size_bytes))
    finally:
        reader.close()


async def _paths(pool: Pool, old: State, new: State) -> list[Change]:
    env = environment()
    with view_of(pool, env, old.root, old.mapped_blocks) as a, view_of(pool, env, new.root, new.mapped_blocks) as b:
        return await changed_paths(a, b)


def _show_ranges(ranges: list[tuple[int, int]], as_json: bool) -> None:
    if as_json:
        print_json([{"offset": offset, "length": length} for offset, length in ranges])
        return
    rows = [[str(offset), str(length), size(length)] for offset, length in ranges]
    print_table([">OFFSET", ">LENGTH", ">SIZE"], rows)


def _show_paths(changes: list[Change], as_json: bool) -> None:
    if as_json:
        print_json([_as_json(change) for change in changes])
        return
    for change in changes:
        moved = f" -> {escaped(change.new_path)}" if change.new_path is not None else ""
        print(f"{change.kind}\t{escaped(change.path)}{moved}")


def _as_json(change: Change) -> dict[str, str]:
    found = {"kind": change.kind, "path": os.fsdecode(change.path)}
    return found if change.new_path is None else found | {"new_path": os.fsdecode(change.new_path)}


def escaped(path: bytes) -> str:
    """CD2."""
    text = path.decode(errors="surrogateescape")
    return "".join(char if char.isprintable() and char != "\\" else _octal(char) for char in text)


def _octal(char: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in char.encode(errors="surrogateescape"))
