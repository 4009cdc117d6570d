"""sds.filesystem in the simulator against ext4: results, errnos and whole trees agree, whatever happens in between."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from tests.filesystem.engine import Engine
from tests.filesystem.facts import moved
from tests.filesystem.machine import Machine, Subject
from tests.filesystem.plain import Plain
from tests.filesystem.profile import fresh, profile, remove

pytestmark = pytest.mark.real("mkfs.ext4")


class EngineMachine(Machine):
    """With checkpoints, orderly ends and kills, which change nothing but that all files are closed."""

    ours: Engine

    def end(self) -> None:
        super().end()
        assert self.ours.problems() == []

    @rule(forget_first=st.booleans())
    def checkpoint(self, forget_first: bool) -> None:
        self.ours.vfs.forget_first = forget_first
        self._between("checkpoint", self.ours.checkpoint)

    @rule()
    def reopen(self) -> None:
        self._ends_all("reopen", self.ours.reopen)

    @rule()
    def kill(self) -> None:
        self._ends_all("kill", self.ours.kill)

    def _ends_all(self, name: str, action: Callable[[], None]) -> None:
        self.known.close_all()
        self.open.clear()
        self._between(name, action)

    def _between(self, name: str, action: Callable[[], None]) -> None:
        self.history.append(f"{name}()")
        with self.told():
            before = self.trees[1]
            action()
            self.check()
            changed = {at for at, moves in moved(before, self.trees[1]).items() if any(moves)}
            assert not changed, f"{name} moved the times of {changed}"


def test_the_engine_and_ext4_do_the_same(request: pytest.FixtureRequest, known: Path) -> None:
    def make() -> tuple[Subject, Subject, Callable[[], None]]:
        directory, engine = fresh(known), Engine()

        def end() -> None:
            engine.close()
            remove(directory)

        return Plain(directory), engine, end

    class Both(EngineMachine):
        pass

    Both.make = staticmethod(make)
    run_state_machine_as_test(Both, settings=profile(request, examples=60, steps=40))
