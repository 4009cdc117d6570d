"""Sections: operations as synchronous functions that are done again until everything they need is in memory.

    run(section) ──▶ section() ──▶ result
                        └─ Wait ──▶ load, or wait for room ──▶ section() again

  SE1  A section raises Wait before it has changed anything; it is done again from its beginning, on the state that it
       finds then. So an operation is atomic, whatever it had to wait for.
  SE2  Mostly all is there, and an operation waits for nothing at all.
  SE3  Between what it waited for and the section nobody else runs, so that it is still there; one that has to wait
       again lets the others run first.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

T = TypeVar("T")


class Wait(Exception):
    """Something is missing. `until` gets it."""

    def __init__(self, until: Callable[[], Awaitable[object]]) -> None:
        super().__init__()
        self.until = until


async def run(section: Callable[[], T]) -> T:
    """The section's result; what it raised, or what getting what it needs raised."""
    tries = 0
    while True:
        try:
            return section()
        except Wait as wait:
            until = wait.until
        tries += 1
        if tries > 1:
            await trio.lowlevel.checkpoint()  # SE3: others must run
        await until()
