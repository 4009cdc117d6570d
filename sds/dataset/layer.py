"""A layer: the changes of a dataset between two points of its log, in memory until a checkpoint merges them.

    CURRENT --freeze--> FROZEN --merged into the tree and published--> gone

  Y1  A page in the CURRENT layer's `dirty` belongs to that layer and may be changed in place.
      Every other page in memory is never changed: it is copied first.
  Y2  Order within a layer: `base_root` (a rollback) comes first, then `cleared`, then `dirty`.
"""

from array import array
from dataclasses import dataclass, field

import trio

from sds.core.intervals import Intervals


@dataclass(slots=True, eq=False)
class Layer:
    dirty: "dict[int, array[int]]" = field(default_factory=dict)
    """Page key -> page."""
    cleared: Intervals = field(default_factory=Intervals)
    """Page keys whose pages were dropped."""
    base_root: int | None = None
    """A rollback: the tree that this layer's changes are on top of, instead of the layer below."""

    sequence: int = 0
    """From here on: set by the freeze. Last sequence number of the layer."""
    segment: int = 0
    offset: int = 0
    """Where the log goes on after the layer."""
    size_bytes: int = 0
    mapped_blocks: int = 0
    snapshot_id: int | None = None
    ready: trio.Event = field(default_factory=trio.Event)
    """May be published: if it is a snapshot, its row is in the catalog."""
    published: trio.Event = field(default_factory=trio.Event)

    @property
    def is_empty(self) -> bool:
        return not self.dirty and not self.cleared and self.base_root is None
