"""A volume or a snapshot as an NBD export on a unix socket or a TCP port."""

from dataclasses import asdict, dataclass

from sds.daemon.control import Handler
from sds.daemon.front import Announce, Json, Stop
from sds.filesystem.changed import Changed
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


class NbdFront:
    def __init__(self, device: Device, endpoint: Endpoint, what: str) -> None:
        self._device = device
        self._endpoint = endpoint
        self._what = what
        self._server: Server | None = None

    @property
    def caches_writes(self) -> bool:
        return False

    async def serve(self, stop: Stop, announce: Announce) -> None:
        name = self._endpoint.export_name
        listener = self._endpoint.listen()
        server = Server(self._device, export_name=name)
        self._server, stop.end = server, server.stop
        try:
            announce(f"serving {self._what} on {listener.uri(name)}")
        except BaseException:
            listener.close()
            raise
        await server.serve([listener])

    def stats(self) -> Json:
        return {"nbd": asdict(self._server.metrics)} if self._server is not None else {}

    def handlers(self) -> dict[str, Handler]:
        return {}

    async def pull_in(self) -> None:
        """A client that caches flushes before it says that something is written."""

    async def replaced(self, changed: Changed | None) -> None:
        """Whoever rolls back tells the guest (docs/operations.md); a new size is seen when it connects anew."""
