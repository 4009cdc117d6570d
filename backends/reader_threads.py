"""A few threads that read, with one wake-up of the event loop for all the reads that finished meanwhile.

  T1  A read that was given to a thread is awaited until the thread lets go of the buffer: cancelling waits.
  T2  Finished reads are queued before the wake-up flag is looked at, and the loop lowers the flag before it
      empties the queue: no read is left behind, and at most one wake-up per thread is under way.
  T3  Hints are dropped, never queued without bound, and never wake the loop.
"""

import os
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue

import trio

THREADS_MAX = 16
HINTS_MAX = 8
HINT_PIECE = 128 << 10
"""The kernel cuts one WILLNEED to the read-ahead size of the device, 128 KiB where nobody raised it."""


@dataclass(slots=True, eq=False)
class _Read:
    task: trio.lowlevel.Task
    token: trio.lowlevel.TrioToken
    fd: int
    offset: int
    into: memoryview
    count: int = 0
    error: OSError | None = None


@dataclass(frozen=True, slots=True)
class _Hint:
    fd: int
    offset: int
    length: int


class ReaderThreads:
    """Starts threads as they are needed; `close` ends them. One event loop at a time."""

    def __init__(self, threads_max: int = THREADS_MAX) -> None:
        self._threads_max = threads_max
        self._threads = 0
        self._under_way = 0
        self._hints = 0
        self._hints_lock = threading.Lock()
        self._jobs: SimpleQueue[_Read | _Hint | None] = SimpleQueue()
        self._finished: deque[_Read] = deque()
        self._waking = False

    async def read(self, fd: int, offset: int, into: memoryview) -> tuple[OSError | None, int]:
        """Fills the buffer as far as the file goes: the error if any, and the bytes read."""
        await trio.lowlevel.checkpoint_if_cancelled()
        job = _Read(trio.lowlevel.current_task(), trio.lowlevel.current_trio_token(), fd, offset, into)
        self._under_way += 1
        self._need_thread()
        self._jobs.put(job)
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
        return job.error, job.count

    def hint(self, fd: int, offset: int, length: int) -> bool:
        """Starts to fetch a range; False: dropped. The descriptor may be closed as soon as this returns."""
        if self._hints >= HINTS_MAX or length <= 0:
            return False
        try:
            job = _Hint(os.dup(fd), offset, length)
        except OSError:
            return False
        with self._hints_lock:
            self._hints += 1
        self._need_thread()
        self._jobs.put(job)
        return True

    def close(self) -> None:
        for _ in range(self._threads):
            self._jobs.put(None)
        self._threads = 0

    def _need_thread(self) -> None:
        if self._threads < min(self._threads_max, self._under_way + self._hints):
            self._threads += 1
            threading.Thread(target=self._work, name="sds-reader", daemon=True).start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, _Hint):
                _fetch(job)
                with self._hints_lock:
                    self._hints -= 1
            else:
                _fill(job)
                self._finished.append(job)
                if not self._waking:
                    self._waking = True
                    job.token.run_sync_soon(self._drain)

    def _drain(self) -> None:
        self._waking = False
        while self._finished:
            job = self._finished.popleft()
            self._under_way -= 1
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
    os.close(hint.fd)
