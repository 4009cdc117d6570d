"""What a checkpoint says: the payload of a CHECKPOINT frame. Enough to rebuild a lost catalog's rows of the
dataset.

    off size field           meaning
      0    1 version         1
      1    1 kind            1 volume, 2 filesystem
      2    8 dataset_id
     10    8 root            address of the tree's root, 0: empty
     18    8 sequence        everything up to this sequence number is in the tree
     26    8 size_bytes      of the volume
     34    8 replay_segment  replay starts in this segment
     42    4 replay_offset   at this byte
     46    8 mapped_blocks   blocks that are not holes
     54    4 snapshots       how many follow
     58    1 length of name
     59    - name            of the dataset, UTF-8
    then for each snapshot, ids rising:
      0    8 snapshot_id
      8    8 root
     16    8 sequence
     24    8 size_bytes
     32    8 created_at_ns   nanoseconds since 1970, UTC
     40    1 length of name
     41    - name            UTF-8

Numbers are little endian.

  C1  decode(encode(r)) == r; anything that encode could not have written is Corrupt, newer versions too.
  C2  A dataset has at most SNAPSHOT_COUNT_MAX snapshots, so a record is at most RECORD_SIZE_MAX bytes.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

from sds.core.cursor import Cursor

VERSION = 1
NAME_SIZE_MAX = 63
SNAPSHOT_COUNT_MAX = 8192
SIZE_MAX_BYTES = (1 << 63) - 1

_HEAD = struct.Struct("<BBQQQQQIQIB")
_SNAPSHOT = struct.Struct("<QQQQQB")
assert _HEAD.size == 59
assert _SNAPSHOT.size == 41
RECORD_SIZE_MAX = _HEAD.size + NAME_SIZE_MAX + SNAPSHOT_COUNT_MAX * (_SNAPSHOT.size + NAME_SIZE_MAX)


class Kind(IntEnum):
    VOLUME = 1
    FILESYSTEM = 2


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    snapshot_id: int
    name: str
    root: int
    sequence: int
    size_bytes: int
    created_at_ns: int


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    dataset_id: int
    kind: Kind
    name: str
    root: int
    sequence: int
    size_bytes: int
    replay_segment: int
    replay_offset: int
    mapped_blocks: int
    snapshots: tuple[SnapshotRecord, ...] = ()


def encode_checkpoint(record: CheckpointRecord) -> bytes:
    name = _name(record.name)
    assert len(record.snapshots) <= SNAPSHOT_COUNT_MAX
    assert all(a.snapshot_id < b.snapshot_id for a, b in pairwise(record.snapshots))
    assert 0 <= record.size_bytes <= SIZE_MAX_BYTES
    head = _HEAD.pack(
        VERSION, record.kind, record.dataset_id, record.root, record.sequence, record.size_bytes,
        record.replay_segment, record.replay_offset, record.mapped_blocks, len(record.snapshots), len(name),
    )  # fmt: skip
    return b"".join((head, name, *map(_encode_snapshot, record.snapshots)))


def decode_checkpoint(data: bytes, what: str = "CHECKPOINT frame") -> CheckpointRecord:
    """What `encode_checkpoint` got. `what` names the frame in the error."""
    cursor = Cursor(data, what)
    if data and data[0] != VERSION:
        raise cursor.corrupt(f"version {data[0]}, this program knows {VERSION}")
    _, kind, dataset, root, sequence, size_bytes, segment, offset, mapped, count, name_size = cursor.unpack(
        _HEAD
    )
    if kind not in (Kind.VOLUME, Kind.FILESYSTEM):
        raise cursor.corrupt(f"unknown kind {kind}")
    name = _decode_name(cursor, name_size)
    if count > SNAPSHOT_COUNT_MAX or count * (_SNAPSHOT.size + 1) > len(data) - cursor.at:
        raise cursor.corrupt(f"{count} snapshots")
    snapshots = tuple(_decode_snapshot(cursor) for _ in range(count))
    cursor.end()
    if any(a.snapshot_id >= b.snapshot_id for a, b in pairwise(snapshots)):
        raise cursor.corrupt("its snapshots are not in order")
    return CheckpointRecord(
        dataset, Kind(kind), name, root, sequence, _size(cursor, size_bytes), segment, offset, mapped,
        snapshots
    )


def _name(name: str) -> bytes:
    encoded = name.encode()
    assert 0 < len(encoded) <= NAME_SIZE_MAX
    return encoded


def _decode_name(cursor: Cursor, size: int) -> str:
    if not 0 < size <= NAME_SIZE_MAX:
        raise cursor.corrupt(f"a name of {size} bytes")
    return cursor.text(size)


def _size(cursor: Cursor, size_bytes: int) -> int:
    if size_bytes > SIZE_MAX_BYTES:
        raise cursor.corrupt(f"a size of {size_bytes} bytes")
    return size_bytes


def _encode_snapshot(snapshot: SnapshotRecord) -> bytes:
    name = _name(snapshot.name)
    assert 0 <= snapshot.size_bytes <= SIZE_MAX_BYTES
    s = snapshot
    return _SNAPSHOT.pack(s.snapshot_id, s.root, s.sequence, s.size_bytes, s.created_at_ns, len(name)) + name


def _decode_snapshot(cursor: Cursor) -> SnapshotRecord:
    snapshot_id, root, sequence, size_bytes, created_at_ns, name_size = cursor.unpack(_SNAPSHOT)
    name = _decode_name(cursor, name_size)
    return SnapshotRecord(snapshot_id, name, root, sequence, _size(cursor, size_bytes), created_at_ns)
