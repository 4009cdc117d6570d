"""A frame of which only some blocks are alive, made smaller under its address: codec SPARSE of sds.core.frame. Pure.

  SK1  Whatever is read of a shrunk frame is what it was before; a block that was not kept is Missing, never zeros.
  SK2  A frame that would not become smaller stays bit by bit as it is.
"""

from typing import Final

from xxhash import xxh3_64_intdigest

from sds.core.address import pack_address
from sds.core.frame import BLOCKS, CHECKSUM, DATA, HEADER, HEADER_SIZE, MAGIC, RAW, SPARSE, FrameHeader
from sds.log.codec import decode_blocks, encode_sparse

SAVED_MIN_BYTES: Final = 64


def shrunk(header: FrameHeader, frame: memoryview, segment: int, offset: int, alive: int, key: int) -> bytes | None:
    """The frame (verified, header and payload) with the blocks of which the bit is set, or None (SK2)."""
    if header.kind != DATA or alive.bit_count() == header.blocks or not alive:
        return None
    payload = frame[HEADER_SIZE : HEADER_SIZE + header.stored_bytes]
    where = f"segment {segment:#x} at {offset}"
    if header.codec == BLOCKS:
        plain, kept = decode_blocks(RAW, payload[8 * header.blocks :], header.raw_bytes, where)
    else:
        plain, kept = decode_blocks(header.codec, payload, header.raw_bytes, where)
    if alive & ~kept:
        return None  # a block that is not there any more: whoever looks for it must find that out
    small = encode_sparse(plain, alive)
    if len(small) > header.stored_bytes - SAVED_MIN_BYTES:
        return None
    made = bytearray(HEADER_SIZE + len(small))
    HEADER.pack_into(
        made, 0, 0, MAGIC, DATA, SPARSE, header.flags, header.blocks, len(small), header.raw_bytes, header.sequence,
        header.durable_sequence, header.inode, header.first_block, 0,
    )  # fmt: skip
    made[HEADER_SIZE:] = small
    CHECKSUM.pack_into(made, 0, xxh3_64_intdigest(memoryview(made)[8:], pack_address(segment, offset) ^ key))
    return bytes(made)
