"""What S3 servers on loopback have in common: free ports, processes that end with their user, waiting for an answer."""

import http.client
import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_S = 60.0
ACCESS_KEY, SECRET_KEY = "sds-test-access", "sds-test-secret"


@dataclass(frozen=True, slots=True)
class S3Server:
    """An S3 server on loopback, and how to reach it."""

    endpoint_url: str
    credentials_file: Path

    def url(self, bucket: str, *options: str) -> str:
        """`bucket` may have a prefix: bucket/prefix."""
        fixed = (f"endpoint_url={self.endpoint_url}", "region=us-east-1", f"credentials_file={self.credentials_file}")
        return f"s3://{bucket}?{'&'.join((*fixed, *options))}"

    def make_bucket(self, bucket: str) -> None:
        import boto3

        client = boto3.client(
            "s3", endpoint_url=self.endpoint_url, region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
        )  # fmt: skip
        client.create_bucket(Bucket=bucket)
        client.close()


def write_credentials(path: Path, access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY) -> Path:
    path.write_text(f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n")
    return path


def free_port() -> int:
    """Below those that the kernel gives to clients, so that no connection takes it before the server does."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs until the block ends; killed then, and waited for."""
    with open(log, "ab") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def answers(port: int) -> bool:
    """Whether something speaks HTTP there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
        return True
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_until(true: Callable[[], bool], what: str, log: Path, child: subprocess.Popen[bytes] | None = None) -> None:
    end = time.monotonic() + START_S
    while not true():
        if time.monotonic() > end or (child is not None and child.poll() is not None):
            said = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise AssertionError(f"{what} does not start: {said}")
        time.sleep(0.05)


def end_by_pid(pid: int, number: int) -> None:
    """Ends a daemon of ours that is no child, and waits until it is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
    end = time.monotonic() + START_S
    while alive(pid):
        assert time.monotonic() < end, f"process {pid} does not end"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """A zombie, whose parent has not looked yet, is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
