"""Compression of payloads, and its opposite with all lengths checked.

Compression backs off: after a run of payloads that did not shrink, more and more are stored plain without trying
(an attempt costs about a third of a 4 KiB write), until one that is tried shrinks again.
"""

from typing import Final

import lz4.block
import zstandard

from sds.core.errors import BadInput, Corrupt
from sds.core.frame import LZ4, RAW, ZERO, ZSTD, Buffer

SKIP_MAX: Final = 256
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
