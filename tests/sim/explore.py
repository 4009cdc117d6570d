"""Crashes: taken at every event of a run, checked afterwards.

  EX1  A crash is taken synchronously, between two steps of the program, and kept with what the oracle expects of it.
  EX2  A world that was seen with the same expectation is not checked again, nor counted.
  EX3  A tenth of the crashes is checked deeply: recovery itself is cut off at some of its own events, and the world is
       opened a second time: nothing may have changed.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from tests.sim.check import orphans, recover
from tests.sim.oracle import History
from tests.sim.schedule import run_seeded
from tests.sim.world import World

Expected = dict[str, History[Any]]
Recover = Callable[..., Awaitable[None]]
"""(world, expected, orderly=...): see sds.tests.sim.check, and fs_check."""


class Scripted(Protocol):
    def expected(self, power_cut: bool) -> dict[str, History[Any]]: ...


@dataclass(slots=True)
class Crash:
    world: World
    expected: Expected
    where: str
    power_cut: bool


@dataclass(slots=True)
class Tally:
    points: int = 0
    states: int = 0
    repeated: int = 0
    recoveries_cut: int = 0


@dataclass(slots=True)
class Explorer:
    """Attach to a script with `watch`, run, then `check_all`."""

    script: Scripted
    rng: random.Random
    cuts: int = 6
    """Power cuts per point at most."""
    every: float = 1.0
    """Part of the events that is looked at."""
    tally: Tally = field(default_factory=Tally)
    recover: Recover = recover
    seen: set[tuple[int, object]] = field(default_factory=set)
    crashes: list[Crash] = field(default_factory=list)

    def watch(self, world: World) -> None:
        world.watch = lambda event: self.take(world, event)

    def take(self, world: World, where: str) -> None:
        """EX1."""
        if self.every < 1 and self.rng.random() > self.every:
            return
        self.tally.points += 1
        self._add(world.kill(), where, False)
        for cut in world.power_cuts(self.cuts, self.rng):
            self._add(cut, where, True)

    def _add(self, world: World, where: str, power_cut: bool) -> None:
        expected = self.script.expected(power_cut)
        key = world.digest(), tuple(
            (name, len(m.states), m.promised, tuple((n, s.acknowledged, s.destroying) for n, s in m.snapshots.items()))
            for name, m in expected.items()
        )
        if key in self.seen:
            self.tally.repeated += 1
            world.close()
            return
        self.seen.add(key)
        self.crashes.append(Crash(world, expected, where, power_cut))

    def check_all(self, seed: int) -> None:
        crashes, self.crashes = self.crashes, []
        for crash in crashes:
            try:
                within = run_seeded(partial(check, crash, self.rng, self.recover), seed)
            except BaseException as error:
                error.add_note(f"{'power cut' if crash.power_cut else 'kill'} at {crash.where}")
                raise
            self.tally.states += 1 + within
            self.tally.recoveries_cut += within


async def check(crash: Crash, rng: random.Random, recover: Recover) -> int:
    """One crash; the number of further crash states within its recovery."""
    deep = rng.random() < 0.1
    again: list[tuple[World, Expected]] = []
    if deep:

        def cut(event: str) -> None:
            if rng.random() < 0.03:
                again.append((crash.world.kill(), _expected(crash.expected, crash.power_cut)))
                cuts = list(crash.world.power_cuts(10, rng))
                cuts = rng.sample(cuts, min(3, len(cuts)))
                again.extend((world, _expected(crash.expected, True)) for world in cuts)

        crash.world.watch = cut
    await recover(crash.world, crash.expected, orderly=deep)
    assert len(orphans(crash.world)) <= 4, f"garbage: {orphans(crash.world)}"
    crash.world.watch = None
    if deep:
        await recover(crash.world, crash.expected)  # the second time nothing has changed
    crash.world.close()
    for world, expected in again:
        await recover(world, expected, orderly=False)
        world.close()
    return len(again)


def _expected(models: Expected, power_cut: bool) -> Expected:
    return {name: model.after_crash(power_cut) for name, model in models.items()}
