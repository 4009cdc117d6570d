"""Writing blocks of an inode: which frames hold them, and their place in the map.

  BW1  `append` is synchronous; the caller has made sure that there is room (Log.has_room) and that the map's pages are
       in memory, so it cannot fail half way (D2).
  BW2  A piece of `piece_bytes` always fits into a fresh segment, headers and tables included.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from sds.core.address import BLOCK_SIZE, BLOCKS_PER_FRAME
from sds.core.frame import BLOCKS, DATA, HEADER_SIZE, MORE, RAW, ZERO, Buffer
from sds.dataset.blockmap import BlockMap
from sds.log.codec import Compressor
from sds.log.log import Log

COMPRESSED_BLOCKS: Final = 8
"""Blocks compressed as one: larger is smaller on disk, and slower to read a single block of."""


class Frame(NamedTuple):
    codec: int
    blocks: int
    payload: Buffer


class BlockWriter:
    def __init__(self, blocks: BlockMap, log: Log, segment_size: int, compress: str) -> None:
        self._map = blocks
        self._log = log
        self.compressor = Compressor.named(compress)
        piece = segment_size // 4 & -BLOCK_SIZE
        self.frame_blocks = min(BLOCKS_PER_FRAME, piece // BLOCK_SIZE // 2)
        self.piece_bytes = piece - (piece // 8 & -BLOCK_SIZE)  # BW2

    def compress_with(self, name: str) -> None:
        self.compressor = Compressor.named(name)

    def frames(self, data: memoryview) -> list[Frame]:
        """The frames that hold these blocks, as few as may be."""
        frames: list[Frame] = []
        position, end = 0, len(data)
        while position < end:
            piece = data[position : position + min(COMPRESSED_BLOCKS, self.frame_blocks) * BLOCK_SIZE]
            packed = self.compressor.compress(piece)
            if packed is None:
                piece = data[position : position + self.frame_blocks * BLOCK_SIZE]
                frames.append(Frame(BLOCKS if len(piece) > BLOCK_SIZE else RAW, len(piece) >> 12, piece))
            else:
                frames.append(Frame(self.compressor.codec, len(piece) >> 12, packed))
            position += len(piece)
        return frames

    def zero_frames(self, count: int) -> list[Frame]:
        """Blocks that are allocated and read as zeros: frames without a payload."""
        return [
            Frame(ZERO, min(self.frame_blocks, count - at), b"") for at in range(0, count, self.frame_blocks)
        ]

    def append(self, inode: int, first: int, frames: Sequence[Frame], more: bool = False) -> None:
        """BW1. `more`: the operation goes on in another frame behind these."""
        last = len(frames) - 1
        for number, (codec, blocks, payload) in enumerate(frames):
            flags = MORE if more or number < last else 0
            address = self._log.append(
                DATA, codec, flags, blocks, payload, blocks * BLOCK_SIZE, inode, first, False
            )
            assert address, "has_room promised room"
            self._map.set_run(inode, first, blocks, address)
            first += blocks


def stored_bytes(frames: Sequence[Frame]) -> int:
    """Room that these frames need, headers included, padding not."""
    tables = sum(8 * frame.blocks for frame in frames if frame.codec == BLOCKS)
    return tables + sum(HEADER_SIZE + len(frame.payload) for frame in frames)
