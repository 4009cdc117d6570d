"""Listening sockets: a path in the file system, or a TCP port.

  L1  A socket file is replaced only if nobody listens on it; anything else at the path is left alone.
  L2  A socket file is removed on close only if it is still the one that was made here.
"""

import errno
import os
import socket
import stat
from dataclasses import dataclass

from sds.core.errors import BadInput, Busy, Exists

BACKLOG = 64


@dataclass(frozen=True, slots=True)
class Listener:
    sock: socket.socket
    path: str | None = None
    inode: int = 0

    @property
    def port(self) -> int:
        """The TCP port (also when 0 was asked for)."""
        return int(self.sock.getsockname()[1])

    def uri(self, export_name: str) -> str:
        if self.path is not None:
            return f"nbd+unix:///{export_name}?socket={self.path}"
        host, port = self.sock.getsockname()[:2]
        return f"nbd://[{host}]:{port}/{export_name}" if ":" in host else f"nbd://{host}:{port}/{export_name}"

    def close(self) -> None:
        self.sock.close()
        if self.path is not None and _inode(self.path) == self.inode:
            os.unlink(self.path)


def _inode(path: str) -> int:
    try:
        return os.lstat(path).st_ino
    except FileNotFoundError:
        return 0


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Exists(f"{path} exists and is not a socket: choose another path or remove it")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            pass
        except BlockingIOError:
            raise Busy(f"a server listens on {path} already: stop it or choose another path") from None
        else:
            raise Busy(f"a server listens on {path} already: stop it or choose another path")
    os.unlink(path)


def listen_unix(path: str) -> Listener:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        raise BadInput(f"cannot listen on {path}: {exc.strerror or exc}") from exc
    return Listener(sock, path, _inode(path))


def listen_tcp(host: str, port: int) -> Listener:
    """`host` is an address or a name; `port` 0 lets the system choose."""
    if not 0 <= port <= 65535:
        raise BadInput(f"cannot listen on {host}:{port}: a port is a number from 0 to 65535")
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
    except OSError as exc:
        raise BadInput(f"cannot listen on {host}:{port}: {exc}") from exc
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        if exc.errno == errno.EADDRINUSE:
            raise Busy(f"{host}:{port} is taken: stop the other server or choose another port") from exc
        raise BadInput(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from exc
    return Listener(sock)
