"""Addresses: where a block lives, for ever.

An address is 64 bits:   segment id (40) | offset / 64 (19) | block within the frame (5)

  A1  0 is a hole. No real address is 0: segment ids start at 1.
  A2  The blocks of one frame are consecutive addresses, so a run of blocks is a run of integers.
  A3  An address never changes its meaning: segment ids are never reused.
"""

BLOCK_SIZE = 4096
BLOCKS_PER_FRAME = 32
UNIT = 64
"""Frames start on multiples of this many bytes."""

SEGMENT_SIZE_MAX = 32 << 20
SEGMENT_ID_MAX = (1 << 40) - 1
HOLE = 0

SEGMENT_SHIFT = 24
UNIT_SHIFT = 5
FRAME_MASK = ~31
"""`address & FRAME_MASK` is the address of the first block of the frame."""


def pack_address(segment: int, offset: int, block: int = 0) -> int:
    """The address of a block; `offset` is the byte offset of its frame in the segment."""
    assert 0 < segment <= SEGMENT_ID_MAX and 0 <= block < BLOCKS_PER_FRAME
    assert offset % UNIT == 0 and 0 < offset < SEGMENT_SIZE_MAX
    return segment << SEGMENT_SHIFT | offset >> 6 << UNIT_SHIFT | block


def segment_of(address: int) -> int:
    return address >> SEGMENT_SHIFT


def offset_of(address: int) -> int:
    """Byte offset of the frame within its segment."""
    return (address >> UNIT_SHIFT & 0x7FFFF) << 6


def block_of(address: int) -> int:
    """Index of the block within its frame."""
    return address & 31
