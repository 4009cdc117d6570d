"""Which files the cleaner rewrites next. Pure.

  VI1  The unit is a whole file: a segment as it was written, or a pack with all its members. All live frames of the
       victims go into one new pack and then the files are deleted. So no file keeps dead bytes of members that left it,
       and size, live part and age are numbers of files. (bench.cleaning_policy has the figures.)
  VI2  The score of a file is (1 - u) * min(age, cap); u: live part of its present size. The cap is CAP_PART of the live
       bytes: without it old and nearly full files of cold data win over younger ones that are half empty.
  VI3  The victims of one batch fit into one pack, as far as the estimates are right; the one who packs them leaves
       victims out, from the end of the list, if there is more alive than was thought.
  VI4  A batch gives room back; or it makes one file of at least SMALL_FILES small ones that fill most of a pack,
       whatever they have of garbage: object stores charge by the file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

CAP_PART: Final = 0.2
SMALL_PART: Final = 0.125
"""A file is small below this part of a full pack."""
SMALL_FILES: Final = 8
FULL_PART: Final = 0.9
"""So much of a pack has to be filled before small files without garbage are packed."""
USED_MAX: Final = 0.97
"""Files with a larger live part are no victims: to rewrite them gives next to nothing."""
FRAME_BYTES: Final = 4096 + 64
"""Of one block stored plain: the sizes of tables are estimated by it."""
PACK_BYTES: Final = 128 + 64 + 4096
"""Head, trailer and rounding up of a pack."""
MEMBER_BYTES: Final = 64 + 64 + 16
"""Table without entries, rounded up, and its place in the index."""


@dataclass(frozen=True, slots=True)
class FileUse:
    """What is known of a file of sealed segments, one copy of it."""

    name: str
    size_bytes: int
    live_bytes: int
    """Estimate: frames, with their headers, that are still referred to."""
    age_bytes: int
    """What the family has written since this file was: user data, not the cleaner's."""
    members: int = 1
    """Segments in it."""

    @property
    def used_part(self) -> float:
        return min(1.0, self.live_bytes / self.size_bytes)

    @property
    def needed_bytes(self) -> int:
        """What it will take of a pack."""
        return self.live_bytes + 12 * (self.live_bytes // FRAME_BYTES + 1) + MEMBER_BYTES * self.members


@dataclass(frozen=True, slots=True)
class Goal:
    pack_bytes: int
    """Size of the largest pack: the pool's segment size."""
    cap_bytes: int
    """Ages above this count as this (VI2): `cap_bytes(live bytes of the family)`."""


@dataclass(frozen=True, slots=True)
class Room:
    """Of a pool, or a family in it; all copies or one, but all four the same."""

    stored_bytes: int
    live_bytes: int
    free_bytes: int
    total_bytes: int

    @property
    def garbage_part(self) -> float:
        return max(0.0, 1 - self.live_bytes / self.stored_bytes) if self.stored_bytes else 0.0

    @property
    def free_part(self) -> float:
        return self.free_bytes / self.total_bytes if self.total_bytes else 0.0


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Cleaning begins at one of the `start` values and goes on until both `stop` values are reached."""

    garbage_start: float = 0.30
    """Part of the stored bytes that is garbage."""
    garbage_stop: float = 0.25
    free_start: float = 0.02
    """Part of the room that is free for users. Counts only while there is garbage worth the work. Late is cheap: what
    is kept free cannot be garbage that dies by itself meanwhile."""
    free_stop: float = 0.03
    garbage_least: float = 0.02
    """With less garbage than this, lack of room is not the cleaner's to cure."""


Score = Callable[[FileUse], float]


def cap_bytes(live_bytes: int) -> int:
    """VI2, for a family with so many live bytes."""
    return max(1, int(live_bytes * CAP_PART))


def is_due(room: Room, thresholds: Thresholds, is_running: bool) -> bool:
    """Should the cleaner go on (if it is running) or begin?"""
    if room.garbage_part < thresholds.garbage_least:
        return False
    if is_running:
        return room.garbage_part > thresholds.garbage_stop or room.free_part < thresholds.free_stop
    return room.garbage_part >= thresholds.garbage_start or room.free_part <= thresholds.free_start


def choose(files: Sequence[FileUse], goal: Goal) -> list[FileUse]:
    """The victims of the next batch, the best first; [] if no batch gives room back."""
    return choose_by(files, goal, lambda file: (1 - file.used_part) * min(file.age_bytes, goal.cap_bytes))


def choose_by(files: Sequence[FileUse], goal: Goal, score: Score) -> list[FileUse]:
    """As choose, with another score."""
    candidates = [file for file in files if file.used_part <= USED_MAX or _is_small(file, goal)]
    batch = _fill(sorted(candidates, key=score, reverse=True), goal)
    return batch if gain_bytes(batch) > 0 else []


def choose_small(files: Sequence[FileUse], goal: Goal) -> list[FileUse]:
    """Small files that make a full pack (VI4), the oldest first, so that what was written together stays together."""
    small = [file for file in files if _is_small(file, goal)]
    batch = _fill(sorted(small, key=lambda file: -file.age_bytes), goal)
    is_full = sum(file.needed_bytes for file in batch) >= FULL_PART * (goal.pack_bytes - PACK_BYTES)
    return batch if is_full and len(batch) >= SMALL_FILES else []


def gain_bytes(batch: Sequence[FileUse]) -> int:
    """What a batch gives back: the files, less the pack with what is alive in them."""
    needed = sum(file.needed_bytes for file in batch if file.live_bytes)
    return sum(file.size_bytes for file in batch) - (needed + PACK_BYTES if needed else 0)


def _is_small(file: FileUse, goal: Goal) -> bool:
    return file.size_bytes < SMALL_PART * goal.pack_bytes


def _fill(ordered: Sequence[FileUse], goal: Goal) -> list[FileUse]:
    """As many as fit, in this order (VI3); a file without anything alive takes no room."""
    room = goal.pack_bytes - PACK_BYTES
    batch = []
    for file in ordered:
        needed = file.needed_bytes if file.live_bytes else 0
        if needed > room:
            break
        room -= needed
        batch.append(file)
    return batch
