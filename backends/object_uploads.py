"""Uploads: from the journal to the object store, in the background, for ever if need be.

What is in the journal:

    name                what
    <name>              a file of the backend, open or sealed
    sealed/<name>       marker: <name> is complete and durable, and is to be uploaded; holds its size in decimal

  UP1  A file is uploaded only if its marker is there, which is written after its seal. Without one it is open, and its
       owner's business.
  UP2  Content is never replaced: objects are put with only_new where the store can; where it says that there is one, or
       where this process does not know what an earlier one did, the object is compared first. One that differs is left
       alone, and so is the file (Corrupt, for the operator).
  UP3  After the upload the file goes to the cache, or is deleted, then the marker goes. A crash anywhere (and deleted
       files that come back, B9) is repaired by `scan`, which knows: file and object -> uploaded; marker alone -> done.
  UP4  Order: by name, lowest first, but those that failed more often later; `parallelism` at once, one at a time while
       uploads fail. Errors are tried again for ever: credentials may come back, room may be made.
  UP5  A file that is deleted while it is uploaded is deleted from the store again after the upload.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import trio

from sds.core.errors import BackendError, Corrupt, Exists, Missing, SdsError

from .base import HANG_S, Backend
from .cache import Cache
from .object_stats import CountedStore

SEALED = "sealed/"
MARKER_LIMIT_BYTES = 32
RETRY_FIRST_S = 0.5
RETRY_MAX_S = 30.0
PATIENCE_S = HANG_S
"""So long a caller waits for a store that fails."""
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Upload:
    name: str
    size_bytes: int
    doubtful: bool
    """Found, not made by this process: it may be up already."""
    marked: bool = True
    """False: a file without marker. If there is an object, the file is a leftover (UP3); else it is none of ours."""
    active: bool = False
    uploaded: bool = False
    deleted: bool = False
    failures: int = 0
    not_before: float = 0.0
    failing_since: float = 0.0
    error: str = ""


class Uploads:
    def __init__(self, store: CountedStore, journal: Backend, cache: Cache, moved: Callable[[str], None]) -> None:
        """`moved` is told of each file that is in the store, before it leaves the journal."""
        self._store = store
        self._journal = journal
        self._cache = cache
        self._moved = moved
        self._pending: dict[str, Upload] = {}
        self._changed = trio.Event()
        self._pumping = False
        self.failed = 0
        """Attempts, ever."""
        self._failures = 0
        """In a row, of all uploads together."""
        self._retry_at = 0.0
        self._complained = False

    def add(self, name: str, size_bytes: int, doubtful: bool = False, marked: bool = True) -> None:
        there = self._pending.get(name)
        if there is None or there.deleted or (marked and not there.marked):
            self._pending[name] = Upload(name, size_bytes, doubtful, marked)
            self.notify()

    def forget(self, name: str) -> Upload | None:
        """The file is being deleted. Hands back what is under way, which deletes the object itself (UP5)."""
        upload = self._pending.get(name)
        if upload is None:
            return None
        upload.deleted = True
        if upload.active:
            return upload
        del self._pending[name]
        self.notify()
        return None

    def sealed_size(self, name: str) -> int | None:
        upload = self._pending.get(name)
        return None if upload is None or upload.deleted or not upload.marked else upload.size_bytes

    @property
    def pending_files(self) -> int:
        return sum(upload.marked for upload in self._pending.values())

    @property
    def pending_bytes(self) -> int:
        return sum(upload.size_bytes for upload in self._pending.values() if upload.marked)

    def notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait_change(self, limit_s: float) -> None:
        with trio.move_on_after(limit_s):
            await self._changed.wait()

    async def scan(self, prefix: str, mine: Callable[[str], bool] | None) -> None:
        """Queues what the journal has. `mine`: of files without a marker, look after these that are leftovers."""
        markers = await self._journal.list(SEALED + prefix)
        for marker in markers:
            name = marker.name.removeprefix(SEALED)
            if name not in self._pending:
                size = await self._marked_size(name)
                if size is not None:
                    self.add(name, size, doubtful=True)
        if mine is not None:
            marked = {marker.name.removeprefix(SEALED) for marker in markers}
            for stat in await self._journal.list(prefix):
                if not stat.name.startswith(SEALED) and stat.name not in marked and mine(stat.name):
                    self.add(stat.name, stat.size_bytes, doubtful=True, marked=False)

    async def settle(self, prefix: str) -> None:
        """Until what is pending now under the prefix is done. Uploads itself if nobody else does."""
        wanted = [upload for name, upload in self._pending.items() if name.startswith(prefix) and upload.marked]
        while left := [upload for upload in wanted if self._is_pending(upload)]:
            for upload in left:
                if self._hopeless(upload):
                    raise BackendError(f"{len(left)} files under {prefix or '/'} are not uploaded yet: {upload.error}")
            await self.help(lambda: not any(self._is_pending(u) and not self._hopeless(u) for u in wanted))

    async def help(self, done: Callable[[], bool]) -> None:
        """Uploads until `done`, or waits a little for who does."""
        if self._pumping:
            await self.wait_change(1.0)
        else:
            await self.pump(done)

    async def pump(self, done: Callable[[], bool]) -> None:
        """Uploads until `done`; one at a time does this."""
        assert not self._pumping
        self._pumping = True
        try:
            async with trio.open_nursery() as nursery:
                while not done():
                    changed = self._changed
                    upload, wait_s = self._choose()
                    if upload is not None:
                        upload.active = True
                        nursery.start_soon(self._attempt, upload)
                    else:
                        with trio.move_on_after(min(wait_s, 1.0)):
                            await changed.wait()
        finally:
            self._pumping = False
            self.notify()

    @property
    def pumping(self) -> bool:
        return self._pumping

    def _is_pending(self, upload: Upload) -> bool:
        return self._pending.get(upload.name) is upload and not upload.deleted

    def _hopeless(self, upload: Upload) -> bool:
        return upload.failures > 0 and trio.current_time() - upload.failing_since >= PATIENCE_S

    def _choose(self) -> tuple[Upload | None, float]:
        """What to upload now; else how long there is nothing to do."""
        now = trio.current_time()
        active = sum(upload.active for upload in self._pending.values())
        if active >= (1 if self._failures else self._store.parallelism):
            return None, float("inf")
        idle = [upload for upload in self._pending.values() if not upload.active]
        wait_s = self._retry_at - now
        if wait_s <= 0:
            ready = [upload for upload in idle if upload.not_before <= now]
            if ready:
                return min(ready, key=lambda upload: (upload.failures, upload.name)), 0.0
            wait_s = min((upload.not_before - now for upload in idle), default=float("inf"))
        return None, wait_s

    async def _attempt(self, upload: Upload) -> None:
        try:
            if not upload.marked:
                await self._sweep(upload)
            else:
                if not upload.uploaded and not upload.deleted:
                    await self._upload(upload)
                await self._finish(upload)
        except SdsError as error:
            self._note_failure(upload, error)
        else:
            self._note_success(upload)
        finally:
            upload.active = False
            self.notify()

    async def _upload(self, upload: Upload) -> None:
        content = bytearray(upload.size_bytes)
        try:
            reader = await self._journal.open(upload.name)
        except Missing:
            await self._note_gone(upload)
            return
        try:
            await reader.read(0, memoryview(content))
        finally:
            reader.close()
        if upload.doubtful and await self._store.size_of(upload.name) is not None:
            await self._compare(upload, content)
        else:
            try:
                await self._store.put(upload.name, memoryview(content), only_new=self._store.conditional)
            except Exists:  # A put of ours that timed out has been carried out after all, or another process did it.
                await self._compare(upload, content)
        upload.uploaded = True

    async def _compare(self, upload: Upload, content: bytearray) -> None:
        """UP2. A file that came back with other bytes (B9) is not worth more than its object, but who knows."""
        found = await self._store.fetch(upload.name, max(1 << 30, upload.size_bytes))
        if found.content != content:
            raise Corrupt(
                f"{self._store.url}: {upload.name}: the object differs from the file in {self._journal.url};"
                f" neither is touched: scrub the pool, then delete the file there"
            )

    async def _note_gone(self, upload: Upload) -> None:
        upload.uploaded = True
        if await self._marked_size(upload.name) is not None and await self._store.size_of(upload.name) is None:
            _log.warning("%s: %s was sealed, but is neither here nor in the store", self._journal.url, upload.name)

    async def _finish(self, upload: Upload) -> None:
        """UP3, UP5."""
        if not upload.deleted:
            taken = await self._cache.take(upload.name, upload.size_bytes, self._journal)
            self._moved(upload.name)
            if not taken:
                await self._journal.delete(upload.name)
            await self._journal.delete(SEALED + upload.name)
        if upload.deleted and self._pending.get(upload.name) is None:  # else the name has a new file
            await self._store.delete(upload.name)
            await self._cache.drop(upload.name)

    async def _sweep(self, upload: Upload) -> None:
        """A file without marker, left by an earlier process: if there is an object, only that counts."""
        if await self._store.size_of(upload.name) is not None and self._is_pending(upload):
            self._moved(upload.name)
            await self._journal.delete(upload.name)

    async def _marked_size(self, name: str) -> int | None:
        try:
            return int(await self._journal.get(SEALED + name, MARKER_LIMIT_BYTES))
        except Missing:
            return None
        except ValueError as error:
            where = f"{self._journal.url}: {SEALED}{name}"
            raise Corrupt(f"{where}: is no marker; delete it if the pool has no such segment") from error

    def _note_failure(self, upload: Upload, error: SdsError) -> None:
        now = trio.current_time()
        self.failed += 1
        if now >= self._retry_at:  # Those that fail together count as one.
            self._failures += 1
            self._retry_at = now + backoff_s(self._failures)
        upload.failing_since = upload.failing_since if upload.failures else now
        upload.failures += 1
        upload.not_before = now + backoff_s(upload.failures)
        upload.error = str(error)
        if upload.deleted and not upload.marked:
            self._drop(upload)
        self.complain(error)

    def complain(self, error: SdsError) -> None:
        if not self._complained:
            self._complained = True
            _log.warning("uploads fail, trying on: %s", error)

    def _note_success(self, upload: Upload) -> None:
        self._failures = 0
        self._retry_at = 0.0
        self._drop(upload)
        if self._complained and not any(upload.failures for upload in self._pending.values()):
            self._complained = False
            _log.warning("%s: uploads work again", self._store.url)

    def _drop(self, upload: Upload) -> None:
        if self._pending.get(upload.name) is upload:
            del self._pending[upload.name]


def backoff_s(failures: int) -> float:
    return float(min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** min(failures - 1, 10)))
