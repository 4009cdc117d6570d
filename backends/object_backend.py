"""The object backend: a Backend (base.py) over an object store, which cannot append.

    journal   a backend on this machine: files are written there and stay until they are uploaded (object_uploads.py)
    cache     what was uploaded or fetched, under a size limit (cache.py)
    store     where everything ends

  OB1  Durable means durable in the journal until a file was uploaded: a machine that is lost takes the rest with it.
       settle waits for the upload.
  OB2  A file is in the journal, or in the store, or in both; never in neither. Whoever looks for it looks in the
       journal first, and reads what moves meanwhile without noticing (OR2).
  OB3  At most `journal_size` bytes of files are in the journal: beyond it create waits for uploads. Where waiting is
       no use (the store fails, or all of it are files still open) it raises NoSpace. What other processes have there is
       looked up once a second.
  OB4  Files under IMMUTABLE have one content for ever and are cached. Others are small, may be replaced, and are read
       whole. put goes to the store, conditional where it can, so that a late duplicate of an older put cannot win.
  OB5  Of B1, a name that only the store has is not noticed by create, but by the upload, which never replaces (UP2):
       names are not used twice.
  OB6  Without a journal nothing can be created; the rest works.
"""

import math
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from sds.core.errors import BadInput, Exists, Missing, NoSpace, SdsError

from .base import Backend, Reader, Stat, Usage
from .cache import Cache, MemoryCache
from .cache_directory import DirectoryCache
from .directory import DirectoryBackend
from .names import check_name, check_prefix, check_size
from .object_fetch import Fetcher
from .object_put import WHOLE_LIMIT_BYTES, replace_with
from .object_reader import JournalReader, ObjectReader, WholeReader, open_in_store
from .object_stats import CountedStore, ObjectStats
from .object_uploads import PATIENCE_S, SEALED, Uploads
from .objects import ObjectStore

IMMUTABLE = ("segments/", "packs/")
DELETE_WAIT_S = 10.0
SIZES_MAX = 1 << 17
JOURNAL_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    journal_size_bytes: int = 1 << 30
    capacity_bytes: int = 1 << 50


