"""A dataset as a directory: how a worker serves a mount, and how the mount ends.

    SIGTERM, SIGINT, stop ─▶ unmount; in use: write back, then cut off ─┐
    `sds unmount`         ─▶ unmount; in use: Busy, goes on             ├─▶ requests have ended ─▶ the worker closes
    umount(8), fusermount3 ─▶ (it is unmounted)                         ┘

  MF1  A worker that was told to end ends, whoever uses the mount: a shutdown must not hang on a shell that stands in
       the directory. What open files hold in the kernel is written first; they get ENOTCONN from then on.
  MF2  `sds unmount` never takes a mount away from somebody.
  MF3  With the writeback cache the kernel has pages that we have not seen. A snapshot and a rollback have them written
       first, for SYNC_S at most: a process that writes faster than that shall not hold up a snapshot.
  MF4  The access log is a file of its own and may be lost at any time: requests go on without it.
"""

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from fuse.options import Options
from fuse.rawfile import FILE_INODE
from sds.core.errors import BadInput
from sds.daemon.control import Handler, serve_control
from sds.daemon.front import Announce, Json, Stop
from sds.daemon.unmounting import Where
from sds.daemon.write_back import write_back
from sds.filesystem.changed import Changed

if TYPE_CHECKING:
    from fuse.mount import Mount
    from fuse.tree import Tree

SYNC_S: Final = 30.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how a dataset is mounted. `directory` is resolved."""

    directory: str
    options: Options
    socket: Path
    """socket_of_mount."""
    access_log: str | None = None


class MountFront:
    """`opened`: the node ids of files that are open and may have been written to."""

    def __init__(self, tree: "Tree", place: Place, where: Where, opened: Callable[[], Iterable[int]] = tuple) -> None:
        self._tree = tree
        self._place = place
        self._where = where
        self._opened = opened
        self._mount: Mount | None = None
        self._metrics: Callable[[], dict[str, Any]] = dict

    async def serve(self, stop: Stop, announce: Announce) -> None:
        # Here, for the other verbs shall not wait for pyfuse3 to be imported.
        from fuse.handler import Handlers
        from fuse.memory import keep_large_buffers
        from fuse.mount import Mount
        from fuse.operations import Operations

        keep_large_buffers()
        options = self._place.options
        with ExitStack() as stack:
            handlers = Handlers(access=self._access_log(stack))
            operations = Operations(
                self._tree, handlers, writeback_cache=options.writeback_cache, acl=options.acl, xattrs=options.xattrs
            )
            self._metrics = handlers.metrics
            self._mount = Mount(operations, self._place.directory, options)
            await self._serve(self._mount, stop, announce)

    async def _serve(self, mount: "Mount", stop: Stop, announce: Announce) -> None:
        wish = trio.Event()
        async with trio.open_nursery() as nursery:

            async def until_ended(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
                await mount.serve(task_status)
                nursery.cancel_scope.cancel()

            await nursery.start(until_ended)
            await nursery.start(serve_control, self._place.socket, self.handlers())
            stop.end = wish.set
            announce(f"mounted {self._place.options.fsname} on {self._place.directory}")
            await wish.wait()
            await mount.stop(force=True)  # MF1

    def _access_log(self, stack: ExitStack) -> Callable[[str], None] | None:
        if self._place.access_log is None:
            return None
        path = Path(self._place.access_log)
        try:
            file = path.open("a", buffering=1, encoding="utf-8")
        except OSError as error:
            raise BadInput(f"cannot write the access log {path}: {error.strerror}") from error
        stack.callback(file.close)
        return lambda line: print(f"{time.time():.6f} {line}", file=file)

    @property
    def caches_writes(self) -> bool:
        return self._place.options.writeback_cache

    def stats(self) -> Json:
        return {"mountpoint": self._place.directory, "fuse": self._metrics()}

    def handlers(self) -> dict[str, Handler]:
        return {"unmount": self.unmount, "where": self.where}

    async def where(self) -> Json:
        return asdict(self._where)

    async def unmount(self) -> Json:
        """MF2."""
        if self._mount is not None:
            await self._mount.stop(force=False)
        return {}

    async def pull_in(self) -> None:
        """MF3."""
        if not self._place.options.writeback_cache:
            return
        with trio.move_on_after(SYNC_S) as limit:
            try:
                opened = list(self._opened())
                await trio.to_thread.run_sync(write_back, self._place.directory, opened, abandon_on_cancel=True)
            except OSError as error:
                _log.warning("%s: not everything was written back: %s", self._place.directory, error.strerror)
        if limit.cancelled_caught:
            _log.warning("%s: not everything was written back in %g s; going on", self._place.directory, SYNC_S)

    async def replaced(self, changed: Changed | None) -> None:
        mount = self._mount
        if mount is None:
            return
        for inode in [FILE_INODE] if changed is None else changed.inodes:
            await mount.invalidate_inode(inode)
        for directory, name in [] if changed is None else changed.names:
            await mount.invalidate_entry(directory, name)
