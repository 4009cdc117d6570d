"""The table of a raw device: which file has which units. Blocking; used under `changing`, but for what says otherwise.

  DT1  Both copies of the table have every entry; of two that differ the valid one with the higher sequence counts. An
       entry that replaces another one is written to the first copy, flushed, then written to the second: one of them is
       whole at any time.
  DT2  A unit is given to a file only when the flush that made durable that no entry claims it has returned. So even a
       file that comes back after a power cut never shows the bytes of another one.
  DT3  Nor is a unit given away that anybody writes to: writers hold a lock on their units (DI3), so one that was
       fenced and does not know it hits nothing but its own deleted file.
  DT4  Of entries that claim the same unit or name (one was deleted, and came back) the one with the higher sequence
       counts. The other is cleared before anything is given away.
  DT5  Slots that are unreadable in both copies are counted, and nothing new is written to the device while there are
       any: what units they hold is not known.
  DT6  Changes are announced in the generation before they are made: whoever takes the lock reads again what changed.
"""

import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sds.core.errors import BackendError

from .device_format import (
    BLOCK,
    EXTENTS_MAX,
    GENERATION_AT,
    RECENT,
    SECTOR,
    UNIT,
    Damaged,
    Entry,
    Extent,
    Superblock,
    decode_entry,
    decode_generation,
    encode_entry,
    encode_generation,
)  # fmt: skip
from .device_io import LOCK_TABLE, Disk
from .device_sync import Flusher

_FREE, _TAKEN, _FREED = 0, 1, 2  # Freed: by an entry whose end may not be durable yet.
_RUN = re.compile(rb"\0+")
_UNREADABLE = b"\xff" * BLOCK


