"""A few threads that read, with one wake-up of the event loop for all the reads that finished meanwhile.

  T1  A read that was given to a thread is awaited until the thread lets go of the buffer (cancelling waits), or until
      it has had no answer for the limit. Then the buffer is the thread's: the caller must not look at it again.
  T2  Finished reads are queued before the wake-up flag is looked at, and the loop lowers the flag before it
      empties the queue: no read is left behind, and at most one wake-up per thread is under way.
  T3  Hints are dropped, never queued without bound, and never wake the loop. Those that hang take HINTS_MAX threads
      at most, and leave the rest to reads.
  T4  `let_go` of a read is called once, in the event loop, when no thread uses its descriptor any more: late, if it
      ended with NoAnswer.
  T5  A thread that hangs is replaced, up to THREADS_IN_ALL_MAX. If HUNG_MAX hang, further reads fail at once, so the
      queue is bounded. Threads are daemons: the process ends without them.
  T6  The age of reads is counted in ticks of one timer that runs while there are any: a read costs no timer of its own,
      and a process that was stopped for a while blames nobody. A read without answer fails after more than
      (TICKS - 1) / TICKS of the limit, and within it.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue

import trio

from .base import HANG_S

THREADS_MAX = 16
HUNG_MAX = 48
"""Reads that hang before the next ones are refused."""
THREADS_IN_ALL_MAX = 64
TICKS = 8
HINTS_MAX = 8
HINT_PIECE = 128 << 10
"""The kernel cuts one WILLNEED to the read-ahead size of the device, 128 KiB where nobody raised it."""


class NoAnswer(OSError):
    """A read that hangs."""


@dataclass(slots=True, eq=False)
class _Read:
    task: trio.lowlevel.Task
    token: trio.lowlevel.TrioToken
    fd: int
    offset: int
    into: memoryview
    let_go: Callable[[int], None]
    count: int = 0
    error: OSError | None = None
    has_begun: bool = False
    is_abandoned: bool = False


@dataclass(frozen=True, slots=True)
class _Hint:
    fd: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class _Close:
    fd: int


class ReaderThreads:
    """Starts threads as they are needed; `close` ends them. One event loop at a time."""

    def __init__(self, threads_max: int = THREADS_MAX, limit_s: float = HANG_S) -> None:
        self._threads_max = threads_max
        self._limit_s = limit_s
        self._threads = 0
        self._hung: set[_Read] = set()  # Abandoned, and a thread has them.
        self._under_way: dict[_Read, int] = {}  # To the tick at its start; in order of start.
        self._tick = 0
        self._watching = False
        self._others = 0
        self._others_lock = threading.Lock()
        self._jobs: SimpleQueue[_Read | _Hint | _Close | None] = SimpleQueue()
        self._finished: deque[_Read] = deque()
        self._waking = False

    @property
    def limit_s(self) -> float:
        return self._limit_s

    async def read(
        self, fd: int, offset: int, into: memoryview, let_go: Callable[[int], None]
    ) -> tuple[OSError | None, int]:
        """Fills the buffer as far as the file goes: the error if any, and the bytes read. Never Cancelled."""
        job = _Read(trio.lowlevel.current_task(), trio.lowlevel.current_trio_token(), fd, offset, into, let_go)
        if len(self._hung) >= HUNG_MAX:
            let_go(fd)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return NoAnswer(), 0
        self._under_way[job] = self._tick
        if not self._watching:
            self._watching = True
            trio.lowlevel.spawn_system_task(self._watch)
        self._need_thread()
        self._jobs.put(job)
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
        if job.is_abandoned:
            return NoAnswer(), 0
        return job.error, job.count

    def hint(self, fd: int, offset: int, length: int) -> bool:
        """Starts to fetch a range; False: dropped. The descriptor may be closed as soon as this returns."""
        if self._others >= HINTS_MAX or length <= 0:
            return False
        try:
            job = _Hint(os.dup(fd), offset, length)
        except OSError:
            return False
        self._put_other(job)
        return True

    def close_later(self, fd: int) -> None:
        """Close it in a thread: the last descriptor of a deleted file waits until the disk has freed it."""
        self._put_other(_Close(fd))

    def close(self) -> None:
        for _ in range(self._threads):
            self._jobs.put(None)
        self._threads = 0

    def _put_other(self, job: _Hint | _Close) -> None:
        with self._others_lock:
            self._others += 1
        self._need_thread()
        self._jobs.put(job)

    def _need_thread(self) -> None:
        alive = self._threads - len(self._hung)
        if alive < min(self._threads_max, len(self._under_way) + self._others) and self._threads < THREADS_IN_ALL_MAX:
            self._threads += 1
            threading.Thread(target=self._work, name="sds-reader", daemon=True).start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, _Read):
                job.has_begun = True
                if not job.is_abandoned:
                    _fill(job)
                self._finished.append(job)
                if not self._waking:
                    self._waking = True
                    try:
                        job.token.run_sync_soon(self._drain)
                    except trio.RunFinishedError:  # It hung until after the end.
                        self._waking = False
            else:
                if isinstance(job, _Hint):
                    _fetch(job)
                with suppress(OSError):  # Only reads went through it: nothing can be lost.
                    os.close(job.fd)
                with self._others_lock:
                    self._others -= 1

    def _drain(self) -> None:
        self._waking = False
        while self._finished:
            job = self._finished.popleft()
            job.let_go(job.fd)
            if not job.is_abandoned:
                del self._under_way[job]
                trio.lowlevel.reschedule(job.task)
                continue
            self._hung.discard(job)
            if self._threads - len(self._hung) > self._threads_max:
                self._threads -= 1
                self._jobs.put(None)

    async def _watch(self) -> None:
        """T6. Ends with the reads; the next one starts it again."""
        try:
            while self._under_way:
                await trio.sleep(self._limit_s / TICKS)
                self._tick += 1
                self._drain()
                self._abandon_old()
        finally:
            self._watching = False

    def _abandon_old(self) -> None:
        while self._under_way:
            job, tick = next(iter(self._under_way.items()))
            if self._tick - tick < TICKS:
                break
            del self._under_way[job]
            job.is_abandoned = True
            if job.has_begun:  # Set before it looks whether it is abandoned: it comes back in any case.
                self._hung.add(job)
                self._need_thread()
            trio.lowlevel.reschedule(job.task)


def _fill(job: _Read) -> None:
    try:
        while job.count < len(job.into):
            count = os.preadv(job.fd, [job.into[job.count :]], job.offset + job.count)
            if count == 0:
                return
            job.count += count
    except OSError as error:
        job.error = error


def _fetch(hint: _Hint) -> None:
    with suppress(OSError):  # A hint never fails.
        for offset in range(hint.offset, hint.offset + hint.length, HINT_PIECE):
            length = min(HINT_PIECE, hint.offset + hint.length - offset)
            os.posix_fadvise(hint.fd, offset, length, os.POSIX_FADV_WILLNEED)
