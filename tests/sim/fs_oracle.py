"""The states of a filesystem, recorded while it works, and each of them held against the model.

  FO1  An operation is what its log record says, from the moment when its last frame is appended: one state. Several of
       one operation are the pieces of a write, and an inline file that becomes blocks (nobody sees that).
  FO2  At that moment the tree has become what the model makes of the state before (sds.tests.sim.fs_model): so every
       operation is atomic, and together they are what they would be one after the other, in the order of the log.
  FO3  An operation that failed has changed nothing, and the model fails the same at the moment when it raised. Success
       without a record is an operation that changes nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from sds.core.frame import BLOCKS, DATA, MORE, TXN
from sds.core.keys import INLINE, split_key
from sds.core.txn import Delete, Operation, Rollback, Snapshot, decode_txn
from sds.dataset.dataset import Dataset
from sds.log.codec import decompress
from tests.sim.fs_model import Change, reap, touch
from tests.sim.fs_state import BLOCK, Moment, Tree, difference, stored_inodes, tree_of
from tests.sim.oracle import History, SnapshotModel

FsHistory = History[Moment]
NOTHING: Final[tuple[Change, ...]] = ()


class Clock:
    """Goes on with every look at it."""

    def __init__(self) -> None:
        self.now_ns = 1_000

    def __call__(self) -> int:
        self.now_ns += 1
        return self.now_ns


@dataclass(slots=True)
class FsIntent:
    """An operation under way."""

    name: str
    changes: tuple[Change, ...] = NOTHING
    """What its records do, in order."""
    next_inode: int = 0
    """Before a rollback: no number that was given out is given out again."""
    snapshot: str = ""
    """Made, or rolled back to."""
    reads: int = 0
    """An inode whose time of access may be set."""
    open_inodes: Callable[[], frozenset[int]] = frozenset
    """Which may not be deleted now."""
    done: int = 0
    """Records that somebody sees."""
    last_sequence: int = 0
    frames: list[tuple[int, int, bytes]] = field(default_factory=list)
    """(inode, first block, bytes) of the record that is being appended."""

    @property
    def next(self) -> Change | None:
        return self.changes[self.done] if self.done < len(self.changes) else None


class FsTap:
    """Listens to what is appended to the log of an open filesystem."""

    def __init__(self, dataset: Dataset, history: FsHistory, clock: Clock) -> None:
        self._dataset = dataset
        self._history = history
        self._clock = clock
        self._append = dataset.log.append
        self._intents: dict[trio.lowlevel.Task, FsIntent] = {}
        dataset.log.append = self._tapped  # type: ignore[method-assign]

    @contextmanager
    def intent(self, intent: FsIntent) -> Iterator[FsIntent]:
        task = trio.lowlevel.current_task()
        assert task not in self._intents
        self._intents[task] = intent
        try:
            yield intent
        finally:
            del self._intents[task]
        self._history.acknowledged = max(self._history.acknowledged, intent.last_sequence)

    def _tapped(
        self, kind: int, codec: int, flags: int, blocks: int, payload: Any, raw_bytes: int,
        inode: int = 0, first_block: int = 0, metadata: bool = True,
    ) -> int:  # fmt: skip
        address = self._append(kind, codec, flags, blocks, payload, raw_bytes, inode, first_block, metadata)
        if address and kind in (DATA, TXN):
            intent = self._intents[trio.lowlevel.current_task()]
            operations: list[Operation] = []
            if kind == TXN:
                operations = decode_txn(bytes(payload))
            else:
                data = payload if codec == BLOCKS else decompress(codec, payload, raw_bytes, "a frame")
                assert len(data) == blocks * BLOCK
                intent.frames.append((inode, first_block, bytes(data)))
            if not flags & MORE:
                self._record(intent, operations)
        return address

    def _record(self, intent: FsIntent, operations: list[Operation]) -> None:
        """FO1, FO2."""
        before = self._history.now
        intent.last_sequence = sequence = self._dataset.log.sequence
        raw = before.raw
        for inode, first, data in intent.frames:
            raw = raw.written(inode, first, data)
        intent.frames.clear()
        match operations:
            case [Snapshot(_, name)]:
                self._history.snapshots.setdefault(name, SnapshotModel(before, sequence))  # a taken name is refused
                after = before
            case [Rollback()]:
                after = self._history.snapshots[intent.snapshot].state
            case _:
                raw = raw.changed(operations)
                after = Moment(raw, tree_of(raw))
                expected = self._expected(intent, before.tree, after.tree, operations)
                assert after.tree == expected, f"{intent.name}: should be != is\n{difference(expected, after.tree)}"
                homeless = stored_inodes(raw) - after.tree.nodes.keys()
                assert not homeless, f"{intent.name}: something of {homeless} is left"
        self._history.states.append((sequence, after))

    def _expected(self, intent: FsIntent, before: Tree, after: Tree, operations: list[Operation]) -> Tree:
        gone = before.orphans - after.nodes.keys()
        if gone:
            still_open = gone & intent.open_inodes()
            assert not still_open, f"{intent.name}: {set(still_open)} are deleted, but open"
            return reap(before, gone)
        if _is_spill(operations) and after == before:
            return before
        if intent.reads:
            accessed_ns = after.nodes[intent.reads].atime_ns
            assert before.nodes[intent.reads].atime_ns < accessed_ns <= self._clock.now_ns
            return touch(intent.reads)(before, accessed_ns)
        if intent.snapshot and after.counters.next_inode > before.counters.next_inode:
            return before._replace(counters=before.counters._replace(next_inode=intent.next_inode))  # after a rollback
        change = intent.next
        assert change is not None, f"{intent.name} has more records than it may: {operations}"
        intent.done += 1
        expected = change(before, self._clock.now_ns)
        at_once = [inode for inode in expected.orphans - before.orphans if inode not in after.nodes]
        assert not intent.open_inodes().intersection(at_once), f"{intent.name}: {at_once} are deleted, but open"
        return reap(expected, at_once)


def _is_spill(operations: list[Operation]) -> bool:
    return any(isinstance(each, Delete) and split_key(each.key)[1] == INLINE for each in operations)
