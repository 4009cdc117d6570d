"""What is written on a raw device: superblock, table entry, generation. Bytes only, no input or output.

All integers are little endian. The device is cut into units of 1 MiB (what is left over at the end is not used):

    unit 0                 superblock at byte 0, generation at byte 4096
    units 1 .. T           table, first copy: slots of 512 bytes
    units T+1 .. U-T-2     data
    units U-T-1 .. U-2     table, second copy
    unit U-1               superblock, second copy

    superblock (512)                     entry (512)                          generation (512)
      0  8  magic "sds-disk"               0  4  magic "SDSe"                     0   4  magic "SDSg"
      8  4  version, 1                     4  2  state: 1 file, 2 deleted         4   4  zero
     12  4  unit size, 1048576             6  2  length of the name               8   8  sequence of the last change
     16 16  UUID of the device             8  8  sequence of the change          16  16  UUID of the device
     32  4  units U                       16 16  UUID of the device              32 472  slots u32 of last 118 changes:
     36  4  units of one table T          32  4  its slot                                change s at s mod 118
     40 464 zero                          36  4  number of extents               504   8  checksum
    504  8  checksum                      40  8  size of the file in bytes
                                          48 96  name
                                         144 360 extents: first unit u32, count u32
                                         504  8  checksum

  DF1  A checksum is xxh3-64 of the 504 bytes before it. A slot of zeros was never used; whatever else does not decode
       to a plausible entry of this slot of this device is damaged.
  DF2  An entry that decodes claims data units only, each once, and exactly as many as its size needs.
"""

import struct
from dataclasses import dataclass

import xxhash

from .names import is_name

UNIT = 1 << 20
BLOCK = 4096
SECTOR = 512
GENERATION_AT = BLOCK
MIN_BYTES = 64 << 20
NAME_BYTES_MAX = 96
EXTENTS_MAX = 45
RECENT = 118
SLOTS_PER_UNIT = UNIT // SECTOR
UNITS_PER_SLOT = 8
"""One slot for so many units: a device that is full of files of 8 MiB on average."""
SUPERBLOCK_MAGIC = b"sds-disk"
_FILE, _DELETED = 1, 2
_SUPERBLOCK = struct.Struct("<8sII16sII464x")
_ENTRY = struct.Struct("<4sHHQ16sIIQ96s")
_EXTENT = struct.Struct("<II")
_GENERATION = struct.Struct("<4s4xQ16s")
_SUM = struct.Struct("<Q")
Extent = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Superblock:
    uuid: bytes
    units: int
    table_units: int

    @property
    def slots(self) -> int:
        return self.table_units * SLOTS_PER_UNIT

    @property
    def data(self) -> range:
        return range(1 + self.table_units, self.units - 1 - self.table_units)

    @property
    def tables_at(self) -> tuple[int, int]:
        return UNIT, (self.units - 1 - self.table_units) * UNIT

    @property
    def copy_at(self) -> int:
        return (self.units - 1) * UNIT


@dataclass(frozen=True, slots=True)
class Entry:
    """A slot that was used. No name: its file was deleted."""

    slot: int
    sequence: int
    name: str
    size_bytes: int
    extents: tuple[Extent, ...]


class Damaged(ValueError):
    """Neither what it should be nor empty."""


def layout(size_bytes: int, uuid: bytes) -> Superblock:
    units = size_bytes // UNIT
    return Superblock(uuid, units, -(-units // (UNITS_PER_SLOT * SLOTS_PER_UNIT)))


def units_for(size_bytes: int) -> int:
    return -(-size_bytes // UNIT)


def encode_superblock(superblock: Superblock) -> bytes:
    fields = (1, UNIT, superblock.uuid, superblock.units, superblock.table_units)
    return _sealed(_SUPERBLOCK.pack(SUPERBLOCK_MAGIC, *fields))


def decode_superblock(sector: bytes) -> Superblock:
    magic, version, unit, uuid, units, table_units = _SUPERBLOCK.unpack(_opened(sector))
    if magic != SUPERBLOCK_MAGIC:
        raise Damaged("no superblock")
    if version != 1 or unit != UNIT:
        raise Damaged(f"superblock of version {version}, unit {unit}: made by another release")
    if units < MIN_BYTES // UNIT or not 0 < table_units * 2 + 2 < units:
        raise Damaged("implausible superblock")
    return Superblock(uuid, units, table_units)


def encode_entry(superblock: Superblock, entry: Entry) -> bytes:
    name = entry.name.encode()
    state = _FILE if name else _DELETED
    fields = (entry.sequence, superblock.uuid, entry.slot, len(entry.extents), entry.size_bytes, name)
    head = _ENTRY.pack(b"SDSe", state, len(name), *fields)
    return _sealed(head + b"".join(_EXTENT.pack(*extent) for extent in entry.extents))


def decode_entry(superblock: Superblock, slot: int, sector: bytes) -> Entry | None:
    """None: never used. Damaged: see DF1, DF2."""
    if not any(sector):
        return None
    body = _opened(sector)
    magic, state, length, sequence, uuid, at, count, size, name = _ENTRY.unpack_from(body)
    if magic != b"SDSe" or uuid != superblock.uuid or at != slot or count > EXTENTS_MAX:
        raise Damaged("not an entry of this slot")
    extents = tuple(_EXTENT.unpack_from(body, _ENTRY.size + index * _EXTENT.size) for index in range(count))
    if state == _DELETED and not length and not size and not count:
        return Entry(slot, sequence, "", 0, ())
    if state != _FILE or length > NAME_BYTES_MAX or any(name[length:]):
        raise Damaged("implausible entry")
    try:
        text = name[:length].decode("ascii")
    except UnicodeDecodeError as error:
        raise Damaged("implausible name") from error
    if not is_name(text) or not _plausible(superblock, extents, size):
        raise Damaged("implausible entry")
    return Entry(slot, sequence, text, size, extents)


def encode_generation(superblock: Superblock, sequence: int, recent: list[int]) -> bytes:
    return _sealed(_GENERATION.pack(b"SDSg", sequence, superblock.uuid) + struct.pack(f"<{RECENT}I", *recent))


def decode_generation(superblock: Superblock, sector: bytes) -> tuple[int, list[int]]:
    body = _opened(sector)
    magic, sequence, uuid = _GENERATION.unpack_from(body)
    recent = list(struct.unpack_from(f"<{RECENT}I", body, _GENERATION.size))
    if magic != b"SDSg" or uuid != superblock.uuid or max(recent) >= superblock.slots:
        raise Damaged("no generation of this device")
    return sequence, recent


def _plausible(superblock: Superblock, extents: tuple[Extent, ...], size_bytes: int) -> bool:
    data = superblock.data
    end = 0
    for first, count in sorted(extents):
        if not count or first < max(end, data.start) or first + count > data.stop:
            return False
        end = first + count
    return sum(count for _, count in extents) == units_for(size_bytes)


def _sealed(body: bytes) -> bytes:
    body = body.ljust(SECTOR - _SUM.size, b"\0")
    return body + _SUM.pack(xxhash.xxh3_64_intdigest(body))


def _opened(sector: bytes) -> bytes:
    body = sector[: SECTOR - _SUM.size]
    if _SUM.unpack_from(sector, len(body))[0] != xxhash.xxh3_64_intdigest(body):
        raise Damaged("wrong checksum")
    return body
