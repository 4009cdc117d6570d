"""A blocking call in a thread, with an end (B13 of base.py).

  BD1  Cancellation has an effect only before the thread begins; then it waits for the thread: a buffer is not reused
       while it is written or read.
  BD2  After the limit, which counts the wait for a free thread, too, the caller gets Hung. The thread is left alone
       with its buffers: nobody who trusts them uses them again. `late` tells when it has ended, and with what.
  BD3  A thread that hangs does not take the place of others: the limiter has one token more until it ends, up to
       THREADS_MAX in all. If so many hang, calls fail after the limit until one ends.
  BD4  Threads are daemons: neither trio.run nor the process waits for one that hangs.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import trio

from sds.core.errors import Hung

from .base import HANG_S

THREADS_MAX = 64
"""Of one limiter, those that hang included."""
Result = TypeVar("Result")


class _Place:
    """A token of the limiter; trio takes it before the thread begins, and gives it back when the thread has ended."""

    def __init__(self, limiter: trio.CapacityLimiter, scope: trio.CancelScope) -> None:
        self._limiter = limiter
        self._scope = scope
        self._has_extra_token = False
        self.has_begun = False
        self._on_late_end: Callable[[], None] | None = None

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._limiter.acquire_on_behalf_of(borrower)
        self.has_begun = True
        self._scope.shield = True  # BD1

    def abandon(self, on_late_end: Callable[[], None]) -> None:
        self._on_late_end = on_late_end
        if self._limiter.total_tokens < THREADS_MAX:
            self._limiter.total_tokens += 1
            self._has_extra_token = True

    def release_on_behalf_of(self, borrower: object) -> None:
        if self._has_extra_token:  # First, or one too many could begin.
            self._limiter.total_tokens -= 1
        self._limiter.release_on_behalf_of(borrower)
        if self._on_late_end is not None:
            self._on_late_end()


async def in_thread(
    work: Callable[[], Result],
    limiter: trio.CapacityLimiter,
    what: str,
    limit_s: float = HANG_S,
    late: Callable[[Result | None], None] | None = None,
) -> Result:
    """The result of `work`. `what` names backend and file for the message.

    `late` is called once, in the event loop, for a call that ended with Hung: as soon as no thread works on it any
    more, with the result if there is one after all.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    results: list[Result] = []

    def keep_result() -> Result:
        result = work()
        results.append(result)
        return result

    def end_late() -> None:
        if late is not None:
            late(results[0] if results else None)

    with trio.CancelScope(deadline=trio.current_time() + limit_s) as scope:
        place = _Place(limiter, scope)
        return await trio.to_thread.run_sync(
            work if late is None else keep_result,
            limiter=cast(trio.CapacityLimiter, place),  # trio asks for no more than the two methods
            abandon_on_cancel=True,
        )
    if not place.has_begun:
        end_late()
        raise Hung(f"{what}: all threads have been busy for {limit_s:g} s: is the device overloaded, or gone?")
    place.abandon(end_late)
    raise Hung(f"{what}: no answer for {limit_s:g} s: is the device still there?")
