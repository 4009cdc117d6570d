"""A client that goes on writing while the demo breaks things, and knows what was acknowledged and how long it waited.

  LO1  One write at a time, recorded in a Ledger: after `stop` each block must hold its last acknowledged version.
  LO2  An error of any write ends it, and `reach` and `stop` tell: nothing that breaks may show at the volume.
"""

import random
import threading
import time
from types import TracebackType
from typing import Self

import nbd

from demo.ledger import BLOCK_BYTES, Ledger, stamped
from demo.report import prove

PAUSE_S = 0.0005
REACH_TIMEOUT_S = 60.0


class Load:
    def __init__(self, uri: str, blocks: int, seed: int) -> None:
        self._uri = uri
        self._ledger = Ledger(blocks, random.Random(seed))
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.error = ""
        self.worst_s = 0.0
        """The longest that a write has waited for its acknowledgement."""

    @property
    def acks(self) -> int:
        return self._ledger.acks

    @property
    def acked(self) -> dict[int, int]:
        """Versions of blocks."""
        return self._ledger.acked

    def reach(self, more: int) -> None:
        """Wait until so many more writes were acknowledged."""
        until, end_s = self.acks + more, time.monotonic() + REACH_TIMEOUT_S
        while self.acks < until:
            prove(not self.error, f"a write failed: {self.error}")
            prove(time.monotonic() < end_s, f"writes hang: {self.acks} of {until} acknowledged")
            time.sleep(0.01)

    def stop(self) -> None:
        self._ending.set()
        self._thread.join(REACH_TIMEOUT_S)
        prove(not self._thread.is_alive() and not self.error, f"a write failed or hangs: {self.error}")

    def check(self, uri: str) -> None:
        """LO1, of the volume that is served there."""
        losses = self._ledger.losses(uri)
        prove(not losses, f"{len(losses)} blocks are not as acknowledged: {'; '.join(losses[:3])}")

    def _run(self) -> None:
        try:
            handle = nbd.NBD()
            handle.connect_uri(self._uri)
            while not self._ending.is_set():
                self._write(handle)
                self._ending.wait(PAUSE_S)
            handle.flush()
            handle.shutdown()
        except nbd.Error as error:
            self.error = str(error)

    def _write(self, handle: "nbd.NBD") -> None:
        ledger = self._ledger
        block = ledger.rng.randrange(ledger.blocks)
        version = ledger.acked.get(block, 0) + 1
        ledger.in_flight[block] = version
        begin_s = time.monotonic()
        handle.pwrite(stamped(block, version), block * BLOCK_BYTES)
        self.worst_s = max(self.worst_s, time.monotonic() - begin_s)
        ledger.acked[block] = ledger.in_flight.pop(block)
        ledger.acks += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join(REACH_TIMEOUT_S)
