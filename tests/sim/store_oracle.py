"""What a volume may be when machine, journal and catalog are lost: OR1 to OR3 of oracle.py, and

  SO1  A prefix, as always: one of its states, wholly. Not older than the last flush (flush=backend, or its disks are
       there still), else than the last checkpoint that the catalog called uploaded when it happened.
  SO2  What an import knows of snapshots and clones is as old as the newest backup of the catalog. Of those that it
       knows, it keeps all that are not newer than that state; and those that it keeps are exact.
"""

from dataclasses import dataclass, field, replace

from tests.sim.oracle import History, SnapshotModel, State


@dataclass(slots=True)
class LongHistory(History[State]):
    """Remembers what was before a recovery: an import may go back behind it."""

    settles: bool = False
    """flush=backend."""
    lost: bool = False
    """It was the machine that was lost (SO2)."""
    is_clone: bool = False
    destroyed: dict[str, SnapshotModel[State]] = field(default_factory=dict)
    """An import may bring them back."""

    def rebase(self, state: State, sequence: int) -> None:
        at = max(i for i, (_, old) in enumerate(self.states) if old == state)
        self.states = [*self.states[: at + 1], (sequence, state)]
        self.promised = self.acknowledged = sequence
        self.lost = False

    def after_crash(self, power_cut: bool) -> "LongHistory":
        floor = self.promised if power_cut else self.acknowledged
        return self._left(floor, False)

    def after_loss(self, uploaded: int, with_disks: bool) -> "LongHistory":
        """SO1."""
        safe = self.settles or not with_disks
        return self._left(self.promised if safe else min(uploaded, self.promised), True)

    def _left(self, floor: int, lost: bool) -> "LongHistory":
        copies = {name: replace(snapshot) for name, snapshot in self.snapshots.items()}
        promised = min(floor, self.promised)
        return LongHistory(
            self.name, list(self.states), promised, floor, copies, self.settles, lost or self.lost, self.is_clone,
            dict(self.destroyed),
        )  # fmt: skip
