"""moto's server: a light S3 emulator with all conditional puts. Keeps everything in memory; accepts any credentials."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.s3_running import S3Server, answers, free_port, process, wait_until, write_credentials


@contextmanager
def moto_server() -> Iterator[S3Server]:
    with tempfile.TemporaryDirectory(prefix="sds-moto-") as name:
        directory = Path(name)
        port = free_port()
        log = directory / "log"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with process(command, log) as child:
            wait_until(lambda: answers(port), "moto's server", log, child)
            yield S3Server(f"http://127.0.0.1:{port}", write_credentials(directory / "credentials"))
