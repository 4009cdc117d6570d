"""What a worker shows to the world: an NBD export on a unix socket or a TCP port; and how it is told to end.

  FR1  The first SIGTERM or SIGINT ends it in order: requests under way are answered, the dataset is closed. The second
       one ends the process at once; the stage keeps what was acknowledged.
"""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

import trio

from sds.nbd.device import Device
from sds.nbd.listeners import Listener, listen_tcp, listen_unix
from sds.nbd.server import Server


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`socket_path`, or else `host` and `port`."""

    socket_path: str = ""
    host: str = ""
    port: int = 0
    export_name: str = ""

    def listen(self) -> Listener:
        return listen_unix(self.socket_path) if self.socket_path else listen_tcp(self.host, self.port)


class Stop:
    """The wish to end; may come at any time, from a signal or over the control socket."""

    def __init__(self) -> None:
        self.starting = trio.CancelScope()
        """Around everything before the server serves: given up at once."""
        self.server: Server | None = None

    def request(self) -> None:
        if self.server is not None:
            self.server.stop()
        else:
            self.starting.cancel()

    async def watch_signals(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """FR1."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            number = await anext(signals)
            self.request()
            number = await anext(signals)
            os._exit(128 + number)


async def serve_front(
    device: Device, endpoint: Endpoint, what: str, stop: Stop, announce: Callable[[str], None]
) -> None:
    """Serve until told to stop. `announce` gets the one line that says that clients may come."""
    listener = endpoint.listen()
    server = Server(device, export_name=endpoint.export_name)
    stop.server = server
    try:
        announce(f"serving {what} on {listener.uri(endpoint.export_name)}")
    except BaseException:
        listener.close()
        raise
    await server.serve([listener])