class ObjectBackend:
    def __init__(self, store: ObjectStore, journal: Backend | None, cache: Cache, limits: Limits) -> None:
        self._store = CountedStore(store)
        self._journal = journal
        self._cache = cache
        self._limits = limits
        self._uploads = Uploads(self._store, journal, cache, self._left_journal) if journal is not None else None
        self._fetcher = Fetcher(self._store, cache.chunk_bytes)
        self._readers: dict[str, set[JournalReader]] = {}
        self._moves = 0
        self._mine: dict[str, int] = {}
        """Files in the journal that this process made, with the room they take."""
        self._others: dict[str, int] = {}
        self._others_at = -math.inf
        self._sealed: set[str] = set()
        self._owned: list[str] = []
        self._unscanned: list[str] = []
        self._sizes: dict[str, int] = {}
        self._tags: dict[str, str] = {}
        self._used_bytes = 0

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def store(self) -> ObjectStore:
        """For what needs compare-and-set (sds.pool.owner)."""
        return self._store

    # Writing

    async def create(self, name: str, size_bytes: int) -> None:
        journal, uploads = self._need_journal(name)
        check_name(self.url, name)
        check_name(self.url, SEALED + name)
        check_size(self.url, name, size_bytes, 1 << 62)
        if name in self._mine or name in self._sizes:
            raise Exists(f"{self.url}: {name}: exists already; choose another name")
        await self._need_room(journal, uploads, name, size_bytes)
        if name in self._mine:
            raise Exists(f"{self.url}: {name}: exists already; choose another name")
        self._mine[name] = size_bytes
        try:
            await journal.create(name, size_bytes)
        except BaseException:
            del self._mine[name]
            raise

    async def write(self, name: str, offset: int, data: memoryview, sync: bool = False) -> None:
        journal, _ = self._need_journal(name)
        await journal.write(name, offset, data, sync)

    async def sync(self, name: str) -> None:
        journal, _ = self._need_journal(name)
        try:
            await journal.sync(name)
        except Missing:
            if await self._store.size_of(name) is None:  # A file that was uploaded is as durable as can be.
                raise

    async def seal(self, name: str, size_bytes: int) -> None:
        journal, uploads = self._need_journal(name)
        if await self._sealed_already(journal, uploads, name, size_bytes):
            return
        await journal.seal(name, size_bytes)
        self._sealed.add(name)
        await journal.put(SEALED + name, b"%d" % size_bytes)
        if name in self._mine:
            self._mine[name] = size_bytes
        uploads.add(name, size_bytes)

    async def _sealed_already(self, journal: Backend, uploads: Uploads, name: str, size_bytes: int) -> bool:
        """Sealing again is fine, with the same size; after the upload, too."""
        known = uploads.sealed_size(name)
        if known is None and name not in self._mine:
            check_name(self.url, name)
            await uploads.scan(name, None)
            known = uploads.sealed_size(name)
            if known is None and all(stat.name != name for stat in await journal.list(name)):
                known = self._sizes.get(name) or await self._store.size_of(name)
        if known is not None and known != size_bytes:
            raise BadInput(f"{self.url}: {name}: is sealed with {known} bytes; it cannot become {size_bytes}")
        return known is not None

    async def put(self, name: str, data: bytes) -> None:
        check_name(self.url, name)
        self._sizes.pop(name, None)
        await self._cache.drop(name)
        if self._store.conditional:
            self._tags[name] = await replace_with(self._store, name, data, self._tags.pop(name, None))
        else:
            await self._store.put(name, data)

    async def delete(self, name: str) -> None:
        check_name(self.url, name)
        upload = self._uploads.forget(name) if self._uploads is not None else None
        if self._journal is not None:
            await self._journal.delete(SEALED + name)
            await self._journal.delete(name)
        await self._cache.drop(name)
        if upload is not None and self._uploads is not None:
            with trio.move_on_after(DELETE_WAIT_S):
                while upload.active:
                    await self._uploads.wait_change(1.0)
        if name not in self._mine or name in self._sealed:  # Else it cannot have been uploaded.
            await self._store.delete(name)
        self._used_bytes = max(0, self._used_bytes - self._sizes.pop(name, 0))
        self._forget(name)

    # Reading

    async def open(self, name: str) -> Reader:
        return await self._open_either(name, self._open_object)

    async def open_original(self, name: str) -> Reader:
        return await self._open_either(name, lambda name: open_in_store(self._store, name))

    async def _open_either(self, name: str, open_object: Callable[[str], Awaitable[Reader]]) -> Reader:
        check_name(self.url, name)
        while self._journal is not None:
            moves = self._moves
            try:
                inner = await self._journal.open(name)
            except Missing:
                break
            if moves == self._moves:
                reader = JournalReader(self.url, name, inner, lambda: open_object(name), self._release)
                self._readers.setdefault(name, set()).add(reader)
                return reader
            inner.close()  # Some file left the journal meanwhile: look again.
        return await open_object(name)

    async def _open_object(self, name: str) -> Reader:
        if not name.startswith(IMMUTABLE):
            return WholeReader(self.url, name, (await self._store.fetch(name, WHOLE_LIMIT_BYTES)).content)
        size = self._sizes.get(name)
        if size is None:
            size = await self._cache.find(name)
        if size is None:
            size = await self._store.size_of(name)
        if size is None:
            raise Missing(f"{self.url}: {name}: no such file")
        self._know(name, size)
        return ObjectReader(self.url, name, await self._cache.open(name, size), self._fetcher)

    async def get(self, name: str, size_limit_bytes: int) -> bytes:
        check_name(self.url, name)
        try:
            return (await self._store.fetch(name, size_limit_bytes)).content
        except Missing:
            if self._journal is None:
                raise
            return await self._journal.get(name, size_limit_bytes)

    async def list(self, prefix: str) -> list[Stat]:
        """The journal first: what moves between the two looks is then seen twice, not never."""
        check_prefix(self.url, prefix)
        local = await self._journal.list(prefix) if self._journal is not None else []
        remote = await self._store.list(prefix)
        for stat in remote:
            if stat.name.startswith(IMMUTABLE):
                self._know(stat.name, stat.size_bytes)
        if not prefix:
            self._used_bytes = sum(stat.size_bytes for stat in remote)
        found = {stat.name: stat for stat in remote}
        found.update({stat.name: stat for stat in local if not stat.name.startswith(SEALED)})
        return [found[name] for name in sorted(found)]

    # Uploads

    def own(self, prefix: str) -> None:
        """This process looks after the files under the prefix: `run` uploads what an earlier process left there."""
        check_prefix(self.url, prefix)
        if prefix not in self._owned:
            self._owned.append(prefix)
            self._unscanned.append(prefix)
            if self._uploads is not None:
                self._uploads.notify()

    async def run(self, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Uploads until it is cancelled."""
        task_status.started()
        uploads = self._uploads
        if uploads is None:
            return
        while True:
            if self._unscanned:
                await self._scan_owned(uploads)
            elif uploads.pumping:
                await uploads.wait_change(1.0)
            else:
                await uploads.pump(lambda: bool(self._unscanned))

    async def _scan_owned(self, uploads: Uploads) -> None:
        prefix = self._unscanned[0]
        try:
            await uploads.scan(prefix, lambda name: name not in self._mine)
            self._unscanned.remove(prefix)
        except SdsError as error:
            uploads.complain(error)
            await trio.sleep(1.0)

    async def settle(self, prefix: str) -> None:
        check_prefix(self.url, prefix)
        await trio.lowlevel.checkpoint()
        if self._uploads is None:
            return
        if prefix in self._unscanned or not any(prefix.startswith(owned) for owned in self._owned):
            await self._uploads.scan(prefix, None)
        await self._uploads.settle(prefix)

    # State

    def usage(self) -> Usage:
        """`known used`: the last whole listing, and what this process did since."""
        total = self._limits.capacity_bytes
        return Usage(total, 0 if self._store.full else max(0, total - self._used_bytes))

    def stats(self) -> ObjectStats:
        uploads = self._uploads
        return ObjectStats(
            error=self._store.error(),
            failing_s=self._store.failing_s(),
            full=self._store.full,
            pending_files=uploads.pending_files if uploads is not None else 0,
            pending_bytes=uploads.pending_bytes if uploads is not None else 0,
            journal_bytes=self._journal_bytes(),
            cache_bytes=self._cache.used_bytes(),
            requests=dict(self._store.requests),
            bytes=dict(self._store.bytes),
        )

    async def close(self) -> None:
        await self._fetcher.close()
        await self._cache.close()
        if self._journal is not None:
            await self._journal.close()
        await self._store.close()

    # The journal

    def _need_journal(self, name: str) -> tuple[Backend, Uploads]:
        if self._journal is None or self._uploads is None:
            raise BadInput(f"{self.url}: {name}: opened without a local directory; nothing can be written here")
        return self._journal, self._uploads

    def _journal_bytes(self) -> int:
        return sum(self._mine.values()) + sum(s for n, s in self._others.items() if n not in self._mine)

    async def _need_room(self, journal: Backend, uploads: Uploads, name: str, size_bytes: int) -> None:
        """OB3."""
        limit = self._limits.journal_size_bytes
        where = f"{self.url}: {name}"
        if size_bytes > limit:
            raise NoSpace(f"{where}: {size_bytes} bytes do not fit in a journal of {limit}; make the journal larger")
        idle_since = trio.current_time()
        tried = False
        while True:
            if trio.current_time() - self._others_at >= JOURNAL_LOOK_S:
                self._others_at = trio.current_time()
                listed = await journal.list("")
                self._others = {s.name: s.size_bytes for s in listed if not s.name.startswith(SEALED)}
            taken = self._journal_bytes()
            if taken + size_bytes <= limit:
                return
            if self._store.failing_s("put") >= PATIENCE_S and (uploads.pumping or tried):
                error = self._store.error("put")
                raise NoSpace(f"{where}: the journal is full and uploads fail: {error}")
            if uploads.pending_files:
                idle_since = trio.current_time()
                await uploads.help(self._enough(uploads, taken))
                tried = True
            elif trio.current_time() - idle_since >= PATIENCE_S:
                raise NoSpace(f"{where}: the journal of {limit} bytes is full of open files; make the journal larger")
            else:
                await uploads.wait_change(JOURNAL_LOOK_S)

    def _enough(self, uploads: Uploads, taken: int) -> Callable[[], bool]:
        """Room was made; or an upload failed in vain once more."""
        failed = uploads.failed
        store = self._store
        return lambda: (
            self._journal_bytes() < taken or (uploads.failed > failed and store.failing_s("put") >= PATIENCE_S)
        )

    def _left_journal(self, name: str) -> None:
        """In the store, and leaves the journal now."""
        self._moves += 1
        for reader in self._readers.pop(name, ()):
            reader.moved()
        size = self._mine.get(name, self._others.get(name, 0))
        self._used_bytes += size
        if name.startswith(IMMUTABLE) and name in self._mine:
            self._know(name, size)
        self._forget(name)

    def _forget(self, name: str) -> None:
        self._mine.pop(name, None)
        self._others.pop(name, None)
        self._sealed.discard(name)
        if self._uploads is not None:
            self._uploads.notify()

    def _release(self, reader: JournalReader) -> None:
        readers = self._readers.get(reader.name)
        if readers is not None:
            readers.discard(reader)
            if not readers:
                del self._readers[reader.name]

    def _know(self, name: str, size_bytes: int) -> None:
        if len(self._sizes) >= SIZES_MAX:
            self._sizes.pop(next(iter(self._sizes)))
        self._sizes[name] = size_bytes


def object_backend(
    store: ObjectStore, local: Path | None, cache_size_bytes: int, journal_size_bytes: int, capacity_bytes: int
) -> ObjectBackend:
    """With journal and cache in `local`, which is made; without both if that is None. Blocks for a few system calls."""
    limits = Limits(journal_size_bytes, capacity_bytes)
    if local is None:
        return ObjectBackend(store, None, MemoryCache(8 << 20), limits)
    try:
        for part in ("journal", "cache"):
            os.makedirs(local / part, mode=0o700, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{local}: cannot hold journal and cache: {error.strerror}; choose another") from error
    cache = DirectoryCache(str(local / "cache"), cache_size_bytes)
    return ObjectBackend(store, DirectoryBackend(str(local / "journal")), cache, limits)
