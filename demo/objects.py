"""An object store on this machine: moto's server with one bucket, and a file with credentials for it.

It keeps everything in memory: ended, it is an object store that was lost for good. `pause` is one that does not answer.
"""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tools.servers import ServerFailed

BUCKET = "bucket"
KEYS = ("demo-access", "demo-secret")
START_TIMEOUT_S = 60.0


class ObjectServer:
    """Bucket and credentials are there when the context begins; leaving it ends the server, paused or not."""

    def __init__(self, directory: Path) -> None:
        self._log = directory / "object-server.log"
        self._credentials = directory / "credentials"
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, prefix: str, *options: str) -> str:
        fixed = (f"endpoint_url={self.endpoint}", "region=us-east-1", f"credentials_file={self._credentials}")
        return f"s3://{BUCKET}/{prefix}?{'&'.join((*fixed, *options))}"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self._credentials.write_text(
            f"[default]\naws_access_key_id = {KEYS[0]}\naws_secret_access_key = {KEYS[1]}\n"
        )
        self._port = _free_port()
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )
        try:
            self._wait(time.monotonic() + START_TIMEOUT_S)
            self._make_bucket()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _wait(self, until: float) -> None:
        assert self._process is not None
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                said = self._log.read_text(errors="replace").strip().splitlines()
                raise ServerFailed(f"moto's server did not start: {' / '.join(said[-3:]) or '(it said nothing)'}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return True

    def _make_bucket(self) -> None:
        import boto3

        client = boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1",
            aws_access_key_id=KEYS[0], aws_secret_access_key=KEYS[1],
        )  # fmt: skip
        client.create_bucket(Bucket=BUCKET)
        client.close()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
