"""How much metadata the log carries for the user's data, and how often to write a checkpoint.

The model: a dataset with `mapped_blocks` blocks, all mapped, is overwritten 4 KiB at a time (incompressible
data, each block a frame of its own, scattered over the log). In one checkpoint interval w blocks are
written, block b with probability p(b) each time. With a popular block anywhere in the volume, a page of n
blocks stays clean with probability q ** n, where q is the mean of exp(-w * p(b)) over all blocks; a leaf
that covers m blocks with q ** m.

  every frame     64 bytes of header + payload, rounded up to 64, and 64 more in the segment's footer
  map page        3 bytes and one byte per entry for each byte of the address that varies
  leaf, inner     NODE_FILL of 4 KiB; an entry is a key's rest and an address

Checked against measurements by bench/; the table and what we made of it:
docs/decisions/0003-map-page-size.md.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

from sds.core.address import BLOCK_SIZE, SEGMENT_SIZE_MAX, UNIT
from sds.core.node import NODE_SIZE_TARGET
from sds.core.page import INLINE_SIZE_MAX, PAGE_BLOCKS

FRAME_HEADER_SIZE = 64
FOOTER_ENTRY_SIZE = 64

NODE_FILL = 0.65
"""Mean fill of nodes: 1/2 after a split, 0.9 after a load in order."""
LEAF_ENTRY_SIZE = 12
"""A map page outside its leaf: 2 bytes of key, 10 of value."""
INNER_ENTRY_SIZE = 11

INTERVAL_MIN_BYTES = 256 << 20
INTERVAL_MAX_BYTES = 1 << 30
"""Replay takes about 2 s: 256 Ki frames of 4 KiB at 150,000 a second."""
METADATA_PART_MAX = 0.10

PAGE_CPU_S = 15e-6
LEAF_CPU_S = 250e-6
"""Time of one core to rewrite a page (encode, frame) and a node (decode, merge, encode, frame), roughly."""


@dataclass(frozen=True, slots=True)
class Workload:
    """4 KiB overwrites, p(b) ~ 1 / rank ** theta, ranks scattered; theta 0: uniform, 0.99: the usual skew."""

    name: str
    theta: float


UNIFORM = Workload("uniform", 0.0)
ZIPF = Workload("zipf 0.99", 0.99)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one checkpoint interval writes (expected values)."""

    user_bytes: int
    data_bytes: int
    pages: float
    page_bytes: float
    nodes: float
    node_bytes: float

    @property
    def metadata_part(self) -> float:
        """Map pages and nodes, as a part of the user's bytes."""
        return (self.page_bytes + self.node_bytes) / self.user_bytes

    @property
    def amplification(self) -> float:
        """Bytes written to the log per user byte, frame headers and footers included."""
        return self.data_bytes / self.user_bytes + self.metadata_part

    @property
    def cpu_s(self) -> float:
        """Time of one core that the checkpoint takes."""
        return self.pages * PAGE_CPU_S + self.nodes * LEAF_CPU_S


def frame_bytes(payload_bytes: float) -> float:
    """Bytes in the log for one frame."""
    return math.ceil((FRAME_HEADER_SIZE + payload_bytes) / UNIT) * UNIT + FOOTER_ENTRY_SIZE


def page_bytes(mapped_blocks: int, page_blocks: int) -> int:
    """Encoded size of a page of lone blocks from all over the log."""
    # Three bytes say where in a segment; ids of live segments spread over about twice the volume's size.
    segments = max(2, 2 * mapped_blocks * BLOCK_SIZE // SEGMENT_SIZE_MAX)
    return 3 + page_blocks * (3 + (segments.bit_length() + 7) // 8)


def clean_part(mapped_blocks: int, writes: int, workload: Workload) -> float:
    """The mean over all blocks of exp(-writes * p(block)): a block's chance to stay clean."""
    if not workload.theta:
        return math.exp(-writes / mapped_blocks)
    # Ranks in steps that grow geometrically: exact for the first ones, within a per mille for the rest.
    edges = [1]
    while edges[-1] <= mapped_blocks:
        edges.append(min(max(edges[-1] + 1, int(edges[-1] * 1.02)), mapped_blocks + 1))
        if edges[-1] == mapped_blocks + 1:
            break
    steps = [(b - a, ((a + b - 1) / 2) ** -workload.theta) for a, b in pairwise(edges)]
    total = sum(number * weight for number, weight in steps)
    return sum(number * math.exp(-writes * weight / total) for number, weight in steps) / mapped_blocks


def interval_cost(
    mapped_blocks: int, interval_bytes: int, page_blocks: int = PAGE_BLOCKS, workload: Workload = UNIFORM
) -> Cost:
    """What is written in one checkpoint interval of `interval_bytes` of user data."""
    assert mapped_blocks > 0
    writes = max(1, interval_bytes // BLOCK_SIZE)
    clean = clean_part(mapped_blocks, writes, workload)
    encoded = page_bytes(mapped_blocks, page_blocks)
    units = mapped_blocks / page_blocks
    pages = units * (1 - clean**page_blocks)
    outside_bytes = frame_bytes(encoded) if encoded > INLINE_SIZE_MAX else 0.0
    entry_size = LEAF_ENTRY_SIZE if outside_bytes else LEAF_ENTRY_SIZE - 9 + encoded
    nodes, covered = 0.0, float(page_blocks)
    while units > 1:
        fan_out = NODE_SIZE_TARGET * NODE_FILL / entry_size
        units, covered = max(1.0, units / fan_out), min(covered * fan_out, mapped_blocks)
        nodes += units * (1 - clean**covered)
        entry_size = INNER_ENTRY_SIZE
    node_size = frame_bytes(NODE_SIZE_TARGET * NODE_FILL)
    data = writes * int(frame_bytes(BLOCK_SIZE))
    return Cost(writes * BLOCK_SIZE, data, pages, pages * outside_bytes, nodes, nodes * node_size)


def checkpoint_interval_bytes(mapped_blocks: int, page_blocks: int = PAGE_BLOCKS) -> int:
    """Bytes of log after which to write a checkpoint.

    The shortest interval (replay!) whose metadata stay below METADATA_PART_MAX of the log under the worst
    workload, uniform overwrites; where none does, the longest, which has the least.
    """
    interval = INTERVAL_MIN_BYTES
    while mapped_blocks and interval < INTERVAL_MAX_BYTES:
        if interval_cost(mapped_blocks, interval, page_blocks).metadata_part <= METADATA_PART_MAX:
            break
        interval *= 2
    return interval
