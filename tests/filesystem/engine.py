"""A filesystem in the simulator as a subject of the differential machine, in a thread with a loop of its own.

  EN1  The machine and the loop take turns: while an operation runs, the caller waits for it.
  EN2  `reopen` closes in order and opens again; `kill` leaves everything as kill -9 does and opens what is left. Both
       close what is open: the kernel's open files end with the mount.
"""

import errno
import queue
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

from sds.core.errors import SdsError
from sds.dataset.dataset import Dataset
from sds.filesystem.check import check_tree
from sds.filesystem.opening import open_filesystem
from tests.filesystem.facts import Tree
from tests.filesystem.vfs import ROOT, Vfs
from tests.sim.world import Shape, World

T = TypeVar("T")
NAME = "home"
CALL_TIMEOUT_S = 30


class Engine:
    """`World.new` with one filesystem, open. `close` ends it."""

    def __init__(self, shape: Shape | None = None, properties: dict[str, str] | None = None) -> None:
        self.world = World.new(shape or Shape())
        self.world.catalog.create_dataset(NAME, "fs", 0, properties)
        self._life = _Life(self.world)

    def run(self, operation: str, *arguments: object) -> object:
        """EN1. By path, as a program does it."""
        return self._outcome(getattr(self._life.vfs, operation), *arguments)

    def outcome(self, operation: str, *arguments: object) -> object:
        """As `fs`; of an error its name."""
        return self._outcome(getattr(self._life.vfs.fs, operation), *arguments)

    def _outcome(self, function: Callable[..., Awaitable[object]], *arguments: object) -> object:
        try:
            return self.call(function, *arguments)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        except SdsError as error:
            return errno.errorcode[error.errno]

    def call(self, function: Callable[..., Awaitable[T]], *arguments: object) -> T:
        return self._life.call(function, *arguments)

    def fs(self, operation: str, *arguments: object) -> Any:
        """An operation of the filesystem itself; its errors are raised."""
        return self.call(getattr(self._life.vfs.fs, operation), *arguments)

    @property
    def vfs(self) -> Vfs:
        return self._life.vfs

    @property
    def dataset(self) -> Dataset:
        return self._life.dataset

    def tree(self) -> Tree:
        return self.call(self._life.vfs.tree)

    def close_all(self) -> None:
        self.call(self._life.vfs.close_all)

    def problems(self) -> list[str]:
        """What the internal check finds."""
        return self.call(check_tree, self._life.vfs.fs, True)

    def checkpoint(self) -> None:
        self.call(self.dataset.checkpoint)

    def reopen(self) -> None:
        """EN2."""
        self.close_all()
        self._life.end(in_order=True)
        self._life = _Life(self.world)

    def kill(self) -> None:
        """EN2."""
        before, self.world = self.world, trio.from_thread.run_sync(self.world.kill, trio_token=self._life.token)
        self._life.end(in_order=False)
        before.close()
        self._life = _Life(self.world)

    def close(self) -> None:
        self._life.end(in_order=True)
        self.world.close()


class _Life:
    """From the opening of the filesystem to its end, in a thread."""

    dataset: Dataset
    vfs: Vfs
    token: trio.lowlevel.TrioToken

    def __init__(self, world: World) -> None:
        self._world = world
        self._opened: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._scope = trio.CancelScope()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        error = self._opened.get()
        if error is not None:
            self._thread.join()
            raise error

    def call(self, function: Callable[..., Awaitable[T]], *arguments: object) -> T:
        async def within_time() -> T:
            with trio.fail_after(CALL_TIMEOUT_S):
                return await function(*arguments)

        try:
            return trio.from_thread.run(within_time, trio_token=self.token)
        except trio.RunFinishedError:
            self._thread.join()
            raise self._error or AssertionError("the loop ended by itself") from None

    def end(self, in_order: bool) -> None:
        trio.from_thread.run_sync(self._end.set if in_order else self._scope.cancel, trio_token=self.token)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            trio.run(self._live)
        except BaseException as error:
            self._error = error
            self._opened.put(error)

    async def _live(self) -> None:
        self.token = trio.lowlevel.current_trio_token()
        self._end = trio.Event()
        with self._scope:
            async with self._world.open(NAME) as self.dataset:
                self.vfs = Vfs(await open_filesystem(self.dataset, ROOT, time.time_ns))
                self._opened.put(None)
                await self._end.wait()
