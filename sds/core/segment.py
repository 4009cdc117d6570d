"""The head and the tail of a segment. In between: frames (sds.core.frame).

Head, the first 128 bytes:
    off size field           meaning
      0    8 magic           b"SDSSEG\\0\\1"
      8    4 version         1
     12    4 segment_size    size in bytes that segments of this log are preallocated with
     16   16 pool            pool UUID: a foreign segment must not parse
     32    8 segment         id, never reused
     40    8 dataset         who wrote it
     48    8 epoch           of the writer's lease
     56    8 previous        segment before this one in the log, 0 = none in this epoch
     64    8 first_sequence  sequence number of the first frame
     72    4 generation      0; the cleaner counts it up
     76   44 reserved        zeros
    120    8 checksum        xxh3-64 of bytes 0 .. 120

Trailer, the last 64 bytes of a sealed segment (its size is a multiple of 4096):
      0    8 magic           b"SDSEND\\0\\1"
      8    8 segment         id
     16    8 seal_offset     where the SEAL frame starts; its payload is the table of all frame headers before it
     24    8 last_sequence   sequence number of the SEAL frame
     32   24 reserved        zeros
     56    8 checksum        xxh3-64 of bytes 0 .. 56
A segment that ended in a crash has no trailer: it is cut where its valid frames end.
"""

import struct
from dataclasses import dataclass
from typing import Final

from xxhash import xxh3_64_intdigest

from sds.core.errors import Corrupt
from sds.core.frame import Buffer

HEAD_SIZE: Final = 128
HEAD: Final = struct.Struct("<8sII16sQQQQQI44sQ")
HEAD_MAGIC: Final = b"SDSSEG\0\1"
TRAILER_SIZE: Final = 64
TRAILER: Final = struct.Struct("<8sQQQ24sQ")
TRAILER_MAGIC: Final = b"SDSEND\0\1"
FORMAT_VERSION: Final = 1
assert HEAD.size == HEAD_SIZE
assert TRAILER.size == TRAILER_SIZE


@dataclass(frozen=True, slots=True)
class SegmentHead:
    segment_size: int
    pool: bytes
    segment: int
    dataset: int
    epoch: int
    previous: int
    first_sequence: int
    generation: int = 0


@dataclass(frozen=True, slots=True)
class SegmentTrailer:
    segment: int
    seal_offset: int
    last_sequence: int


def encode_head(head: SegmentHead) -> bytes:
    body = HEAD.pack(
        HEAD_MAGIC, FORMAT_VERSION, head.segment_size, head.pool, head.segment, head.dataset,
        head.epoch, head.previous, head.first_sequence, head.generation, bytes(44), 0,
    )  # fmt: skip
    return body[:-8] + xxh3_64_intdigest(body[:-8]).to_bytes(8, "little")


def decode_head(data: Buffer) -> SegmentHead | None:
    """The head, or None where none was ever written (or it did not reach the disk whole)."""
    if len(data) < HEAD_SIZE:
        return None
    magic, version, size, pool, segment, dataset, epoch, previous, first, generation, reserved, checksum = (
        HEAD.unpack_from(data)
    )
    if magic != HEAD_MAGIC or xxh3_64_intdigest(data[: HEAD_SIZE - 8]) != checksum:
        return None
    if version != FORMAT_VERSION or any(reserved):
        raise Corrupt(f"segment {segment} has format version {version}, this release reads {FORMAT_VERSION}")
    return SegmentHead(size, pool, segment, dataset, epoch, previous, first, generation)


def encode_trailer(trailer: SegmentTrailer) -> bytes:
    body = TRAILER.pack(
        TRAILER_MAGIC, trailer.segment, trailer.seal_offset, trailer.last_sequence, bytes(24), 0
    )
    return body[:-8] + xxh3_64_intdigest(body[:-8]).to_bytes(8, "little")


def decode_trailer(data: Buffer) -> SegmentTrailer | None:
    """The trailer in the last 64 bytes of `data`, or None: the segment was not sealed in order."""
    tail = bytes(data[-TRAILER_SIZE:])
    if len(tail) != TRAILER_SIZE:
        return None
    magic, segment, seal_offset, last_sequence, reserved, checksum = TRAILER.unpack(tail)
    if magic != TRAILER_MAGIC or any(reserved) or xxh3_64_intdigest(tail[:-8]) != checksum:
        return None
    return SegmentTrailer(segment, seal_offset, last_sequence)
