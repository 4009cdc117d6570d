"""Tree nodes and map pages as frames: written to the log of an open dataset, read through a bounded cache."""

from array import array
from collections import OrderedDict
from typing import Final

import trio

from sds.core.errors import Corrupt, Failed
from sds.core.frame import HEADER_SIZE, LZ4, MAP, NODE, RAW
from sds.core.node import Node, decode_node, encode_node
from sds.core.page import decode_page
from sds.log.codec import Compressor
from sds.log.log import Log
from sds.log.reader import FrameReader

NODES_MAX: Final = 4096
"""Cached nodes; a decoded leaf is some 30 KiB at worst."""


class Nodes:
    """A sds.dataset.tree.NodeStore. Without a log (a snapshot that is only read) it cannot write."""

    def __init__(self, reader: FrameReader, log: Log | None) -> None:
        self._reader = reader
        self._log = log
        self._cache: OrderedDict[int, Node] = OrderedDict()
        self._compressor = Compressor(LZ4)

    def cached(self, address: int) -> Node | None:
        """The node if it is in memory."""
        node = self._cache.get(address)
        if node is not None:
            self._cache.move_to_end(address)
        return node

    async def read_node(self, address: int) -> Node:
        node = self._cache.get(address)
        if node is None:
            payload = await self._reader.payload(address, NODE)
            node = decode_node(bytes(payload), f"tree node {address:#x}")
            self._remember(address, node)
        else:
            self._cache.move_to_end(address)
        return node

    async def write_node(self, node: Node) -> int:
        encoded = encode_node(node)
        packed = self._compressor.compress(encoded)
        if packed is None:
            address = await self.append(NODE, RAW, encoded, len(encoded))
        else:
            address = await self.append(NODE, LZ4, packed, len(encoded))
        self._remember(address, node)
        await trio.lowlevel.checkpoint()
        return address

    async def append(self, kind: int, codec: int, payload: bytes, raw_bytes: int) -> int:
        """Append a metadata frame, waiting for room."""
        if self._log is None:
            raise Failed("this dataset is open for reading only")
        while True:
            address = self._log.append(kind, codec, 0, 0, payload, raw_bytes)
            if address:
                return address
            await self._log.wait_room(HEADER_SIZE + len(payload), metadata=True)

    async def read_page(self, address: int) -> "array[int]":
        payload = await self._reader.payload(address, MAP)
        return decode_page(bytes(payload), f"map page {address:#x}")

    def _remember(self, address: int, node: Node) -> None:
        if len(self._cache) >= NODES_MAX:
            self._cache.popitem(last=False)
        self._cache[address] = node


def expect_root(root: int | None, what: str) -> int:
    """The root of something that must have one by now."""
    if root is None:
        raise Corrupt(f"{what} has no root: its checkpoint never ended; open the dataset once to repair it")
    return root
