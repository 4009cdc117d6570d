"""Files on a raw device: the blocking half of DeviceBackend. Every method may be called from any thread.

  DV1  One flush makes a file's bytes and its entry durable. A failed one is final for every file that was open for
       writing (DY2), and so is a failed write for its file.
  DV2  put writes new units, flushes, and then switches the entry of the file (DT1).
  DV3  While a write is under way the units of its file are given to nobody, deleted or not (DT3): one that hangs may
       still arrive.
"""

import errno
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sds.core.errors import BackendError, BadInput, Busy, Corrupt, Exists, NoSpace

from .base import Stat, Usage
from .device_errors import errors, missing
from .device_find import open_device
from .device_format import NAME_BYTES_MAX, UNIT, Entry, Extent, units_for
from .device_io import LOCK_USE
from .device_sync import Flusher
from .device_table import Table
from .names import check_name, check_prefix, check_range, check_size

RECLAIM_UNITS = 64
"""So many freed units are worth a flush and discards of their own."""
GET_TRIES = 8


class _Writing:
    """A file that may be written to."""

    def __init__(self, entry: Entry, failures_before: int) -> None:
        self.entry = entry
        self.held = entry.extents
        self.failures_before = failures_before
        self.users = 0
        self.retired = False


class DeviceFiles:
    def __init__(self, url: str) -> None:
        self.url, self._disk, self._superblock = open_device(url)
        with errors(self.url, ""):
            if not self._disk.lock(LOCK_USE, exclusive=False, wait=False):
                self._disk.close()
                raise Busy(f"{self.url}: is being formatted or wiped at this moment; try again later")
        self._flusher = Flusher(self._disk.flush)
        self._table = Table(self.url, self._disk, self._superblock, self._flusher)
        self._lock = threading.RLock()  # Guards the fields below. Taken after the table's.
        self._writing: dict[str, _Writing] = {}
        self._final: dict[str, str] = {}
        self._is_closed = False

    @property
    def damaged_entries(self) -> int:
        return len(self._table.damaged)

    def create(self, name: str, size_bytes: int) -> None:
        self._check_name(name)
        check_size(self.url, name, size_bytes, 1 << 62)
        failures = self._flusher.failures
        with errors(self.url, name), self._table.changing():
            if name in self._table.names:
                raise Exists(f"{self.url}: {name}: exists already; choose another name")
            slot, extents = self._take(name, None, size_bytes)
            try:
                entry = self._table.change(slot, name, size_bytes, extents, replaces=False)
            except BaseException:
                self._table.let_go(None, extents)
                raise
            with self._lock:
                self._final.pop(name, None)
                self._writing[name] = _Writing(entry, failures)

    def write(self, name: str, offset: int, data: memoryview, sync: bool) -> None:
        data = data.cast("B") if data.format != "B" else data
        with errors(self.url, name), self._open(name) as file:
            check_range(self.url, name, offset, data.nbytes, file.entry.size_bytes)
            with self._final_on_error(name):
                self._flusher.check(file.failures_before)
                done = 0
                for at, length in pieces(file.entry.extents, offset, data.nbytes):
                    self._disk.write(at, data[done : done + length])
                    done += length
                if sync:
                    self._flusher.flush(file.failures_before)

    def sync(self, name: str) -> None:
        with errors(self.url, name), self._open(name) as file, self._final_on_error(name):
            self._flusher.flush(file.failures_before)

    def seal(self, name: str, size_bytes: int) -> None:
        with errors(self.url, name), self._open(name) as file:
            check_size(self.url, name, size_bytes, file.entry.size_bytes)
            with self._final_on_error(name):
                self._flusher.flush(file.failures_before)
                if size_bytes != file.entry.size_bytes:
                    self._cut(name, file, size_bytes)
                self._flusher.check(file.failures_before)
            self._retire(name)

    def _cut(self, name: str, file: _Writing, size_bytes: int) -> None:
        with self._table.changing():
            entry = self._table.names.get(name)
            if entry is None or entry.slot != file.entry.slot:
                raise missing(self.url, name)
            extents = first_units(entry.extents, units_for(size_bytes))
            file.entry = self._table.change(entry.slot, name, size_bytes, extents, replaces=True)

    def open_for_reading(self, name: str) -> tuple[int, Entry]:
        """A descriptor of the device, and where on it the file is."""
        entry = self._find(name)
        with errors(self.url, name):
            return os.dup(self._disk.cached), entry

    def get(self, name: str, size_limit_bytes: int) -> bytes:
        entry = self._find(name)
        for _ in range(GET_TRIES):
            if entry.size_bytes > size_limit_bytes:
                raise Corrupt(f"{self.url}: {name}: {entry.size_bytes} bytes, expected at most {size_limit_bytes}")
            data = memoryview(bytearray(entry.size_bytes))
            done = 0
            with errors(self.url, name):
                for at, length in pieces(entry.extents, 0, entry.size_bytes):
                    self._disk.read_cached(at, data[done : done + length])
                    done += length
            before, entry = entry, self._find(name)
            if entry.extents == before.extents and entry.sequence == before.sequence:
                return bytes(data)  # Nobody replaced it meanwhile, so these were its bytes.
        raise BackendError(f"{self.url}: {name}: was replaced all the time while it was read; try again")

    def put(self, name: str, data: bytes) -> None:
        self._check_name(name)
        failures = self._flusher.failures
        with errors(self.url, name), self._table.changing():
            _, extents = self._take(name, self._table.names.get(name), len(data))
        slot: int | None = None
        try:
            with errors(self.url, name):
                self._write_all(extents, data)
                self._flusher.flush(failures)
                with self._table.changing():
                    old = self._table.names.get(name)
                    slot = self._slot(name, old)
                    self._table.change(slot, name, len(data), extents, replaces=True)
                self._flusher.check(failures)
        finally:
            self._table.let_go(slot, extents)
        self._retire(name)
        with self._lock:
            self._final.pop(name, None)

    def delete(self, name: str) -> None:
        self._check_name(name)
        with errors(self.url, name), self._table.changing():
            entry = self._table.names.get(name)
            if entry is not None:
                self._table.change(entry.slot, "", 0, (), replaces=False)
            self._retire(name)
            if self._table.freed_count >= RECLAIM_UNITS:
                self._table.reclaim()
        with self._lock:
            self._final.pop(name, None)

    def find(self, prefix: str) -> list[Stat]:
        check_prefix(self.url, prefix)
        with errors(self.url, prefix), self._table.changing():
            found = [Stat(name, entry.size_bytes) for name, entry in self._table.names.items()]
        return sorted((stat for stat in found if stat.name.startswith(prefix)), key=lambda stat: stat.name)

    def usage(self) -> Usage:
        """As of the last look at the table."""
        if not self._table.is_loaded:
            with errors(self.url, ""), self._table.changing():
                pass
        return Usage(len(self._superblock.data) * UNIT, self._table.free_units() * UNIT)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        for name in list(self._writing):
            self._retire(name)
        if self._table.freed_count:
            with suppress(OSError, BackendError), self._table.changing():  # Discards are a kindness.
                self._table.reclaim()
        self._disk.close()

    # Room and entries

    def _take(self, name: str, old: Entry | None, size_bytes: int) -> tuple[int, tuple[Extent, ...]]:
        slot = self._slot(name, old)
        extents = self._table.allocate(units_for(size_bytes))
        if extents is None:
            raise NoSpace(f"{self.url}: {name}: no space left; free space or add a backend")
        return slot, extents

    def _slot(self, name: str, old: Entry | None) -> int:
        slot = old.slot if old is not None else self._table.free_slot()
        if slot is None:
            raise NoSpace(f"{self.url}: {name}: the table of files is full; delete files or add a backend")
        return slot

    def _find(self, name: str) -> Entry:
        self._check_name(name)
        with errors(self.url, name), self._table.changing():
            entry = self._table.names.get(name)
        if entry is None:
            raise missing(self.url, name)
        return entry

    def _write_all(self, extents: tuple[Extent, ...], data: bytes) -> None:
        if not data:
            return
        padded = mmap.mmap(-1, units_for(len(data)) * UNIT)
        padded[: len(data)] = data
        length = -(-len(data) // mmap.PAGESIZE) * mmap.PAGESIZE
        done = 0
        for at, count in pieces(extents, 0, length):
            self._disk.write(at, memoryview(padded)[done : done + count])
            done += count

    def _check_name(self, name: str) -> None:
        check_name(self.url, name)
        if len(name) > NAME_BYTES_MAX:
            raise BadInput(f"{self.url}: {name!r} is too long for a device; use at most {NAME_BYTES_MAX} characters")
        if self._is_closed:
            raise BackendError(f"{self.url}: is closed; open it again")

    # Files that are being written

    @contextmanager
    def _open(self, name: str) -> Iterator[_Writing]:
        self._check_name(name)
        file = self._user_of(name)
        if file is None:
            with self._table.changing(), self._lock:
                entry = self._table.names.get(name)
                if entry is None:
                    raise missing(self.url, name)
                if name not in self._writing:
                    self._table.hold(entry.extents)
                    self._writing[name] = _Writing(entry, self._flusher.failures)
                file = self._user_of(name)
                assert file is not None
        try:
            yield file
        finally:
            with self._lock:
                file.users -= 1
            self._let_go_if_done(file)

    def _user_of(self, name: str) -> _Writing | None:
        with self._lock:
            if name in self._final:
                raise BackendError(
                    f"{self.url}: {name}: failed earlier ({self._final[name]}); write the data elsewhere"
                )
            file = self._writing.get(name)
            if file is not None:
                file.users += 1
            return file

    @contextmanager
    def _final_on_error(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with self._lock:
                self._final.setdefault(name, os.strerror(error.errno or errno.EIO))
            self._retire(name)
            raise

    def _retire(self, name: str) -> None:
        with self._lock:
            file = self._writing.pop(name, None)
            if file is not None:
                file.retired = True
        if file is not None:
            self._let_go_if_done(file)

    def _let_go_if_done(self, file: _Writing) -> None:
        """Not under the lock: the table's comes first."""
        with self._lock:
            is_done = file.retired and file.users == 0
            if is_done:
                file.users = -1  # Once.
        if is_done:
            self._table.let_go(file.entry.slot, file.held)


def pieces(extents: tuple[Extent, ...], offset: int, length: int) -> list[tuple[int, int]]:
    """Where on the device a range of a file is: (offset, length) each."""
    found = []
    for first, count in extents:
        size = count * UNIT
        if offset < size and length:
            take = min(length, size - offset)
            found.append((first * UNIT + offset, take))
            length -= take
            offset = 0
        else:
            offset -= min(offset, size)
    return found


def first_units(extents: tuple[Extent, ...], count: int) -> tuple[Extent, ...]:
    kept = []
    for first, length in extents:
        if count:
            kept.append((first, min(length, count)))
            count -= kept[-1][1]
    return tuple(kept)
