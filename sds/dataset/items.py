"""The items of a dataset: what its tree holds but for map pages. Newest first: the layers in memory, then the tree.

  I1  Everything here is synchronous; what is not in memory raises Wait (sds.dataset.section).
  I2  Changes go into the current layer. Whoever makes them has appended them to the log in the same section (D2).
  I3  `batch` is bounded: however many items there are, it looks at a leaf and at BATCH_MAX items of each layer.
"""

from bisect import bisect_left
from typing import Final

from sds.core.keys import split_key
from sds.dataset import tree
from sds.dataset.layer import Layer, Layers
from sds.dataset.nodes import Nodes
from sds.dataset.section import Wait

BATCH_MAX: Final = 256


class Items:
    def __init__(self, nodes: Nodes, layers: Layers) -> None:
        self._nodes = nodes
        self.layers = layers

    def get(self, key: bytes) -> bytes | None:
        """The value, None if there is none. Wait."""
        layers = self.layers
        values = layers.current.items.values
        if key in values:
            return values[key]
        root = layers.root
        for layer in layers.newest_first():
            if key in layer.items.values:
                return layer.items.values[key]
            if layer.dropped and int.from_bytes(key[:8], "big") in layer.dropped:
                return None
            if layer.base_root is not None:
                root = layer.base_root
                break
        known, found = tree.get_nowait(self._nodes.cached, root, key)
        if not known:
            raise Wait(lambda: self.load(key))
        return found

    async def load(self, key: bytes) -> None:
        """Bring into memory what `get` and `batch` need for this key."""
        await tree.steadily(lambda: self.layers.root_below, lambda root: tree.leaf(self._nodes, root, key))

    def batch(self, low: bytes, high: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """(items, end): all items with low <= key < end, in order; end <= high is where to go on. Wait."""
        layers = self._layers_down()
        root, end = self.layers.root_below, high
        found: dict[bytes, bytes] = {}
        if root:
            place = tree.leaf_nowait(self._nodes.cached, root, low)
            if place is None:
                raise Wait(lambda: self.load(low))
            leaf, beyond = place
            end = high if beyond is None else min(beyond, high)
            first, last = bisect_left(leaf.keys, low), bisect_left(leaf.keys, end)
            found = dict(zip(leaf.keys[first:last], leaf.values[first:last], strict=True))
        for layer in layers:
            far = layer.items.key_after(low, BATCH_MAX)
            end = end if far is None else min(end, far)
        for layer in reversed(layers):
            _overlay(found, layer, low, end)
        return sorted(item for item in found.items() if item[0] < end), end

    def is_empty(self, low: bytes, high: bytes) -> bool:
        """Is there no item with low <= key < high? Wait."""
        while low < high:
            found, low = self.batch(low, high)
            if found:
                return False
        return True

    def all(self, low: bytes, high: bytes) -> list[tuple[bytes, bytes]]:
        """All items with low <= key < high: of an inode that has few. Wait."""
        result: list[tuple[bytes, bytes]] = []
        while low < high:
            found, low = self.batch(low, high)
            result += found
        return result

    # -- changing -----------------------------------------------------------------------------------------------------

    def put(self, key: bytes, value: bytes) -> None:
        self.layers.current.items.put(key, value)

    def delete(self, key: bytes) -> None:
        self.layers.current.items.put(key, None)

    def drop(self, inode: int) -> None:
        self.layers.current.drop(inode)

    @property
    def unmerged(self) -> int:
        """Items in memory, of all layers."""
        return self.layers.frozen_items + self.layers.current.item_count

    def _layers_down(self) -> list[Layer]:
        """Newest first, down to the one that stands on a tree of its own."""
        found = []
        for layer in self.layers.newest_first():
            found.append(layer)
            if layer.base_root is not None:
                break
        return found


def _overlay(found: dict[bytes, bytes], layer: Layer, low: bytes, end: bytes) -> None:
    """Apply what the layer did to keys low <= key < end."""
    if layer.dropped:
        for key in [key for key in found if split_key(key)[0] in layer.dropped]:
            del found[key]
    for key in layer.items.range(low, end):
        value = layer.items.values[key]
        if value is None:
            found.pop(key, None)
        else:
            found[key] = value
