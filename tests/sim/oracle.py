"""What a pool must hold: for every volume (filesystem) the states it went through, in the order of its log.

  OR1  An operation counts from the moment its last frame is in the log (sds.dataset D2); a `Tap` on the log tells the
       model when, and which part of the operation it was.
  OR2  After a crash a volume equals one of its states, the whole state, no earlier than the floor: the last operation
       that was promised durable (power cut), or the last that was acknowledged (kill -9).
  OR3  A snapshot holds what the volume held when its record was appended. If it was acknowledged it is there, unless
       somebody has begun to destroy it; if it was never begun it is not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import trio

from sds.core.frame import DATA, MORE, TXN
from sds.core.txn import Resize, Rollback, Snapshot, Unmap, decode_txn
from sds.dataset.dataset import Dataset

BLOCK = 4096
ZERO = bytes(BLOCK)
S = TypeVar("S")
"""A state: of a volume, or of a filesystem."""


@dataclass(frozen=True, slots=True)
class State:
    """Never changed in place. Blocks that are zeros are left out."""

    size_bytes: int
    blocks: dict[int, bytes] = field(default_factory=dict)

    def written(self, offset: int, data: bytes, first: int, count: int) -> "State":
        """The part of a write that lies in blocks first .. first+count."""
        assert (first + count) * BLOCK <= -(-self.size_bytes // BLOCK) * BLOCK, "writes beyond the end of the volume"
        blocks = dict(self.blocks)
        for block in range(first, first + count):
            start, end = max(offset, block * BLOCK), min(offset + len(data), (block + 1) * BLOCK)
            assert start < end, f"block {block} is none of write {offset}+{len(data)}"
            old = blocks.get(block, ZERO)
            at = start - block * BLOCK
            new = old[:at] + data[start - offset : end - offset] + old[at + end - start :]
            blocks[block] = new
            if new == ZERO:
                del blocks[block]
        return replace(self, blocks=blocks)

    def unmapped(self, first: int, count: int) -> "State":
        return replace(self, blocks={b: d for b, d in self.blocks.items() if not first <= b < first + count})

    def resized(self, size_bytes: int) -> "State":
        limit = -(-size_bytes // BLOCK)
        return State(size_bytes, {b: d for b, d in self.blocks.items() if b < limit})


@dataclass(slots=True)
class SnapshotModel(Generic[S]):
    state: S
    sequence: int
    acknowledged: bool = False
    destroying: bool = False


@dataclass(slots=True)
class Intent:
    """An operation under way: what it may do to the volume."""

    offset: int = 0
    data: bytes = b""
    snapshot: str = ""
    """Name: of the snapshot made, or rolled back to."""
    last_sequence: int = 0
    piece: int = -1
    """First block of the atomic group of frames that is being appended."""


@dataclass(slots=True)
class History(Generic[S]):
    """The states of a dataset."""

    name: str
    states: list[tuple[int, S]]
    """(sequence number of the last frame, state), oldest first."""
    promised: int = 0
    acknowledged: int = 0
    snapshots: dict[str, SnapshotModel[S]] = field(default_factory=dict)

    @classmethod
    def new(cls, name: str, state: S) -> "History[S]":
        return cls(name, [(0, state)])

    @property
    def now(self) -> S:
        return self.states[-1][1]

    def rebase(self, state: S, sequence: int) -> None:
        """After a recovery that was checked: history begins anew."""
        self.states = [(sequence, state)]
        self.promised = self.acknowledged = sequence

    def promise(self, sequence: int) -> None:
        self.promised = max(self.promised, sequence)
        self.acknowledged = max(self.acknowledged, sequence)

    def after_crash(self, power_cut: bool) -> "History[S]":
        """What is left to expect (OR2); independent of this model. A kill may still be followed by a power cut."""
        copies = {name: replace(snapshot) for name, snapshot in self.snapshots.items()}
        floor = self.promised if power_cut else self.acknowledged
        return History(self.name, self.states[self._at(self.promised) :], self.promised, floor, copies)

    def allowed(self) -> list[tuple[int, S]]:
        """OR2: what the dataset may be after the crash."""
        return self.states[self._at(self.acknowledged) :]

    def _at(self, floor: int) -> int:
        return max((i for i, (sequence, _) in enumerate(self.states) if sequence <= floor), default=0)


VolumeModel = History[State]


class Tap:
    """Listens to what is appended to a log, and applies it to the model."""

    def __init__(self, dataset: Dataset, model: VolumeModel) -> None:
        self._dataset = dataset
        self._model = model
        self._append = dataset.log.append
        self._intents: dict[trio.lowlevel.Task, Intent] = {}
        dataset.log.append = self._tapped  # type: ignore[method-assign]

    @contextmanager
    def intent(self, intent: Intent) -> Iterator[Intent]:
        task = trio.lowlevel.current_task()
        self._intents[task] = intent
        try:
            yield intent
        finally:
            del self._intents[task]
        self._model.acknowledged = max(self._model.acknowledged, intent.last_sequence)

    def _tapped(
        self, kind: int, codec: int, flags: int, blocks: int, payload: Any, raw_bytes: int,
        inode: int = 0, first_block: int = 0, metadata: bool = True,
    ) -> int:  # fmt: skip
        address = self._append(kind, codec, flags, blocks, payload, raw_bytes, inode, first_block, metadata)
        if address and kind in (DATA, TXN):
            intent = self._intents[trio.lowlevel.current_task()]
            sequence = self._dataset.log.sequence
            if kind == TXN:
                (operation,) = decode_txn(bytes(payload))
                self._change(intent, operation, sequence)
            else:
                intent.piece = first_block if intent.piece < 0 else intent.piece
                if not flags & MORE:
                    count = first_block + blocks - intent.piece
                    state = self._model.now.written(intent.offset, intent.data, intent.piece, count)
                    self._model.states.append((sequence, state))
                    intent.piece = -1
            intent.last_sequence = sequence
        return address

    def _change(self, intent: Intent, operation: object, sequence: int) -> None:
        model = self._model
        state = model.now
        match operation:
            case Unmap(_, first, count):
                assert intent.offset <= first * BLOCK, "unmaps more than it was asked to"
                assert (first + count) * BLOCK <= -(-(intent.offset + len(intent.data)) // BLOCK) * BLOCK
                state = state.unmapped(first, count)
            case Resize(size_bytes):
                state = state.resized(size_bytes)
            case Snapshot(_, name):
                model.snapshots.setdefault(name, SnapshotModel(state, sequence))  # a name that is taken is refused
            case Rollback():
                state = model.snapshots[intent.snapshot].state
            case _:
                raise AssertionError(operation)
        model.states.append((sequence, state))
