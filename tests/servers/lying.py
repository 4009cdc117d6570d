"""A tiny S3 server in threads of the test itself, that lies when told so.

It keeps objects of one bucket, knows put (with conditions), get (with ranges), delete and list, and asks `lie` first: a
function that gets the request and says whether it has answered.
"""

import hashlib
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.servers.running import S3Server, write_credentials

BUCKET = "bucket"
Lie = Callable[["Request"], bool]


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    """Else each answer waits 40 ms between its head and its body."""
    server: "_Server"
    body = b""

    def handle_any(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        liar = self.server.liar
        liar.requests.append(f"{self.command} {self.path}")
        if not liar.lie(self):
            self.honest()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}").lstrip("/")

    def honest(self) -> None:
        with self.server.liar.lock:
            known = {"GET": self._get, "PUT": self._put, "DELETE": self._delete, "HEAD": self.answer_nothing}
            known[self.command]()

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """`_` in the names of headers stands for `-`; a Content-Length given overrides the true one."""
        self.send_response_only(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {"Content-Length": str(len(body)), "Date": formatdate(usegmt=True), **named}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def error(self, status: int, code: str, **headers: str) -> None:
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>because</Message></Error>"
        self.answer(status, text.encode(), **headers)

    def reset(self) -> None:
        """Ends the connection without an answer."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def answer_nothing(self) -> None:
        self.answer(200)

    def _get(self) -> None:
        if not self.key:
            self._list()
            return
        content = self.server.liar.objects.get(self.key)
        if content is None:
            self.error(404, "NoSuchKey")
            return
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if span is None:
            self.answer(200, content, ETag=tag_of(content))
            return
        first, last = int(span[1]), min(int(span[2]), len(content) - 1)
        if first >= len(content):
            self.error(416, "InvalidRange")
            return
        said = f"bytes {first}-{last}/{len(content)}"
        self.answer(206, content[first : last + 1], ETag=tag_of(content), Content_Range=said)

    def _put(self) -> None:
        there = self.server.liar.objects.get(self.key)
        match = self.headers.get("If-Match")
        if (self.headers.get("If-None-Match") and there is not None) or (
            match is not None and (there is None or match != tag_of(there))
        ):
            self.error(412, "PreconditionFailed")
            return
        self.server.liar.objects[self.key] = self.body
        self.answer(200, ETag=tag_of(self.body))

    def _delete(self) -> None:
        self.server.liar.objects.pop(self.key, None)
        self.answer(204)

    def _list(self) -> None:
        prefix = parse_qs(urlsplit(self.path).query).get("prefix", [""])[0]
        keys = sorted(key for key in self.server.liar.objects if key.startswith(prefix))
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.liar.objects[key])}</Size></Contents>"
            for key in keys
        )
        text = f"<ListBucketResult><Name>{BUCKET}</Name><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
        self.answer(200, text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: `requests` has it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    liar: "Liar"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what these tests are about."""


class Liar:
    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.lock = threading.Lock()
        self.lie: Lie = truth

    def url(self, *options: str) -> str:
        return self.server.url(BUCKET, *options)


def tag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def truth(request: Request) -> bool:
    return False


def times(count: float, command: str, lie: Callable[[Request], None]) -> Lie:
    """This lie for the first `count` requests with this command."""
    told = 0

    def maybe(request: Request) -> bool:
        nonlocal told
        if request.command != command or told >= count:
            return False
        told += 1
        lie(request)
        return True

    return maybe


@contextmanager
def lying_server() -> Iterator[Liar]:
    with tempfile.TemporaryDirectory(prefix="sds-liar-") as name:
        server = _Server(("127.0.0.1", 0), Request)
        credentials = write_credentials(Path(name) / "credentials")
        server.liar = Liar(S3Server(f"http://127.0.0.1:{server.server_address[1]}", credentials))
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.liar
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
