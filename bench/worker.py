"""What a running worker says of itself, over its control socket: `stats`, and operations that no command offers."""

import json
import socket
import time
from typing import Any

from tools.sds import Sds

TIMEOUT_S = 120.0
POLL_S = 0.05


class WorkerRefused(Exception):
    """A worker answered with an error."""


def ask(sds: Sds, op: str) -> dict[str, Any]:
    """Of the only worker of this home."""
    found = [path for path in (sds.home / "run").glob("*.sock") if not path.name.startswith("mount-")]
    assert len(found) == 1, f"{len(found)} workers in {sds.home}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(found[0]))
        connection.sendall(json.dumps({"op": op, "args": {}}).encode() + b"\n")
        answer = json.loads(connection.makefile("rb").readline())
    if not answer["ok"]:
        raise WorkerRefused(f"{op}: {answer['message']}")
    result: dict[str, Any] = answer["result"]
    return result


def the_backend(stats: dict[str, Any]) -> dict[str, Any]:
    """Of a pool with one backend."""
    (found,) = stats["backends"].values()
    result: dict[str, Any] = found
    return result


def wait_uploaded(sds: Sds) -> dict[str, Any]:
    """Everything written so far is where it stays; the worker's stats then."""
    ask(sds, "cut")
    while the_backend(stats := ask(sds, "stats"))["pending_files"]:
        time.sleep(POLL_S)
    return stats
