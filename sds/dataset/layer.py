"""A layer: the changes of a dataset between two points of its log, in memory until a checkpoint merges them.

    CURRENT --freeze--> FROZEN --merged into the tree and published--> gone

  Y1  A page in the CURRENT layer's `dirty` belongs to that layer and may be changed in place.
      Every other page in memory is never changed: it is copied first.
  Y2  Order within a layer: `base_root` (a rollback) comes first, then `cleared` and `dropped`, then `dirty` and
      `items`.
  Y3  A frozen layer is never changed. So the layers up to a snapshot's and the tree below them are the snapshot, even
      before they are merged.
"""

from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from sds.core.intervals import Intervals
from sds.core.keys import inode_range
from sds.dataset.sorted_items import SortedItems


@dataclass(slots=True, eq=False)
class Layer:
    dirty: "dict[int, array[int]]" = field(default_factory=dict)
    """Page key -> page."""
    cleared: Intervals = field(default_factory=Intervals)
    """Page keys whose pages were dropped."""
    items: SortedItems = field(default_factory=SortedItems)
    """Tree key -> value (None: deleted), of all kinds but map pages."""
    dropped: Intervals = field(default_factory=Intervals)
    """Inodes of which everything was deleted."""
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
    root: int = 0
    """Once it is published: of the tree with everything up to this layer."""

    @property
    def is_empty(self) -> bool:
        return not (self.dirty or self.cleared or len(self.items) or self.dropped) and self.base_root is None

    @property
    def item_count(self) -> int:
        return len(self.items.values) + len(self.dropped)

    def drop(self, inode: int) -> None:
        """Items of this inode are gone; Y2."""
        self.items.drop(*inode_range(inode))
        self.dropped.add(inode, inode + 1)

    def roll_back(self, root: int) -> None:
        """Everything is as in the tree `root` from now on."""
        for changes in (self.dirty, self.cleared, self.items, self.dropped):
            changes.clear()
        self.base_root = root


class Layers:
    """The layers of an open dataset, and the published tree below them. Of a snapshot: the same, and never changed."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.current = Layer()
        self.frozen: deque[Layer] = deque()
        self.frozen_items = 0
        """Items in all frozen layers."""

    def newest_first(self) -> list[Layer]:
        return [self.current, *reversed(self.frozen)] if self.frozen else [self.current]

    @property
    def root_below(self) -> int:
        """The tree that everything which is in no layer is in."""
        for layer in self.newest_first():
            if layer.base_root is not None:
                return layer.base_root
        return self.root

    def base(self, is_gone: Callable[[Layer], bool]) -> int:
        """The root of the tree that something which is in no layer is in; 0: in none, a layer has removed it."""
        for layer in self.newest_first():
            if is_gone(layer):
                return 0
            if layer.base_root is not None:
                return layer.base_root
        return self.root

    def freeze(self) -> Layer:
        """The current layer becomes the youngest frozen one; what comes now goes into a new layer."""
        layer = self.current
        self.frozen.append(layer)
        self.frozen_items += layer.item_count
        self.current = Layer()
        return layer

    def merged(self, layers: list[Layer], root: int) -> None:
        """These, the oldest frozen layers, are in the tree `root` now."""
        for layer in layers:
            assert self.frozen[0] is layer
            self.frozen.popleft()
            self.frozen_items -= layer.item_count
        self.root = root

    def move_to(self, root: int) -> None:
        """The same state, now that all of it is in this tree."""
        self.root = root
        self.frozen.clear()
        self.frozen_items = 0

    def up_to(self, snapshot_id: int) -> "Layers | None":
        """Y3: the state that a snapshot holds, while it is not published; None: it is in no frozen layer."""
        for number, layer in enumerate(self.frozen, 1):
            if layer.snapshot_id == snapshot_id:
                found = Layers(self.root)
                found.frozen.extend(list(self.frozen)[:number])
                return found
        return None
