"""Compression of payloads, and its opposite with all lengths checked.

Compression backs off: after a run of payloads that did not shrink, more and more are stored plain without trying
(an attempt costs about a third of a 4 KiB write), until one that is tried shrinks again.
"""

from typing import Final

import lz4.block
import zstandard

from sds.core.address import BLOCK_SIZE
from sds.core.errors import BadInput, Corrupt
from sds.core.frame import LZ4, RAW, SPARSE, ZERO, ZSTD, Buffer

SKIP_MAX: Final = 256
MASK_SIZE: Final = 4
NAMES: Final = {"off": RAW, "lz4": LZ4, "zstd": ZSTD}


class Compressor:
    """`codec` is LZ4, ZSTD or RAW (off)."""

    def __init__(self, codec: int) -> None:
        self.codec = codec
        self._skip = 0
        self._skip_next = 1
        self._zstd = zstandard.ZstdCompressor(level=1) if codec == ZSTD else None

    @classmethod
    def named(cls, name: str) -> "Compressor":
        if name not in NAMES:
            raise BadInput(f"{name!r} is not a compression: use one of {', '.join(NAMES)}")
        return cls(NAMES[name])

    def compress(self, data: Buffer) -> bytes | None:
        """The compressed payload, or None: store it plain. Worth it from an eighth saved."""
        if self._skip:
            self._skip -= 1
            return None
        if self.codec == RAW:
            return None
        if self._zstd is not None:
            packed = self._zstd.compress(data)
        else:
            packed = lz4.block.compress(data, store_size=False)
        if len(packed) <= len(data) - len(data) // 8:
            self._skip_next = 1
            return packed
        self._skip = self._skip_next
        self._skip_next = min(2 * self._skip_next, SKIP_MAX)
        return None


def decompress(codec: int, payload: Buffer, raw_bytes: int, where: str) -> Buffer:
    """The plain payload, exactly `raw_bytes` long. Corrupt names `where`."""
    try:
        if codec == LZ4:
            plain: Buffer = lz4.block.decompress(payload, uncompressed_size=raw_bytes)
        elif codec == ZSTD:
            plain = zstandard.ZstdDecompressor().decompress(payload, max_output_size=raw_bytes)
        elif codec == ZERO:
            plain = bytes(raw_bytes)
        else:
            plain = payload
    except (lz4.block.LZ4BlockError, zstandard.ZstdError) as error:
        raise Corrupt(f"{where} does not decompress ({error}): restore it from a copy or a backup") from None
    if len(plain) != raw_bytes:
        raise Corrupt(f"{where} decompresses to {len(plain)} bytes instead of {raw_bytes}")
    return plain


def decode_blocks(codec: int, payload: Buffer, raw_bytes: int, where: str) -> tuple[Buffer, int]:
    """The plain blocks of a DATA frame, zeros where one was not kept; and a bit for each that was."""
    blocks = raw_bytes // BLOCK_SIZE
    if codec != SPARSE:
        return decompress(codec, payload, raw_bytes, where), (1 << blocks) - 1
    kept = int.from_bytes(payload[:MASK_SIZE], "little")
    if not kept or kept >> blocks:
        raise Corrupt(f"{where} keeps blocks that it does not have: restore it from a copy or a backup")
    packed = memoryview(decompress(LZ4, payload[MASK_SIZE:], kept.bit_count() * BLOCK_SIZE, where))
    plain = bytearray(raw_bytes)
    at = 0
    for block in range(blocks):
        if kept >> block & 1:
            plain[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE] = packed[at : at + BLOCK_SIZE]
            at += BLOCK_SIZE
    return plain, kept


def encode_sparse(plain: Buffer, kept: int) -> bytes:
    """The payload of a SPARSE frame."""
    view = memoryview(plain)
    blocks = range(len(view) // BLOCK_SIZE)
    parts = [view[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE] for block in blocks if kept >> block & 1]
    packed: bytes = lz4.block.compress(b"".join(parts), store_size=False)
    return kept.to_bytes(MASK_SIZE, "little") + packed
