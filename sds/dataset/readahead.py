"""Read-ahead by the map: a stream that is sequential in the volume may be anywhere in the log.

  RA1  Hints only, and only after a read had to wait: what is cached costs nothing.
  RA2  Close together: the next window is asked for, range by range.
  RA3  Scattered (written at random): small reads would be as many as blocks. So the segments that the stream
       leads to are pulled in whole, oldest first, as long as all of them fit into half of the memory that is free;
       each at most once per stream.
"""

from typing import Final

from sds.core.address import BLOCK_SIZE, SEGMENT_SIZE_MAX, offset_of, segment_of
from sds.core.page import PAGE_BLOCKS
from sds.dataset.blockmap import INODE_SHIFT, PAGE_SHIFT, BlockMap, page_keys
from sds.log.reader import FrameReader

WINDOW_BLOCKS: Final = (16 << 20) // BLOCK_SIZE
SLACK_BYTES: Final = 8 << 20
"""Requests of one stream overtake each other by so much."""
GAP_BYTES: Final = 128 << 10
RANGES_MAX: Final = 64
MAP_AHEAD_BLOCKS: Final = 2 * WINDOW_BLOCKS
PULL_WINDOWS: Final = 15
"""While segments are pulled in whole, the map is looked at again only after so many windows."""
COLD_BYTES: Final = 64 << 20
"""After a read that had to wait, hints are given for so much of the stream."""


class ReadAhead:
    def __init__(self, blocks: BlockMap, reader: FrameReader, inode: int) -> None:
        self._map = blocks
        self._reader = reader
        self._inode = inode
        self._expected = 0
        self._streak = 0
        self._until = 0
        self._cold_bytes = 0
        self._pulled: set[int] = set()
        self._to_pull: list[int] = []

    def note(self, offset: int, length: int) -> None:
        """A read of this range is about to happen: if it goes on a cold stream, ask for what comes after it."""
        if not -SLACK_BYTES <= offset - self._expected <= SLACK_BYTES:
            self._streak, self._until = 0, 0
            self._pulled.clear()
            self._to_pull.clear()
        self._streak += 1
        self._expected = offset + length
        if self._cold_bytes <= 0 or self._streak <= 2:
            return
        self._cold_bytes -= length
        block = offset + length >> 12
        if block + WINDOW_BLOCKS // 2 > self._until:
            start = max(self._until, block)
            self._until = block + WINDOW_BLOCKS
            self._ask(start, self._until)
        while self._to_pull and self._reader.prefetch(self._to_pull[-1], 0, SEGMENT_SIZE_MAX):
            self._pulled.add(self._to_pull.pop())

    async def missed(self) -> None:
        """A read has to wait. On a stream the map is loaded some way ahead, so that there is something to ask for."""
        self._cold_bytes = COLD_BYTES
        if self._streak > 2:
            first = self._expected >> 12
            for key in page_keys(self._inode, first, MAP_AHEAD_BLOCKS):
                if key not in self._map.pages:
                    await self._map.page(key)
                    if not self._to_pull and not self._pulled:
                        self._until = min(self._until, first)

    def _ask(self, first: int, last: int) -> None:
        places = self._places(first, last)
        ranges = merged_ranges(places)
        if len(ranges) <= RANGES_MAX:
            for segment, start, end in ranges:
                self._reader.prefetch(segment, start, end - start)
            return
        if self._map.mapped_blocks * BLOCK_SIZE <= _free_memory_bytes() // 2:
            self._to_pull = sorted({segment for segment, _ in places} - self._pulled, reverse=True)
            self._until += PULL_WINDOWS * WINDOW_BLOCKS

    def _places(self, first: int, last: int) -> list[tuple[int, int]]:
        """(segment, offset) of the frames of these blocks, as far as their map pages are in memory."""
        places = []
        high = self._inode << INODE_SHIFT
        for index in range(first >> PAGE_SHIFT, (last >> PAGE_SHIFT) + 1):
            page = self._map.pages.get(high | index)
            if page is not None:
                places += [(segment_of(a), offset_of(a)) for a in {a & ~31 for a in page} if a]
        return sorted(places)


def merged_ranges(places: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(segment, start, end) from sorted frame places, joined where the gap is small."""
    ranges: list[tuple[int, int, int]] = []
    for segment, offset in places:
        end = offset + PAGE_BLOCKS * BLOCK_SIZE // 4
        if ranges and ranges[-1][0] == segment and offset - ranges[-1][2] <= GAP_BYTES:
            ranges[-1] = (segment, ranges[-1][1], end)
        else:
            ranges.append((segment, offset, end))
    return ranges


def _free_memory_bytes() -> int:
    """What the kernel could use as cache."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 0
