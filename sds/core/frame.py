"""Frames: what a segment is made of. A 64-byte header and a payload, starting on a 64-byte boundary.

    off size field             meaning
      0    8 checksum          xxh3-64 over bytes 8 .. 64+covered, seed = address of the frame XOR pool key
      8    4 magic             b"SDSF"
     12    1 kind              DATA 1, TXN 2, NODE 3, MAP 4, CHECKPOINT 5, PAD 6, SEAL 7
     13    1 codec             RAW 0, LZ4 1, ZSTD 2, BLOCKS 3, ZERO 4, SPARSE 5
     14    1 flags             bit 0 MORE: the operation goes on in the next frame
     15    1 blocks            DATA: 1..32 blocks of 4096 bytes; else 0
     16    4 stored_bytes      length of the payload in the segment
     20    4 raw_bytes         length of the payload when decoded
     24    8 sequence          rises by one from frame to frame of a log
     32    8 durable_sequence  everything up to here was durable when the frame was made
     40    8 inode             DATA: whose blocks; else 0
     48    8 first_block       DATA: logical number of the first block; else 0
     56    8 reserved          0
All integers are little endian.

  F1  The seed binds a frame to its place and pool: a misdirected, stale or foreign frame does not verify.
  F2  `covered` is the whole payload, but for codec BLOCKS its first 8 * blocks bytes: a table with one xxh3-64 per
      block (seed = address of the block XOR pool key), followed by the plain blocks. So a part of a large frame
      can be read and verified by itself.
  SPARSE (packs only, DATA): a bit for each block, 4 bytes, lowest bit first: set if it was kept; then the blocks that
  were kept, one after the other, lz4. Address, blocks and raw_bytes are those of the frame before it was cleaned.

  F3  A frame is never changed once its checksum is in place.
  F4  durable_sequence is evidence: a log that ends before it has lost acknowledged data (recovery must say so).
"""

import struct
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from sds.core.address import BLOCK_SIZE, BLOCKS_PER_FRAME, UNIT

MAGIC: Final = b"SDSF"
HEADER_SIZE: Final = 64
HEADER: Final = struct.Struct("<Q4sBBBBIIQQQQQ")
CHECKSUM: Final = struct.Struct("<Q")
assert HEADER.size == HEADER_SIZE

DATA, TXN, NODE, MAP, CHECKPOINT, PAD, SEAL = 1, 2, 3, 4, 5, 6, 7
RAW, LZ4, ZSTD, BLOCKS, ZERO, SPARSE = 0, 1, 2, 3, 4, 5
MORE: Final = 1
KINDS: Final = frozenset((DATA, TXN, NODE, MAP, CHECKPOINT, PAD, SEAL))
CODECS: Final = frozenset((RAW, LZ4, ZSTD, BLOCKS, ZERO, SPARSE))
RAW_BYTES_MAX: Final = 4 << 20
"""No payload decodes to more than this: the bound for allocations made on behalf of stored data."""

Buffer = bytes | bytearray | memoryview
_PLACES: Final = [(index, index * BLOCK_SIZE, (index + 1) * BLOCK_SIZE) for index in range(BLOCKS_PER_FRAME)]


class FrameHeader(NamedTuple):
    """A decoded header. Sizes in bytes. (A tuple: recovery makes one for each frame of the log.)"""

    checksum: int
    kind: int
    codec: int
    flags: int
    blocks: int
    stored_bytes: int
    raw_bytes: int
    sequence: int
    durable_sequence: int
    inode: int
    first_block: int

    @property
    def covered_bytes(self) -> int:
        """How much of the payload the header's checksum covers (F2)."""
        if self.codec == BLOCKS:
            return 8 * self.blocks
        return 0 if self.kind == PAD else self.stored_bytes

    @property
    def frame_bytes(self) -> int:
        """Header and payload, up to the next frame."""
        return (HEADER_SIZE + self.stored_bytes + UNIT - 1) & -UNIT

    @property
    def more(self) -> bool:
        return bool(self.flags & MORE)


