"""What trees refer to, frame by frame: how much of each segment is alive, and exactly which frames of some are."""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final

from sds.dataset.nodes import Nodes
from sds.maintenance.sweep import Mark

_SEGMENT_SHIFT: Final = 24
_FRAME_SHIFT: Final = 5
_FRAME_BITS: Final = (1 << 19) - 1


class Counts(Mark):
    """Addresses by segment; one that two versions of a map page lead to counts twice. Segment 0 are holes."""

    def __init__(self, nodes: Nodes) -> None:
        super().__init__(nodes)
        self.found: Counter[int] = Counter()

    def note(self, addresses: Iterable[int]) -> None:
        self.found.update([address >> _SEGMENT_SHIFT for address in addresses])


class LiveFrames(Mark):
    """The frames of the given segments that are referred to, by their offset in units of 64 bytes; and which blocks of
    them, a bit each."""

    def __init__(self, nodes: Nodes, segments: Collection[int]) -> None:
        super().__init__(nodes)
        self.frames: dict[int, dict[int, int]] = {segment: {} for segment in segments}

    def note(self, addresses: Iterable[int]) -> None:
        frames = self.frames
        for address in addresses:
            found = frames.get(address >> _SEGMENT_SHIFT)
            if found is not None:
                offset = address >> _FRAME_SHIFT & _FRAME_BITS
                found[offset] = found.get(offset, 0) | 1 << (address & 31)
