"""A mount: from pyfuse3.init to the end of its session, whoever ends it.

    made ─▶ init ─▶ serving ─┬─ unmounted from outside ───────────────┬─▶ closed
                             ├─ stop(): unmounted here ───────────────┤
                             ├─ stop(force): in use, so detached ─────┤
                             └─ cancelled: cut off ───────────────────┘

  MO1  pyfuse3 has one session per process: a second Mount is refused until the first is closed.
  MO2  stop() unmounts while requests are served, for to unmount makes the kernel write back what it still holds; only
       then does the loop end. A mount in use is left alone (Busy), or with `force` detached, and those who
       use it get ENOTCONN.
  MO3  An invalidation may wait for a request of ours: it runs in a thread. While one runs the session is not closed.
  MO4  The kernel's greeting has been answered when the mount is announced. What the kernel may be told to do better is
       told after that, for its greeting would undo it.
  MO5  No thread of this process ever waits for its own mount: if the process were killed then, the thread would wait
       for an answer that can never come, and keep the connection open for ever. Processes of their own do that.
"""

import errno
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Final

import pyfuse3
import trio

from fuse.mountpoint import Mounted, abort, check_mountpoint, check_system, mounted_at, sync, tune, unmount
from fuse.operations import Operations
from fuse.options import Options
from sds.core.errors import BackendError, BadInput, Busy

TASKS_MIN: Final = 8
TASKS_MAX: Final = 128
GRACE_S: Final = 2.0
"""For the loop to notice that it is unmounted; longer, and something keeps the connection: another namespace."""
_log = logging.getLogger(__name__)
_serving: "list[Mount]" = []


