"""`python -m bench policy`: what cleaning costs, simulated: which files to rewrite, and when.

The live frames of a volume take 80 % of a pool. It is filled once and then overwritten in blocks of 4 KiB for five
times its size. Segments of 32 MiB are scaled down, and with them what formats add per file; what they add per frame is
counted as it is: frames of 4096 + 64 bytes, 64 in SEAL tables, 12 in relocation tables.

unit `file`: the victims are whole files (as in sds.core.victims). unit `segment`: the victims are single segments; dead
space in a pack counts until its last member has left.
"""

import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from bench.report import save, table
from sds.core.victims import FileUse, Goal, Score, choose_by

BLOCK, FRAME, SEAL_ENTRY, TABLE_ENTRY = 4096, 4096 + 64, 64, 12
SEGMENT_BLOCKS = 128
USED = 0.8
ROUNDS, WARM_UP = 5, 2
RESERVE_SEGMENTS, STOP_SEGMENTS = 2, 3
"""Room below which cleaning begins, and where it ends: in a large pool next to nothing, so here as little as goes."""
SEGMENT_BYTES = SEGMENT_BLOCKS * (FRAME + SEAL_ENTRY)
SCALE = (32 << 20) / SEGMENT_BYTES
FILE_BYTES, MEMBER_BYTES = (128 + 64 + 2048) / SCALE, (64 + 32 + 16) / SCALE
"""Head, trailer, half a page; of each member of a pack: head of its table, alignment, place in the index."""
Scored = Callable[[int], Score]
"""Of the volume's bytes."""


def greedy(_: int) -> Score:
    return lambda file: 1 - file.used_part


def cost_benefit(_: int) -> Score:
    return lambda file: (1 - file.used_part) * file.age_bytes / (1 + file.used_part)


def capped(part: float) -> Scored:
    def scored(volume_bytes: int) -> Score:
        cap = part * volume_bytes
        return lambda file: (1 - file.used_part) * min(file.age_bytes, cap)

    return scored


POLICIES: dict[str, Scored] = {
    "greedy": greedy, "cost-benefit": cost_benefit, **{f"cap {p:.0%}": capped(p) for p in (0.1, 0.2, 0.3)},
}  # fmt: skip


class PoolFullError(Exception):
    """Nothing that can be chosen gives room back."""


@dataclass(slots=True)
class Unit:
    """What is chosen: a file, or a segment in it."""

    file: int
    size_bytes: int
    born_bytes: int
    blocks: list[int]
    live: int = 0


