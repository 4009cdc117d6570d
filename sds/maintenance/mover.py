"""Carrying out plans of moves for a whole pool: in batches, each with one backup of the catalog, until nothing is left.

  MO1  What a move promises (MV1 to MV8 of moving.py) holds for each of them; cut off anywhere, the next plan goes on.
  MO2  The turn is given back between batches, so others that maintain the pool get theirs.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from sds.core.errors import SdsError
from sds.log.env import Env
from sds.maintenance.limiter import Limiter
from sds.maintenance.moves import Goal, Move, Place, Plan, plan, policies
from sds.maintenance.moving import MOVES_MAX, Moved, Turn, carry_out, finish, places_of
from sds.pool.files import files_of
from sds.pool.pool import Pool

BATCH_FILES: Final = 16
"""Between two backups of the catalog."""
PASSES_MAX: Final = 8
"""Without getting anywhere, or because others change the same files all the time."""
Report = Callable[[int, int], None]
"""Bytes moved, bytes planned."""


@dataclass(slots=True)
class Tally:
    files: int = 0
    written_bytes: int = 0
    dropped_copies: int = 0
    changed: int = 0
    """By somebody else meanwhile: to be planned again."""
    problems: list[str] = field(default_factory=list)
    """Of the last pass."""

    @property
    def is_idle(self) -> bool:
        return not self.written_bytes and not self.dropped_copies and not self.changed


@dataclass(frozen=True, slots=True)
class Mover:
    """What all goals need."""

    pool: Pool
    env: Env
    turn: Turn
    limiter: Limiter
    report: Report = lambda done, total: None

    async def plan(self, goal: Goal, leaving: Collection[int] = (), gone: Collection[int] = ()) -> Plan:
        """`leaving`: as if these backends were draining; `gone`: as if they did not answer."""
        catalog = self.pool.catalog
        files = files_of(await self.env.run_blocking(catalog.all_segments))
        policy = policies(await self.env.run_blocking(catalog.datasets), self.pool.copies)
        places: list[Place] = []
        for place in await self.env.run_blocking(places_of, self.pool):
            is_draining = place.is_draining or place.id in leaving
            is_connected = place.is_connected and place.id not in gone
            places.append(replace(place, is_draining=is_draining, is_connected=is_connected))
        return await self.env.run_blocking(plan, files, places, policy, goal)

    async def work(self, goal: Goal) -> Tally:
        """Until there is nothing left to be done, or nothing that can be done."""
        await self.pool.check_newest()  # BK4 of sds.pool.backup
        total = Tally()
        for _ in range(PASSES_MAX):
            found = await self.plan(goal)
            done = await self.carry_out(found.moves)
            done.problems += [f"{stuck.file.name}: {stuck.why}" for stuck in found.stuck]
            add(total, done)
            if done.is_idle or (not done.changed and not done.problems):
                break
        return total

    async def carry_out(self, moves: Sequence[Move]) -> Tally:
        total = Tally()
        planned = sum(move.file.size_bytes * len(move.add) for move in moves)
        for start in range(0, len(moves), BATCH_FILES):
            async with self.turn():
                moved = await self._batch(moves[start : start + BATCH_FILES])
                await finish(self.pool, self.env, moved)
            for one in moved:
                total.files += bool(one.added or one.dropped)
                total.written_bytes += one.file.size_bytes * len(one.added)
                total.dropped_copies += len(one.dropped)
                total.changed += one.was_changed
                total.problems += one.problems
            self.report(total.written_bytes, planned)
        return total

    async def _batch(self, moves: Sequence[Move]) -> list[Moved]:
        moved: list[Moved] = []
        waiting = list(moves)

        async def work() -> None:
            while waiting:
                move = waiting.pop(0)
                try:
                    moved.append(await carry_out(self.pool, self.env, move, self.limiter))
                except SdsError as error:  # not out of the nursery: the others go on
                    moved.append(Moved(move.file, problems=(f"{move.file.name}: {error}",)))

        async with trio.open_nursery() as nursery:
            for _ in range(MOVES_MAX):
                nursery.start_soon(work)
        return moved


def add(total: Tally, done: Tally) -> None:
    total.files += done.files
    total.written_bytes += done.written_bytes
    total.dropped_copies += done.dropped_copies
    total.changed += done.changed
    total.problems = done.problems


# -- taking a backend out ----------------------------------------------------------------------------------------------