class Mount:
    """`mountpoint` is made absolute. Use: `await nursery.start(mount.serve)`, later `await mount.stop()`."""

    def __init__(self, operations: Operations, mountpoint: str, options: Options) -> None:
        self.mountpoint = os.path.realpath(mountpoint)
        self._operations = operations
        self._options = options
        self._mounted: Mounted | None = None
        self._detached = False
        self._stopping = trio.Lock()
        self._invalidating = trio.Lock()
        self._over = trio.Event()
        self._closed = trio.Event()
        self._error: Exception | None = None

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Returns when the mount has ended. BadInput, Busy, BackendError, each with what to do."""
        self._begin()
        announced = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._loop, nursery.cancel_scope)
                await self._greeted()
                task_status.started()
                announced = True
        finally:
            self._over.set()
            with trio.CancelScope(shield=True):
                await self._close()
            self._closed.set()
        if self._error is not None:
            raise BackendError(f"the mount on {self.mountpoint} broke off: {self._error!r}; mount it again")
        if not announced:
            raise BackendError(f"{self.mountpoint} was unmounted before it was ready; mount it again")

    def _begin(self) -> None:
        if _serving:
            raise Busy(f"this process serves {_serving[0].mountpoint} already: a process has one mount")  # MO1
        check_mountpoint(self.mountpoint)
        check_system()
        start_session(self._operations, self.mountpoint, self._options)
        _serving.append(self)
        self._mounted = mounted_at(self.mountpoint)

    async def _loop(self, scope: trio.CancelScope) -> None:
        try:
            await pyfuse3.main(min_tasks=TASKS_MIN, max_tasks=TASKS_MAX)
        except Exception as error:  # told by serve(), when the mount is closed
            self._error = error
        scope.cancel()

    async def _greeted(self) -> None:
        """MO4."""
        await self._operations.greeted.wait()
        if self._mounted is not None:
            tune(self._mounted, self._options.read_ahead_kib, self._options.background)

    # -- the end ------------------------------------------------------------------------------------------------------

    async def stop(self, *, force: bool = True) -> None:
        """MO2. Returns when the session is closed. Busy without `force` if somebody uses the mount."""
        async with self._stopping:
            if self not in _serving:
                return
            refusal = await trio.to_thread.run_sync(unmount, self.mountpoint)
            if refusal is None:
                self._detached = True
                with trio.move_on_after(GRACE_S):
                    await self._closed.wait()
            elif not force:
                raise Busy(f"{self.mountpoint} is in use ({refusal}): end who uses it (fuser -vm {self.mountpoint})")
            else:
                _log.warning("%s is in use and is cut off: %s", self.mountpoint, refusal)
                await self._cut_off()
            if not self._over.is_set():
                pyfuse3.terminate()
            await self._closed.wait()

    async def _cut_off(self) -> None:
        """What the kernel holds of open files is written first; what they write from now on is lost to them."""
        try:
            await trio.to_thread.run_sync(sync, self.mountpoint)
        except OSError as error:
            _log.warning("%s: not everything was written back: %s", self.mountpoint, error.strerror)
        self._detached = await trio.to_thread.run_sync(lambda: unmount(self.mountpoint, lazily=True)) is None

    async def _close(self) -> None:
        """Blocks for a moment at most: the connection ends with its file descriptor."""
        if await self._no_invalidation():
            pyfuse3.close(unmount=not self._detached)
        # A connection that was aborted leaves its mountpoint behind.
        if not self._detached and self._mounted is not None and mounted_at(self.mountpoint) == self._mounted:
            refusal = unmount(self.mountpoint, lazily=True)
            if refusal is not None:
                _log.warning("%s is still mounted: %s", self.mountpoint, refusal)
        _serving.remove(self)

    async def _no_invalidation(self) -> bool:
        """MO3. One that waits for a request that nobody answers any more ends when the connection is aborted."""
        for attempt in range(2):
            with trio.move_on_after(GRACE_S if attempt else 0.5):
                await self._invalidating.acquire()  # kept: there will be no more
                return True
            abort(self.mountpoint)
        _log.error("%s: an invalidation does not end; the connection ends with this process", self.mountpoint)
        return False

    # -- invalidation -------------------------------------------------------------------------------------------------

    async def invalidate_inode(self, inode: int, *, attr_only: bool = False) -> None:
        """The kernel asks again for attributes and contents of this node. Never from within a handler."""
        await self._invalidate(lambda: pyfuse3.invalidate_inode(inode, attr_only))

    async def invalidate_entry(self, parent: int, name: bytes, deleted: int = 0) -> None:
        """The kernel asks again for this name, also if it was told that there is none. Never from within a handler."""
        await self._invalidate(lambda: pyfuse3.invalidate_entry(parent, name, deleted))

    async def _invalidate(self, call: Callable[[], None]) -> None:
        async with self._invalidating:
            if self._over.is_set() or self not in _serving:
                return
            try:
                await trio.to_thread.run_sync(call)
            except OSError as error:
                # It does not know the node or the name, which is what was wanted; or it is gone itself.
                if error.errno not in (errno.ENOENT, errno.ENOTCONN, errno.ENODEV, errno.ENOTEMPTY):
                    raise


def start_session(operations: Operations, mountpoint: str, options: Options) -> None:
    """pyfuse3.init; libfuse and fusermount3 say on stderr why they fail: this becomes the message."""
    words = options.for_libfuse(as_root=os.geteuid() == 0)
    failed = ""
    with tempfile.TemporaryFile() as said:
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            pyfuse3.init(operations, mountpoint, words)
        except RuntimeError as error:
            failed = str(error)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        said.seek(0)
        lines = said.read().decode(errors="replace").splitlines()
    reasons = [line for line in lines if line.startswith("fuse")]
    for line in lines:
        if line not in reasons or not failed:
            print(line, file=sys.stderr)  # somebody else's, or only a warning
    if failed:
        if "mount" in failed:  # else there is no session to close
            pyfuse3.close(unmount=False)
        raise _refused(mountpoint, "; ".join(reasons))


def _refused(mountpoint: str, text: str) -> BadInput | BackendError:
    if "allow_other" in text:
        return BadInput("allow_other is not allowed to users: put user_allow_other into /etc/fuse.conf, or be root")
    if "unknown option" in text:
        return BadInput(f"libfuse does not know a mount option: {text}")
    if "ermission denied" in text or "not permitted" in text or "no write access" in text:
        return BackendError(f"{mountpoint} may not be mounted on ({text}): own and be able to write it, or be root")
    return BackendError(f"{mountpoint} cannot be mounted: {text or 'libfuse does not say why'}; try as root")