@dataclass(slots=True)
class Simulation:
    volume_blocks: int
    score: Score
    unit: str
    units: dict[int, Unit] = field(default_factory=dict)
    files: dict[int, tuple[int, set[int]]] = field(default_factory=dict)
    """Size, and the units that lie in it."""
    stored_bytes: int = 0
    written_bytes: int = 0
    user_bytes: int = 0
    moved_blocks: int = 0
    next_id: int = 1
    pool_bytes: int = 0
    place: "array[int]" = field(default_factory=lambda: array("l"))
    """Block -> unit; 0: nowhere."""
    origin: "array[int]" = field(default_factory=lambda: array("l"))
    """Block -> segment it was written in: what its address says."""

    def __post_init__(self) -> None:
        self.place = array("l", bytes(8 * self.volume_blocks))
        self.origin = array("l", bytes(8 * self.volume_blocks))
        self.pool_bytes = int(self.volume_blocks * FRAME / USED)

    def write(self, blocks: Sequence[int]) -> None:
        """One segment full."""
        while self.pool_bytes - self.stored_bytes < RESERVE_SEGMENTS * SEGMENT_BYTES:
            self._clean()
        size_bytes = SEGMENT_BYTES + int(FILE_BYTES)
        unit = self._add_file(size_bytes, [(size_bytes, list(dict.fromkeys(blocks)))], self.user_bytes)[0]
        for block in self.units[unit].blocks:
            self.origin[block] = unit
        self.user_bytes += len(blocks) * BLOCK

    def _add_file(self, size_bytes: int, parts: Sequence[tuple[int, list[int]]], born_bytes: int) -> list[int]:
        file = self.next_id
        ids = list(range(file, file + len(parts)))
        self.next_id += len(parts)
        self.files[file] = size_bytes, set(ids)
        self.stored_bytes += size_bytes
        self.written_bytes += size_bytes
        for id, (share, blocks) in zip(ids, parts, strict=True):
            self.units[id] = Unit(file, share, born_bytes, blocks, len(blocks))
            for block in blocks:
                before = self.place[block]
                if before:
                    self.units[before].live -= 1
                self.place[block] = id
        return ids

    def _clean(self) -> None:
        goal = Goal(SEGMENT_BYTES, 1)
        while self.pool_bytes - self.stored_bytes < STOP_SEGMENTS * SEGMENT_BYTES:
            uses = [
                FileUse(str(id), unit.size_bytes, unit.live * FRAME, self.user_bytes - unit.born_bytes)
                for id, unit in self.units.items()
            ]
            victims = [int(use.name) for use in choose_by(uses, goal, self.score)]
            if not victims:
                raise PoolFullError("pool full")
            self._repack(victims)

    def _repack(self, victims: Sequence[int]) -> None:
        live = [(id, [b for b in self.units[id].blocks if self.place[b] == id]) for id in victims]
        blocks = [block for _, some in live for block in some]
        members = len({self.origin[block] for block in blocks})
        size_bytes = int(len(blocks) * (FRAME + TABLE_ENTRY) + members * MEMBER_BYTES + FILE_BYTES)
        self.moved_blocks += len(blocks)
        if self.unit == "file":
            parts = [(size_bytes, blocks)]
        else:
            parts = [(size_bytes * len(some) // len(blocks), some) for _, some in live if some]
        if blocks:
            self._add_file(size_bytes, parts, self.user_bytes)
        for id in victims:
            file = self.units.pop(id).file
            size, units = self.files[file]
            units.remove(id)
            if not units:
                del self.files[file]
                self.stored_bytes -= size


@dataclass(frozen=True, slots=True)
class Result:
    blocks: float
    """Blocks written to the pool per block of the user; as the next, without the first WARM_UP rounds."""
    amplification: float
    """Bytes written to the pool per byte of the user, formats included."""
    files: int
    files_least: int
    """As many full ones would do."""
    used_part: float
    """Of the pool, at the end."""


def simulate(volume_blocks: int, trace: Sequence[int], scored: Scored, unit: str, rounds: int = ROUNDS) -> Result:
    run = Simulation(volume_blocks, scored(volume_blocks * BLOCK), unit)
    order = list(range(volume_blocks))
    random.Random(1).shuffle(order)
    for blocks in _segments(order):
        run.write(blocks)
    warm = min(WARM_UP, rounds - 1) * volume_blocks
    then = (0, 0, 0)
    for at, blocks in enumerate(_segments(trace)):
        if at * SEGMENT_BLOCKS <= warm:
            then = run.written_bytes, run.user_bytes, run.moved_blocks
        run.write(blocks)
    user_bytes = run.user_bytes - then[1]
    blocks_ratio = 1 + (run.moved_blocks - then[2]) * BLOCK / user_bytes
    amplification = (run.written_bytes - then[0]) / user_bytes
    least = -(-volume_blocks // SEGMENT_BLOCKS)
    return Result(blocks_ratio, amplification, len(run.files), least, run.stored_bytes / run.pool_bytes)


def traces(volume_blocks: int, rounds: int = ROUNDS) -> Iterator[tuple[str, list[int]]]:
    chance = random.Random(2)
    yield "uniform", chance.choices(range(volume_blocks), k=rounds * volume_blocks)
    blocks = list(range(volume_blocks))
    chance.shuffle(blocks)
    weights = list(accumulate((rank + 1) ** -0.99 for rank in range(volume_blocks)))
    yield "zipf(0.99)", chance.choices(blocks, cum_weights=weights, k=rounds * volume_blocks)


def _segments(trace: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(trace), SEGMENT_BLOCKS):
        yield trace[start : start + SEGMENT_BLOCKS]


def bench_policy(volume_segments: int, json_path: Path | None) -> None:
    volume_blocks = volume_segments * SEGMENT_BLOCKS
    rows = []
    for load, trace in traces(volume_blocks):
        for unit in ("file", "segment"):
            for name, scored in POLICIES.items():
                try:
                    it = simulate(volume_blocks, trace, scored, unit)
                except PoolFullError as error:
                    rows.append([load, unit, name, str(error), "", "", ""])
                    continue
                costs = [f"{it.blocks:.2f}", f"{it.amplification:.2f}"]
                rows.append([load, unit, name, *costs, f"{it.files} / {it.files_least}", f"{it.used_part:.0%}"])
    print("written per block of the user, and per byte with all that the formats add:")
    print(table(["overwrites", "unit", "policy", "blocks", "bytes", "files / least", "pool used"], rows))
    save(json_path, {"volume_segments": volume_segments, "rows": rows})