class Table:
    def __init__(self, url: str, disk: Disk, superblock: Superblock, flusher: Flusher) -> None:
        self.names: dict[str, Entry] = {}
        self.damaged: set[int] = set()
        self._url = url
        self._disk = disk
        self._superblock = superblock
        self._flusher = flusher
        self._lock = threading.RLock()
        self._slots: dict[int, Entry] = {}
        self._slot_used = bytearray()
        self._units = bytearray()
        self._repairs: dict[int, Entry] = {}
        self._held: list[tuple[Extent, ...]] = []
        self._freed: list[tuple[Extent, bool]] = []
        self._failures_seen = flusher.failures
        self._loaded = False
        self._must_flush = True
        self._sequence = 0
        self._recent = [0] * RECENT
        self._hint = superblock.data.start

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The table as it is now, for nobody else to change."""
        with self._lock:
            self._disk.lock(LOCK_TABLE, exclusive=True, wait=True)
            try:
                self._refresh()
                yield
            except OSError:
                self._loaded = False  # Whatever was under way: look again before anything else.
                raise
            finally:
                self._disk.unlock(LOCK_TABLE)

    @property
    def is_loaded(self) -> bool:
        return self._loaded

    def free_units(self) -> int:
        """At any time, without the lock."""
        return len(self._units) - self._units.count(_TAKEN)

    # Room

    def free_slot(self) -> int | None:
        slot = self._slot_used.find(b"\0")
        return None if slot < 0 else slot

    def allocate(self, count: int) -> tuple[Extent, ...] | None:
        """Units for a new file, held; None: no room. In one piece if that can be."""
        self._prepare()
        extents = self._find(count)
        if extents is None and self._freed:
            self.reclaim()
            extents = self._find(count)
        if extents is not None:
            self._mark(extents, _TAKEN)
            self.hold(extents)
        return extents

    def reclaim(self) -> None:
        """Make freed units free (DT2). Discards only what this object has freed, and nobody uses since."""
        freed, self._freed = self._freed, []
        before, self._failures_seen = self._failures_seen, self._flusher.failures
        self._flusher.flush(before)  # If it fails they stay as they are until the table is read again.
        for (first, count), is_own in freed:
            for unit in range(first, first + count):
                if self._units[unit] == _FREED:
                    if is_own:
                        self._disk.discard(unit * UNIT, UNIT)
                    self._units[unit] = _FREE

    @property
    def freed_count(self) -> int:
        return sum(extent[1] for extent, _ in self._freed)

    def hold(self, extents: tuple[Extent, ...]) -> None:
        """DT3."""
        with self._lock:
            self._held.append(extents)
            for first, count in extents:
                self._disk.lock(first * UNIT, count * UNIT, exclusive=False, wait=False)

    def let_go(self, slot: int | None, extents: tuple[Extent, ...]) -> None:
        """Nobody writes there any more. What its entry does not claim (any more) is freed. Without the lock."""
        with self._lock:
            self._held.remove(extents)
            owner = self._slots.get(slot) if slot is not None else None
            kept = set(_units_of(owner.extents)) if owner is not None else set()
            for unit in _units_of(extents):
                if unit not in kept and self._units[unit] == _TAKEN:
                    self._free((unit, 1), is_own=True)
            for first, count in extents:
                self._disk.unlock(first * UNIT, count * UNIT)

    # Changes

    def change(
        self, slot: int, name: str, size_bytes: int, extents: tuple[Extent, ...], replaces: bool
    ) -> Entry:
        """DT1. An empty name deletes."""
        self._prepare(for_delete=not name)
        entry = Entry(slot, self._announce(slot), name, size_bytes, extents)
        self._write(entry, flush_between=replaces)
        self._replace({slot: entry}, is_own=True)
        return entry

    def clear_damaged(self) -> int:
        """Gives up the files of unreadable slots."""
        slots = sorted(self.damaged)
        for slot in slots:
            self._write(Entry(slot, self._announce(slot), "", 0, ()), flush_between=False)
        self._flusher.flush(self._flusher.failures)
        self._load()
        return len(slots)

    def _announce(self, slot: int) -> int:
        self._sequence += 1
        self._recent[self._sequence % RECENT] = slot
        sector = encode_generation(self._superblock, self._sequence, self._recent)
        self._disk.write(GENERATION_AT, memoryview(sector.ljust(BLOCK, b"\0")))
        return self._sequence

    def _write(self, entry: Entry, flush_between: bool) -> None:
        sector = encode_entry(self._superblock, entry)
        first, second = self._superblock.tables_at
        failures = self._flusher.failures
        self._disk.write_sector(first + entry.slot * SECTOR, sector)
        if flush_between:
            self._flusher.flush(failures)
        self._disk.write_sector(second + entry.slot * SECTOR, sector)

    def _prepare(self, for_delete: bool = False) -> None:
        """What must be so before anything is given away: DT2, DT4, DT5."""
        if self.damaged and not for_delete:
            raise BackendError(
                f"{self._url}: {len(self.damaged)} entries of its table are unreadable in both copies;"
                " evacuate the device, and format it again"
            )
        for slot, entry in list(self._repairs.items()):
            self._write(Entry(slot, self._announce(slot), *_content(entry)), flush_between=True)
            if slot not in self._slots:
                self._slot_used[slot] = 0
            del self._repairs[slot]
        if self._must_flush:
            self._flusher.flush(self._flusher.failures)
            self._must_flush = False

    # Reading the table

    def _refresh(self) -> None:
        try:
            sequence, recent = decode_generation(self._superblock, self._disk.read(GENERATION_AT, BLOCK)[:SECTOR])
        except Damaged:
            self._load()
            return
        if not self._loaded or not 0 <= sequence - self._sequence <= RECENT:
            self._load()
            self._sequence, self._recent = max(sequence, self._sequence), recent
        elif sequence > self._sequence:
            slots = {recent[number % RECENT] for number in range(self._sequence + 1, sequence + 1)}
            self._sequence, self._recent = sequence, recent
            changed = {slot: self._read_slot(slot) for slot in slots}
            if not self.damaged.isdisjoint(slots) or not self._replace(changed, is_own=False):
                self._load()

    def _load(self) -> None:
        self._loaded = False
        superblock = self._superblock
        self.names, self._slots, self._repairs, self._freed = {}, {}, {}, []
        self.damaged = set()
        self._units = bytearray(b"\1") * superblock.data.start + bytes(len(superblock.data))
        self._slot_used = bytearray(superblock.slots)
        entries = []
        first, second = superblock.tables_at
        for at in range(0, superblock.table_units * UNIT, UNIT):
            one, two = self._read_table(first + at), self._read_table(second + at)
            if one == two and one.count(0) == UNIT:
                continue
            for offset in range(0, UNIT, SECTOR):
                slot = (at + offset) // SECTOR
                entry = self._choose(slot, one[offset : offset + SECTOR], two[offset : offset + SECTOR])
                if entry is not None:
                    entries.append(entry)
        for entry in sorted(entries, key=lambda entry: -entry.sequence):
            self._sequence = max(self._sequence, entry.sequence)
            if not self._add(entry, set()):
                self._slot_used[entry.slot] = 1
                self._repairs[entry.slot] = Entry(entry.slot, 0, "", 0, ())
        for extents in self._held:
            self._mark(extents, _TAKEN)
        self._must_flush = True
        self._loaded = True

    def _read_slot(self, slot: int) -> Entry | None:
        sectors = []
        for table in self._superblock.tables_at:
            at = table + slot * SECTOR
            block = self._disk.read(at - at % BLOCK, BLOCK)
            sectors.append(block[at % BLOCK : at % BLOCK + SECTOR])
        return self._choose(slot, *sectors)

    def _read_table(self, offset: int) -> bytes:
        """One unit of a table; blocks that cannot be read come as damaged ones."""
        try:
            return self._disk.read(offset, UNIT)
        except OSError:
            pieces = []
            failed = 0
            for at in range(offset, offset + UNIT, BLOCK):
                try:
                    pieces.append(self._disk.read(at, BLOCK))
                except OSError:
                    pieces.append(_UNREADABLE)
                    failed += 1
            if failed == UNIT // BLOCK:
                raise  # Not a bad block: the device does not answer.
            return b"".join(pieces)

    def _choose(self, slot: int, one: bytes, two: bytes) -> Entry | None:
        found: list[Entry] = []
        broken = 0
        for sector in (one,) if one == two else (one, two):
            try:
                entry = decode_entry(self._superblock, slot, sector)
                found += [entry] if entry is not None else []
            except Damaged:
                broken += 1
        if not found:
            if broken:
                self.damaged.add(slot)
                self._slot_used[slot] = 1
            return None
        best = max(found, key=lambda entry: entry.sequence)
        if one != two:
            self._repairs[slot] = best
        return best

    # What is known

    def _replace(self, changed: dict[int, Entry | None] | dict[int, Entry], is_own: bool) -> bool:
        """False: the new entries do not fit to the others."""
        held = {unit for extents in self._held for unit in _units_of(extents)}
        for slot in changed:
            old = self._slots.pop(slot, None)
            self._slot_used[slot] = 0
            if old is not None and old.name:
                del self.names[old.name]
                for unit in _units_of(old.extents):
                    if unit not in held:
                        self._free((unit, 1), is_own)
        return all(self._add(entry, held) for entry in changed.values() if entry is not None)

    def _add(self, entry: Entry, held: set[int]) -> bool:
        if entry.name:
            if entry.name in self.names:
                return False
            if any(self._units[unit] == _TAKEN and unit not in held for unit in _units_of(entry.extents)):
                return False
            self._mark(entry.extents, _TAKEN)
            self.names[entry.name] = entry
            self._slot_used[entry.slot] = 1
        self._slots[entry.slot] = entry
        return True

    def _free(self, extent: Extent, is_own: bool) -> None:
        self._mark((extent,), _FREED)
        self._freed.append((extent, is_own))

    def _mark(self, extents: Iterable[Extent], value: int) -> None:
        for first, count in extents:
            self._units[first : first + count] = bytes([value]) * count

    def _find(self, count: int) -> tuple[Extent, ...] | None:
        if count == 0:
            return ()
        for start in (self._hint, 0):
            at = self._units.find(bytes(count), start)
            while at >= 0:
                if not self._disk.is_locked_by_another(at * UNIT, count * UNIT):
                    self._hint = at + count
                    return ((at, count),)
                at = self._units.find(bytes(count), at + 1)
        runs = [(match.start(), len(match.group())) for match in _RUN.finditer(self._units)]
        found: list[Extent] = []
        for first, length in sorted(runs, key=lambda run: -run[1]):
            take = min(length, count)
            if len(found) < EXTENTS_MAX and not self._disk.is_locked_by_another(first * UNIT, take * UNIT):
                found.append((first, take))
                count -= take
            if not count:
                return tuple(found)
        return None


def _content(entry: Entry) -> tuple[str, int, tuple[Extent, ...]]:
    return entry.name, entry.size_bytes, entry.extents


def _units_of(extents: Iterable[Extent]) -> list[int]:
    return [unit for first, count in extents for unit in range(first, first + count)]
