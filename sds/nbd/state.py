"""What the connections of one server share: the device, limits, memory in flight, counters.

  S1  `transmitting` holds every connection, oldest first, from before it is served until its last request has
      ended.
  S2  A new connection is served only after `admit`: older connections whose peer is gone are cut (no further
      request of theirs starts) and their requests under way have ended. So a write of a dead connection never
      lands after one of the connection that replaced it.
"""

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sds.nbd.budget import Budget
from sds.nbd.device import Device
from sds.nbd.wire import COMMAND_NAMES

if TYPE_CHECKING:
    from sds.nbd.transmission import Connection

log = logging.getLogger("sds.nbd")


@dataclass(frozen=True, slots=True)
class Limits:
    connections: int = 128
    handshakes: int = 16
    handshake_s: float = 10.0
    stall_s: float = 30.0
    """A client that stops sending a payload or reading replies is cut after this, if others wait for memory."""
    grace_s: float = 30.0
    """How long a stopping server waits for clients to take their last replies."""
    requests_per_connection: int = 128
    bytes_per_connection: int = 64 << 20
    requests: int = 1024
    bytes: int = 256 << 20


@dataclass(slots=True)
class Metrics:
    """Requests and bytes by command name, counted per batch."""

    ops: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COMMAND_NAMES, 0))
    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COMMAND_NAMES, 0))
    errors: int = 0
    connections: int = 0
    connections_total: int = 0

    def count(self, command: int, ops: int, size_bytes: int) -> None:
        name = COMMAND_NAMES[command]
        self.ops[name] += ops
        self.bytes[name] += size_bytes


class State:
    def __init__(self, device: Device, limits: Limits) -> None:
        self.device = device
        self.limits = limits
        self.metrics = Metrics()
        self.budget = Budget(limits.requests, limits.bytes)
        self.transmitting: list[Connection] = []
        self.last_active: Connection | None = None
        self.stopping_since = 0.0
        self._told: set[tuple[str, str]] = set()

    async def admit(self, newcomer: "Connection") -> None:
        """S2. Returns without waiting if nobody died with requests under way."""
        older = list(self.transmitting)
        self.transmitting.append(newcomer)
        while dead := [c for c in older if not c.ended.is_set() and c.is_dead()]:
            for connection in dead:
                connection.cut()
            for connection in dead:
                await connection.ended.wait()

    def tell_unexpected(self, command: str, exc: Exception) -> None:
        """A bug: the traceback goes to the log, once per kind. The client is told EIO by the caller."""
        key = (command, f"{type(exc).__name__}:{exc.__traceback__.tb_lineno if exc.__traceback__ else 0}")
        if key not in self._told:
            self._told.add(key)
            log.error("unexpected error in %s", command, exc_info=exc)