def pool_key(pool_uuid: bytes) -> int:
    """What the checksums of a pool are seeded with, besides the address."""
    assert len(pool_uuid) == 16
    return int.from_bytes(pool_uuid[:8], "little")


def decode_header(data: Buffer, offset: int = 0) -> FrameHeader | None:
    """The header at `offset`, or None if these bytes cannot be one. The checksum is not looked at."""
    if len(data) - offset < HEADER_SIZE:
        return None
    (checksum, magic, kind, codec, flags, blocks, stored, raw, sequence, durable, inode, first, reserved) = (
        HEADER.unpack_from(data, offset)
    )
    if magic != MAGIC or kind not in KINDS or codec not in CODECS or flags & ~MORE or reserved:
        return None
    header = FrameHeader(
        checksum, kind, codec, flags, blocks, stored, raw, sequence, durable, inode, first
    )
    return header if _is_consistent(header) else None


def _is_consistent(h: FrameHeader) -> bool:
    if h.raw_bytes > RAW_BYTES_MAX or h.durable_sequence >= h.sequence:
        return False
    if h.kind == DATA:
        if not 1 <= h.blocks <= BLOCKS_PER_FRAME or h.raw_bytes != h.blocks * BLOCK_SIZE:
            return False
    elif h.blocks or h.inode or h.first_block:
        return False
    match h.codec:
        case 0:  # RAW
            return h.stored_bytes == h.raw_bytes
        case 3:  # BLOCKS
            return h.kind == DATA and h.stored_bytes == 8 * h.blocks + h.raw_bytes
        case 4:  # ZERO
            return h.kind == DATA and h.stored_bytes == 0
        case 5:  # SPARSE
            return h.kind == DATA and 4 < h.stored_bytes < h.raw_bytes
        case _:
            return h.stored_bytes < h.raw_bytes


def kept_blocks(header: FrameHeader, payload: Buffer) -> int:
    """How many blocks of a DATA frame are there: of a SPARSE one, those that its mask says."""
    return int.from_bytes(payload[:4], "little").bit_count() if header.codec == SPARSE else header.blocks


def header_is_valid(data: memoryview, offset: int, header: FrameHeader, seed: int) -> bool:
    """Does the checksum hold over what it covers? `seed` = frame address XOR pool key."""
    end = offset + HEADER_SIZE + header.covered_bytes
    if end > len(data):
        return False
    return bool(xxh3_64_intdigest(data[offset + 8 : end], seed) == header.checksum)


def blocks_are_valid(table: memoryview, blocks: memoryview, address: int, key: int) -> bool:
    """Verify plain blocks against their part of the table (F2), as 64-bit numbers; `address`: of the first of them."""
    at = 0
    for expected in table:
        if xxh3_64_intdigest(blocks[at : at + BLOCK_SIZE], address ^ key) != expected:
            return False
        at += BLOCK_SIZE
        address += 1
    return True


def block_table(blocks: memoryview, address: int, key: int) -> bytes:
    """The checksum table (F2) of whole blocks whose frame will have this address (its block is 0)."""
    seed = address ^ key
    digests = [xxh3_64_intdigest(blocks[at:end], seed ^ index) for index, at, end in _PLACES[: len(blocks) >> 12]]
    return struct.pack(f"<{len(digests)}Q", *digests)


def frame_is_valid(data: memoryview, offset: int, header: FrameHeader, address: int, key: int) -> bool:
    """Verify all of a frame that is wholly in `data` at `offset`."""
    seed = address ^ key
    if offset + HEADER_SIZE + header.stored_bytes > len(data):
        return False
    if not header_is_valid(data, offset, header, seed):
        return False
    if header.codec != BLOCKS:
        return True
    table_at = offset + HEADER_SIZE
    data_at = table_at + 8 * header.blocks
    end = data_at + header.raw_bytes
    return blocks_are_valid(data[table_at:data_at].cast("Q"), data[data_at:end], address, key)
