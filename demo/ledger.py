"""A client that remembers what the server acknowledged, and after a crash demands it back.

  L1  Every block says which block it is and which version: "block 7, version 3", over and over.
  L2  A version counts as acknowledged when the server's reply has come, not before. No flush is ever sent:
      the promise for a killed server is that every acknowledged write is there, flushed or not.
  L3  One write per block is in flight. After the crash a block holds its last acknowledged version, or the
      one that was in flight, whole. Anything else is a loss.
"""

import contextlib
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import nbd

BLOCK_BYTES = 4096
IN_FLIGHT_MAX = 16
STAMP = struct.Struct("<QQ")


@dataclass(slots=True)
class Ledger:
    """Versions per block: what was acknowledged, and what was in flight when the server went."""

    blocks: int
    rng: random.Random
    acked: dict[int, int] = field(default_factory=dict)
    in_flight: dict[int, int] = field(default_factory=dict)
    acks: int = 0

    def write_until_gone(self, uri: str, acks: int, kill: Callable[[], None]) -> None:
        """Write blocks at random; after so many acknowledgements call `kill`, with writes in flight."""
        handle = nbd.NBD()
        handle.connect_uri(uri)
        until = self.acks + acks
        # The connection breaks under us: that is the end of the round, and the very point of it.
        with contextlib.suppress(nbd.Error):
            while True:
                while handle.aio_in_flight() < IN_FLIGHT_MAX:
                    self._submit(handle)
                handle.poll(-1)
                if self.acks >= until:
                    kill()

    def _submit(self, handle: Any) -> None:
        block = self.rng.randrange(self.blocks)
        if block in self.in_flight:
            return
        version = self.acked.get(block, 0) + 1
        self.in_flight[block] = version
        data = nbd.Buffer.from_bytearray(bytearray(stamped(block, version)))

        def replied(error: Any) -> int:
            if error.value == 0:
                self.acked[block] = version
                del self.in_flight[block]
                self.acks += 1
            return 1

        handle.aio_pwrite(data, block * BLOCK_BYTES, completion=replied)

    def losses(self, uri: str) -> list[str]:
        """What is not as it must be, in words. What was in flight is then known, and no longer in flight."""
        handle = nbd.NBD()
        handle.connect_uri(uri)
        wrong = []
        for block in range(self.blocks):
            data = bytes(handle.pread(BLOCK_BYTES, block * BLOCK_BYTES))
            found = STAMP.unpack_from(data)[1]
            legal = {self.acked.get(block, 0), self.in_flight.get(block, self.acked.get(block, 0))}
            if found not in legal or data != stamped(block, found):
                wrong.append(f"block {block} holds version {found}, and {sorted(legal)} are legal")
            elif found:
                self.acked[block] = found
        handle.shutdown()
        self.in_flight.clear()
        return wrong


def stamped(block: int, version: int) -> bytes:
    """Version 0 is a block that was never written."""
    return STAMP.pack(block, version) * (BLOCK_BYTES // STAMP.size) if version else bytes(BLOCK_BYTES)
