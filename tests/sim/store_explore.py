"""Crashes of pools with stores and copies, taken at events of a run and checked afterwards (EX1, EX2 of explore.py).

| kind  | what is left                                                                                     |
|-------|--------------------------------------------------------------------------------------------------|
| kill  | all of the machine                                                                               |
| power | catalog, disks, journals as the power cut left them; stores                                      |
| loss  | stores; the pool is imported                                                                     |
| home  | stores, and disks as the power cut left them; the pool is imported (only in pools with disks)    |

  SEX1  After an import that worked it is done once more, on what the first one left: imports can be cut off, too.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from tests.sim.schedule import run_seeded
from tests.sim.store_check import Expected, missing_files, recover, verify
from tests.sim.store_workload import StoreScript, scrub, sweep_all
from tests.sim.store_world import Remains, StoreWorld

Kind = Literal["kill", "power", "loss", "home"]


@dataclass(slots=True)
class StoreCrash:
    kind: Kind
    left: StoreWorld | Remains
    expected: Expected
    where: str


@dataclass(slots=True)
class StoreExplorer:
    """Attach with `watch`, run, then `check_all`."""

    script: StoreScript
    rng: random.Random
    every: float = 1.0
    cuts: int = 3
    kinds: tuple[Kind, ...] = ("kill", "power", "loss", "home")
    tally: Counter[str] = field(default_factory=Counter)
    crashes: list[StoreCrash] = field(default_factory=list)
    seen: set[object] = field(default_factory=set)

    def watch(self) -> None:
        self.script.here.listen = self.take

    def take(self, place: str, event: str, name: str) -> None:
        world = self.script.here
        if event == "catalog:end" or event.startswith("delete:"):
            missing = missing_files(world)
            assert not missing, f"{place} {event} {name}: {missing}"
        if self.every < 1 and self.rng.random() > self.every:
            return
        self.tally["points"] += 1
        where = f"{place} {event} {name}"
        kind = self.rng.choice([kind for kind in self.kinds if self._is_possible(kind)])
        self._crash(kind, where)

    def _is_possible(self, kind: Kind) -> bool:
        shape = self.script.here.shape
        return {"loss": shape.stores > 0, "home": shape.disks > 0}.get(kind, True)

    def _crash(self, kind: Kind, where: str) -> None:
        world = self.script.here
        if kind == "kill":
            self._add(StoreCrash(kind, world.kill(), self.script.expected(False), where))
        elif kind == "power":
            for cut in world.power_cuts(self.cuts, self.rng):
                assert isinstance(cut, StoreWorld)
                self._add(StoreCrash(kind, cut, self.script.expected(True), where))
        else:
            with_disks = kind == "loss"
            for remains in world.losses(self.cuts, self.rng, with_disks):
                self._add(StoreCrash(kind, remains, self.script.expected_after_loss(with_disks), where))

    def _add(self, crash: StoreCrash) -> None:
        if isinstance(crash.left, StoreWorld):
            key = (crash.left.digest(), *_summary(crash.expected))
            if key in self.seen:
                crash.left.close()
                return
            self.seen.add(key)
        self.crashes.append(crash)

    def check_all(self, seed: int, raises: bool = True) -> list[str]:
        """What is wrong, a line each; or raises the first."""
        crashes, self.crashes = self.crashes, []
        wrong = []
        for crash in crashes:
            self.tally[crash.kind] += 1
            try:
                run_seeded(partial(check, crash, self.rng.random() < 0.2), seed)
            except BaseException as error:
                error.add_note(f"{crash.kind} at {crash.where}")
                if raises or isinstance(error, KeyboardInterrupt):
                    raise
                wrong.append(f"{crash.kind} at {crash.where}: {error!r}"[:600])
        return wrong


def _summary(expected: Expected) -> list[object]:
    return [(name, m.acknowledged, tuple(sorted(m.snapshots))) for name, m in sorted(expected.items())]


async def check(crash: StoreCrash, again: bool = False) -> None:
    """`again`: SEX1."""
    if isinstance(crash.left, StoreWorld):
        await recover(crash.left, crash.expected)
        crash.left.close()
        return
    world = await crash.left.imported()
    await recover(world, crash.expected, orderly=False)
    await _is_sound(world)
    if again:
        script = StoreScript(world, crash.expected)
        with_disks = crash.kind == "loss"
        second = await next(world.losses(1, random.Random(1), with_disks)).imported()
        await recover(second, script.expected_after_loss(with_disks), orderly=False)
        await _is_sound(second)
        second.close()
    world.close()


async def _is_sound(world: StoreWorld) -> None:
    """All is sealed, as its rows say, and a scrub has nothing to tell."""
    await sweep_all(world)
    await verify(world, imported=True)
    scrubbed = await scrub(world)
    assert not scrubbed.findings, "; ".join(map(str, scrubbed.findings))

