"""What a worker shows to the world, one front for each dataset: NBD (sds/daemon/nbd_front.py) or a mount
(sds/daemon/mount_front.py); and how a worker is told to end.

  FR1  The first SIGTERM or SIGINT, or SIGHUP unless it is ignored (nohup), ends it in order: requests under way are
       answered, the dataset is closed. The second one ends the process at once; the stage keeps what was acknowledged.
"""

import os
import signal
from collections.abc import Callable
from typing import Protocol

import trio

from sds.daemon.control import Handler
from sds.filesystem.changed import Changed

Announce = Callable[[str], None]
"""Gets the one line that says that clients may come."""
Json = dict[str, object]


class Stop:
    """The wish to end; may come at any time, from a signal or over the control socket."""

    def __init__(self) -> None:
        self.starting = trio.CancelScope()
        """Around everything before the front serves: given up at once."""
        self.end: Callable[[], None] | None = None
        """Of the front that serves: returns at once, then its `serve` ends."""

    def request(self) -> None:
        if self.end is not None:
            self.end()
        else:
            self.starting.cancel()

    async def watch_signals(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """FR1."""
        wanted = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            wanted.append(signal.SIGHUP)
        with trio.open_signal_receiver(*wanted) as signals:
            task_status.started()
            number = await anext(signals)
            self.request()
            number = await anext(signals)
            os._exit(128 + number)


class Front(Protocol):
    async def serve(self, stop: Stop, announce: Announce) -> None:
        """Until told to stop, or until whoever else may end it has."""

    @property
    def caches_writes(self) -> bool:
        """Somebody in front of us keeps what was written, with sizes and times of his own."""

    def stats(self) -> Json:
        """For the statistics of the worker."""

    def handlers(self) -> dict[str, Handler]:
        """What can be asked of it over the control socket."""

    async def pull_in(self) -> None:
        """Before a snapshot or a rollback: what clients were told is written, and a cache in front of us still has."""

    async def replaced(self, changed: Changed | None) -> None:
        """After a rollback or a resize: a cache in front of us forgets this; None: all it has."""
