"""A disk in memory that can lose its power: the whole backend contract without thread, file or wall time.

  S1  Everything random (latency, whether read_nowait has to wait) comes from the seed; nothing else does.
  S2  An operation in flight is pending already: a crash may keep, drop or tear it (E1).
  S3  Reads see live bytes: durable ones with all pending writes that have been carried out.
  S4  put, sync and seal settle what they promise when they return, not earlier. Pending stay: a create until the
      file's first sync or seal (B1); a delete (B9) until DELETES_PENDING_MAX newer ones or a durable file of its name.
  S5  A copy (`crash_states`, `kill_state`) shares nothing mutable with the original, has no fault plan and no
      observer, knows no failed file, and does not disturb the original's randomness.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, TypeVar

import trio

from backends.base import PAGE, Stat, Usage
from backends.faulty import FaultPlan, Kind
from backends.names import check_name, check_prefix, check_range, check_read, check_size
from sds.core.errors import BackendError, Corrupt, Exists, Missing, NoSpace, SdsError

from .effects import CutEffect, Effect, Fate, File, NameEffect, WriteEffect, apply_effect, choose_fates
from .image import ZERO_PAGE, Image, image_of, pages_of

DELETES_PENDING_MAX = 4
SyncFailure = Literal["drop", "keep", "zero"]
NewEffect = TypeVar("NewEffect", WriteEffect, CutEffect, NameEffect)
Observer = Callable[[str, str], None]


class SimDisk:
    """`faults` may be replaced at any time. `observer(event, name)` is called at start, effect and end of an
    operation (`write:start`, `write:done`, `write:end`), synchronously: the place to take crash copies."""

    def __init__(
        self,
        seed: int = 0,
        capacity_bytes: int | None = None,
        faults: FaultPlan | None = None,
        sync_failure: SyncFailure = "drop",
        latency: int = 3,
        url: str = "sim:0",
    ) -> None:
        self.seed = seed
        self.capacity_bytes = capacity_bytes
        self.faults = faults or FaultPlan()
        self.sync_failure: SyncFailure = sync_failure
        self.latency = latency
        self.observer: Observer | None = None
        self.operations = 0
        self._url = url
        self._rng = random.Random(seed)
        self._names: dict[str, File] = {}
        self._durable_names: dict[str, File] = {}
        self._pending: list[Effect] = []
        self._spare: Image | None = None

    @property
    def url(self) -> str:
        return self._url

    async def create(self, name: str, size_bytes: int) -> None:
        check_name(self._url, name)
        check_size(self._url, name, size_bytes, 1 << 62)
        fault = await self._start("create", name)
        self._refuse_existing(name)
        self._need_room(name, size_bytes)
        file = File.of(self._fresh_image(size_bytes))
        effect = self._begin(NameEffect(name, file, creates=True))
        await self._latency()
        self._names[name] = file
        self._observe("create:done", name)
        await self._latency()
        effect.returned = True
        self._end("create", name, fault)

    def _fresh_image(self, size_bytes: int) -> Image:
        """Unwritten bytes are zeros, or those of a deleted file (B1)."""
        if self._spare is not None and self._spare.size == size_bytes and self._rng.random() < 0.5:
            return self._spare.share()
        return Image(size_bytes)

    async def write(self, name: str, offset: int, data: memoryview, sync: bool = False) -> None:
        check_range(self._url, name, offset, len(data), self._writable(name).live.size)
        pages = pages_of(offset, bytes(data))
        fault = await self._start("write", name)
        file = self._writable(name)
        effect = self._begin(WriteEffect(name, file, pages))
        await self._latency()
        file.live.write(pages)
        self._observe("write:done", name)
        await self._latency()
        effect.returned = True
        self._end("write", name, fault)
        if sync:
            await self.sync(name)

    async def sync(self, name: str) -> None:
        self._writable(name)
        fault = await self._start("sync", name)
        file = self._writable(name)
        covered = self._effects_of(file)
        await self._latency()
        self._settle(covered)
        self._settle_creation(file)
        self._end("sync", name, fault)

    async def seal(self, name: str, size_bytes: int) -> None:
        check_size(self._url, name, size_bytes, self._writable(name, sealing=True).live.size)
        fault = await self._start("seal", name)
        file = self._writable(name, sealing=True)
        covered = self._effects_of(file)
        effect = self._begin(CutEffect(name, file, size_bytes))
        await self._latency()
        file.live.cut(size_bytes)
        file.sealed = True
        self._observe("seal:done", name)
        await self._latency()
        self._settle([*covered, effect])
        self._settle_creation(file)
        self._end("seal", name, fault)

    async def open(self, name: str) -> "SimReader":
        check_name(self._url, name)
        fault = await self._start("open", name)
        await self._latency()
        file = self._existing(name)
        self._end("open", name, fault)
        return SimReader(self, name, file)

    async def put(self, name: str, data: bytes) -> None:
        check_name(self._url, name)
        fault = await self._start("put", name)
        self._need_room(name, len(data))
        file = File.of(image_of(data))
        effect = self._begin(NameEffect(name, file))
        await self._latency()
        self._names[name] = file
        self._observe("put:done", name)
        await self._latency()
        self._settle_name(effect)
        self._end("put", name, fault)

    async def get(self, name: str, size_limit_bytes: int) -> bytes:
        check_name(self._url, name)
        fault = await self._start("get", name)
        await self._latency()
        image = self._existing(name).live
        if image.size > size_limit_bytes:
            raise Corrupt(f"{self._url}: {name}: {image.size} bytes, expected at most {size_limit_bytes}")
        data = image.read(0, image.size)
        self._end("get", name, fault)
        return data

    async def delete(self, name: str) -> None:
        check_name(self._url, name)
        fault = await self._start("delete", name)
        if name in self._names:
            effect = self._begin(NameEffect(name, None))
            await self._latency()
            gone = self._names.pop(name, None)
            self._spare = gone.live.share() if gone is not None else self._spare
            self._observe("delete:done", name)
            await self._latency()
            effect.returned = True
            self._settle_old_deletes()
        self._end("delete", name, fault)

    async def list(self, prefix: str) -> list[Stat]:
        check_prefix(self._url, prefix)
        fault = await self._start("list", prefix)
        await self._latency()
        found = [Stat(n, f.live.size) for n, f in sorted(self._names.items()) if n.startswith(prefix)]
        self._end("list", prefix, fault)
        return found

    async def settle(self, prefix: str) -> None:
        await trio.lowlevel.checkpoint()

    def usage(self) -> Usage:
        total = self.capacity_bytes or 1 << 40
        return Usage(total, max(0, total - self._used_bytes()))

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()

    # Frame of an operation: _start (may raise), _begin (pending), ..., _end (may raise)

    async def _start(self, kind: Kind, name: str) -> SdsError | None:
        """Returns the fault that the operation must raise at its end, if any."""
        self.operations += 1
        strikes = self.faults.strikes(kind)
        failure = self.faults.failure(self._url, kind, name)
        self._observe(f"{kind}:start", name)
        await trio.lowlevel.checkpoint()  # Cancelled only here: a thread cannot be stopped.
        if strikes and self.faults.when == "before":
            self._spoil(kind, name)
            raise failure
        return failure if strikes else None

    def _begin(self, effect: NewEffect) -> NewEffect:
        self._pending.append(effect)
        return effect

    async def _latency(self) -> None:
        with trio.CancelScope(shield=True):
            for _ in range(self._rng.randint(0, self.latency)):
                await trio.lowlevel.checkpoint()

    def _end(self, kind: Kind, name: str, fault: SdsError | None) -> None:
        if fault is not None:
            self._spoil(kind, name, done=True)
            raise fault
        self._observe(f"{kind}:end", name)

    def _spoil(self, kind: Kind, name: str, done: bool = False) -> None:
        """B4: a failed write or sync is final for the file."""
        file = self._names.get(name)
        if kind in ("write", "sync", "seal") and file is not None:
            file.failed = True
            if kind != "write" and not done:
                self._fail_pages(file)

    def _observe(self, event: str, name: str) -> None:
        if self.observer is not None:
            self.observer(event, name)

    # Crashes

    def peek(self, name: str) -> bytes | None:
        """What a reader would see, without an operation: for oracles. None: no such file."""
        file = self._names.get(name)
        return None if file is None else file.live.read(0, file.live.size)

    def pending_count(self) -> int:
        return len(self._pending)

    def crash_states(self, limit: int, rng: random.Random, garble: bool = True) -> "Iterator[SimDisk]":
        """Legal disks after a power cut at this moment, at most `limit` (see choose_fates)."""
        frozen = self._copy()
        for fates in choose_fates(len(frozen._pending), limit, rng, garble):
            yield frozen._after_power_cut(fates, rng)

    def crash_state(self, fate: Fate, rng: random.Random | None = None) -> "SimDisk":
        """The disk after a power cut with one fate for all pending effects."""
        return self._copy()._after_power_cut((fate,) * len(self._pending), rng or random.Random(self.seed))

    def kill_state(self) -> "SimDisk":
        """The disk as the next process finds it after kill -9: all is seen, pending stays pending."""
        out = self._copy()
        names = dict(out._durable_names)
        for effect in out._pending:
            effect.returned = True
            if isinstance(effect, WriteEffect):
                effect.file.live.write([p for p in effect.pages if p[0] * PAGE < effect.file.live.size])
            elif isinstance(effect, CutEffect):
                effect.file.live.cut(effect.size)
            elif effect.file is None:
                names.pop(effect.name, None)
            else:
                names[effect.name] = effect.file
        out._names = names
        return out

    def _copy(self) -> "SimDisk":
        out = SimDisk(self.seed + 1, self.capacity_bytes, None, self.sync_failure, self.latency, self._url)
        twins: dict[int, File] = {}

        def twin(file: File) -> File:
            return twins.get(id(file)) or twins.setdefault(id(file), file.twin())

        out._names = {name: twin(file) for name, file in self._names.items()}
        out._durable_names = {name: twin(file) for name, file in self._durable_names.items()}
        for e in self._pending:
            if isinstance(e, WriteEffect):
                out._pending.append(WriteEffect(e.name, twin(e.file), e.pages, e.returned))
            elif isinstance(e, CutEffect):
                out._pending.append(CutEffect(e.name, twin(e.file), e.size, e.returned))
            else:
                file = None if e.file is None else twin(e.file)
                out._pending.append(NameEffect(e.name, file, e.creates, e.returned))
        return out

    def _after_power_cut(self, fates: tuple[Fate, ...], rng: random.Random) -> "SimDisk":
        out = self._copy()
        for effect, fate in zip(out._pending, fates, strict=True):
            apply_effect(effect, fate, out._durable_names, rng)
        out._pending = []
        for file in out._durable_names.values():
            file.live = file.durable.share()
        out._names = dict(out._durable_names)
        return out

    # Effects and promises: sync functions, so nothing comes between their lines

    def _settle(self, effects: Iterable[Effect]) -> None:
        """Makes these durable, in their order; those settled or forgotten in the meantime are skipped."""
        chosen = {id(effect) for effect in effects}
        for effect in self._pending:
            if id(effect) in chosen:
                apply_effect(effect, Fate.KEEP, self._durable_names, self._rng)
        self._pending = [effect for effect in self._pending if id(effect) not in chosen]

    def _settle_name(self, effect: NameEffect) -> None:
        """Makes this and all older effects on the same name durable."""
        at = self._pending.index(effect)
        older = [e for e in self._pending[: at + 1] if isinstance(e, NameEffect) and e.name == effect.name]
        self._settle(older)
        known = {id(file) for file in self._names.values()} | {id(f) for f in self._durable_names.values()}
        known |= {id(e.file) for e in self._pending if isinstance(e, NameEffect) and e.file is not None}
        self._pending = [e for e in self._pending if isinstance(e, NameEffect) or id(e.file) in known]

    def _settle_creation(self, file: File) -> None:
        """With the first sync of a file its name is durable (B1)."""
        for effect in [e for e in self._pending if isinstance(e, NameEffect) and e.creates and e.file is file]:
            self._settle_name(effect)

    def _effects_of(self, file: File) -> Sequence[Effect]:
        """What a sync that starts now must cover: the writes that have returned."""
        return [e for e in self._pending if not isinstance(e, NameEffect) and e.file is file and e.returned]

    def _fail_pages(self, file: File) -> None:
        """What the page cache does after a failed write-back, differently on every file system."""
        mine = [e for e in self._pending if isinstance(e, WriteEffect) and e.file is file and e.returned]
        if self.sync_failure == "drop":
            file.live = file.durable.share()
            self._pending = [e for e in self._pending if e not in mine]
        elif self.sync_failure == "zero":
            for effect in mine:
                file.live.write([(index, ZERO_PAGE) for index, _ in effect.pages])

    def _settle_old_deletes(self) -> None:
        deletes = [e for e in self._pending if isinstance(e, NameEffect) and e.file is None and e.returned]
        if len(deletes) > DELETES_PENDING_MAX:
            self._settle_name(deletes[0])

    def _refuse_existing(self, name: str) -> None:
        creates = [e for e in self._pending if isinstance(e, NameEffect) and e.creates and not e.returned]
        if name in self._names or any(e.name == name for e in creates):
            raise Exists(f"{self._url}: {name}: exists already; choose another name")

    def _existing(self, name: str) -> File:
        if name not in self._names:
            raise Missing(f"{self._url}: {name}: no such file")
        return self._names[name]

    def _writable(self, name: str, sealing: bool = False) -> File:
        check_name(self._url, name)
        file = self._existing(name)
        if file.failed:
            raise BackendError(f"{self._url}: {name}: failed earlier; write the data elsewhere")
        if file.sealed and not sealing:
            raise BackendError(f"{self._url}: {name}: is sealed; create another file")
        return file

    def _used_bytes(self) -> int:
        files = {id(file): file for file in self._names.values()}
        coming = (e.file for e in self._pending if isinstance(e, NameEffect) and not e.returned)
        files.update({id(file): file for file in coming if file is not None})
        return sum(-(-file.live.size // PAGE) * PAGE for file in files.values())

    def _need_room(self, name: str, size_bytes: int) -> None:
        if self.capacity_bytes is not None and self._used_bytes() + size_bytes > self.capacity_bytes:
            raise NoSpace(f"{self._url}: {name}: no room for {size_bytes} bytes; free space or add a backend")


class SimReader:
    """Reads the live bytes of one file. Whether the page cache has them is a coin toss of the disk's seed."""

    def __init__(self, disk: SimDisk, name: str, file: File) -> None:
        self._disk = disk
        self._name = name
        self._file = file
        self._closed = False

    def read_nowait(self, offset: int, into: memoryview) -> bool:
        disk, image = self._disk, self._file.live
        if self._closed or disk.faults.threatens("read") or offset < 0 or offset + len(into) > image.size:
            return False
        if disk.latency and disk._rng.random() < 0.5:
            return False
        into[:] = image.read(offset, len(into))
        return True

    async def read(self, offset: int, into: memoryview) -> None:
        fault = await self._disk._start("read", self._name)
        await self._disk._latency()
        if self._closed:
            raise BackendError(f"{self._disk.url}: {self._name}: is closed")
        check_read(self._disk.url, self._name, offset, len(into), self._file.live.size)
        into[:] = self._file.live.read(offset, len(into))
        self._disk._end("read", self._name, fault)

    def will_need(self, offset: int, length: int) -> bool:
        return True

    def close(self) -> None:
        self._closed = True
