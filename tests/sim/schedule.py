"""Runs a trio program under a mock clock with a task order that depends on the seed alone.

  R1  Same program and same seed: same order of steps, same randomness, in any process.
  R2  Time is free: the clock jumps as soon as all tasks sleep.
  R3  The program must not depend on threads, sockets, wall time or the order of sets. Trio leaves open in
      which order tasks wake at the very same deadline: use different ones.

Trio shuffles each batch of runnable tasks by a private generator, after sorting it if a private flag is set;
both have been there, for exactly this use, since the beginning. `test_schedule.py` fails if they ever go.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from trio._core import _run
from trio.testing import MockClock

Result = TypeVar("Result")


def run_seeded(async_fn: Callable[[], Awaitable[Result]], seed: int) -> Result:
    """`trio.run(async_fn)`, replayable."""
    before = _run._ALLOW_DETERMINISTIC_SCHEDULING
    state = _run._r.getstate()
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r.seed(seed)
    try:
        return trio.run(async_fn, clock=MockClock(autojump_threshold=0))
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]
        _run._r.setstate(state)
