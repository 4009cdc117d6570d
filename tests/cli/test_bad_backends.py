"""Backends that cannot be taken or let go: refused with one line that says what to do, and nothing was changed."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from backends.device_format import MIN_BYTES
from tests.backends.loops import attach, detach, loop_device
from tests.cli.command import Command, tree
from tests.servers.lying import Liar, Request, lying_server
from tests.servers.running import free_port


@pytest.fixture
def cli(tmp_path: Path) -> Command:
    return Command(tmp_path / "home")


@pytest.fixture
def liar() -> Iterator[Liar]:
    with lying_server() as server:
        yield server


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.s3_probe.ANSWER_S", 2.0)


def a_pool(cli: Command, root: Path, *places: str, copies: int = 1) -> None:
    """Over directories of these names, `tank`."""
    for name in places:
        (root / name).mkdir()
    cli("pool", "create", "tank", *(root / name for name in places), "--segment-size", "1M", "--copies", str(copies))


def shape(cli: Command) -> list[tuple[str, str]]:
    """Of `tank`, as it should stay."""
    return [(backend["url"], backend["state"]) for backend in cli.json("pool", "status", "tank")["backends"]]


def refused_both_ways(cli: Command, root: Path, *backend: str) -> list[str]:
    """The lines of `pool create` and `pool add`. What is local stays as it was, byte for byte."""
    a_pool(cli, root, "disk")
    facts, before = shape(cli), tree(root / "disk")
    (root / "beside").mkdir()
    lines = [
        cli.refused("pool", "create", "other", root / "beside", *backend),
        cli.refused("pool", "add", "tank", *backend),
    ]
    assert list((root / "beside").iterdir()) == []
    assert tree(root / "disk") == before
    assert shape(cli) == facts
    assert [pool["name"] for pool in cli.json("pool", "list")] == ["tank"]
    assert not (cli.home / "local").exists(), "a journal was made for a backend that was refused"
    return lines


# -- object stores -----------------------------------------------------------------------------------------------------


def lie(server: Liar, commands: str, status: int, code: str) -> None:
    def answer(request: Request) -> bool:
        if request.command not in commands.split():
            return False
        request.error(status, code)
        return True

    server.lie = answer


def test_a_bucket_that_does_not_exist(cli: Command, liar: Liar, tmp_path: Path) -> None:
    lie(liar, "GET PUT DELETE HEAD POST", 404, "NoSuchBucket")
    for line in refused_both_ways(cli, tmp_path, liar.url()):
        assert ("bucket" in line and "make it" in line) or "create it" in line
    assert liar.objects == {}


def test_credentials_that_may_only_read(cli: Command, liar: Liar, tmp_path: Path) -> None:
    lie(liar, "PUT DELETE POST", 403, "AccessDenied")
    for line in refused_both_ways(cli, tmp_path, liar.url()):
        assert "may not" in line or "permission" in line
    assert liar.objects == {}


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"])
def test_credentials_that_are_wrong(cli: Command, liar: Liar, tmp_path: Path, code: str) -> None:
    lie(liar, "GET PUT DELETE HEAD POST", 403, code)
    for line in refused_both_ways(cli, tmp_path, liar.url()):
        assert "credentials" in line
        assert "sds-test-secret" not in line and "sds-test-access" not in line
    assert liar.objects == {}


class _Page(BaseHTTPRequestHandler):
    """What a router, a proxy or another program says to everything."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        page = b"<!doctype html><html><body><h1>It works!</h1></body></html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@contextmanager
def web_server() -> Iterator[int]:
    """Its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def endpoint(liar: Liar, port: int) -> str:
    """The same credentials, but another server."""
    return f"s3://bucket?endpoint_url=http://127.0.0.1:{port}&region=us-east-1&" + liar.url().split("&")[-1]


def test_an_endpoint_that_is_a_web_server(cli: Command, liar: Liar, tmp_path: Path) -> None:
    with web_server() as port:
        for line in refused_both_ways(cli, tmp_path, endpoint(liar, port)):
            assert "endpoint_url" in line


def test_an_endpoint_where_nobody_listens(cli: Command, liar: Liar, tmp_path: Path) -> None:
    for line in refused_both_ways(cli, tmp_path, endpoint(liar, free_port())):
        assert "endpoint_url" in line or "reach" in line


def test_a_place_in_a_bucket_that_belongs_to_another_pool(cli: Command, liar: Liar, tmp_path: Path) -> None:
    first = Command(tmp_path / "first")
    first("pool", "create", "theirs", liar.server.url("bucket/x"), "--segment-size", "1M")
    before = dict(liar.objects)
    for line in refused_both_ways(cli, tmp_path, liar.server.url("bucket/x")):
        assert "belongs to a pool" in line and "sds pool import" in line
    assert liar.objects == before
    assert "not to mine" in cli.refused("pool", "import", "mine", liar.server.url("bucket/x"))
    assert liar.objects == before


def test_a_place_in_a_bucket_with_objects_of_somebody_else(cli: Command, liar: Liar, tmp_path: Path) -> None:
    liar.objects["photos/1"] = b"holiday"
    for line in refused_both_ways(cli, tmp_path, liar.url()):
        assert "is not empty" in line or "not one of ours" in line
    assert liar.objects == {"photos/1": b"holiday"}


@pytest.mark.parametrize(
    ("one", "other"),
    [("bucket/x", "bucket/x"), ("bucket/x", "bucket/x/y"), ("bucket/x/y", "bucket/x"), ("bucket/x", "bucket")],
)
def test_places_in_a_bucket_that_overlap(cli: Command, liar: Liar, tmp_path: Path, one: str, other: str) -> None:
    a_pool(cli, tmp_path, "disk")
    cli("pool", "add", "tank", liar.server.url(one))
    facts, before = shape(cli), dict(liar.objects)
    assert "overlap" in cli.refused("pool", "add", "tank", liar.server.url(other, "parallelism=3"))
    assert "overlap" in cli.refused("pool", "create", "new", liar.server.url(other, "parallelism=3"))
    assert (shape(cli), liar.objects) == (facts, before)


def test_the_same_place_in_a_bucket_twice_is_no_second_backend(cli: Command, liar: Liar) -> None:
    """Else two copies were one."""
    twice = [liar.server.url("bucket/x"), liar.server.url("bucket/x", "parallelism=3")]
    assert "overlap" in cli.refused("pool", "create", "tank", *twice, "--copies", "2")
    assert (liar.objects, cli.json("pool", "list")) == ({}, [])
    cli("pool", "create", "tank", liar.server.url("bucket/x"), liar.server.url("bucket/xy"), "--copies", "2")


# -- devices -----------------------------------------------------------------------------------------------------------


def device_refused(cli: Command, root: Path, path: str, *arguments: str) -> str:
    """Of both ways; the first MiB of it, if it can be read, stays as it was."""
    before = head(path)
    one, other = refused_both_ways(cli, root, f"disk:{path}", *arguments)
    assert one == other
    assert head(path) == before
    return one


def head(path: str) -> bytes:
    if not os.path.exists(path):
        return b""
    with open(path, "rb", buffering=0) as file:
        return file.read(1 << 20)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    with loop_device(tmp_path / "image") as found:
        yield found


def test_a_device_that_is_not_there(cli: Command, tmp_path: Path) -> None:
    assert "see lsblk" in device_refused(cli, tmp_path, "/dev/sds-no-such-device")


def test_a_device_with_a_file_system_on_it_unless_forced(cli: Command, tmp_path: Path, device: str) -> None:
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    assert "ext" in (line := device_refused(cli, tmp_path, device)) and "--force" in line
    cli("pool", "add", "tank", f"disk:{device}", "--force")
    assert cli.json("pool", "status", "tank")["backends"][1]["url"].startswith(f"disk:{device}?uuid=")
    cli("pool", "remove", "tank", cli.json("pool", "status", "tank")["backends"][1]["url"])


def test_a_device_that_is_mounted_even_by_force(cli: Command, tmp_path: Path, device: str) -> None:
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    where = tmp_path / "mnt"
    where.mkdir()
    subprocess.run(["mount", device, where], check=True)
    try:
        assert "is mounted at" in (line := device_refused(cli, tmp_path, device, "--force")) and "unmount it" in line
    finally:
        subprocess.run(["umount", where], check=True)


def test_a_device_that_another_program_holds(cli: Command, tmp_path: Path, device: str) -> None:
    held = os.open(device, os.O_RDWR | os.O_EXCL)
    try:
        assert "is in use" in device_refused(cli, tmp_path, device, "--force")
    finally:
        os.close(held)


def test_a_device_that_is_too_small(cli: Command, tmp_path: Path) -> None:
    with loop_device(tmp_path / "image", MIN_BYTES // 2) as device:
        assert f"at least {MIN_BYTES >> 20} MiB" in device_refused(cli, tmp_path, device)


def test_a_device_that_belongs_to_another_pool(cli: Command, tmp_path: Path, device: str) -> None:
    Command(tmp_path / "first")("pool", "create", "theirs", f"disk:{device}", "--segment-size", "1M")
    assert "belongs to a pool" in device_refused(cli, tmp_path, device)


def test_a_device_under_its_other_name(cli: Command, tmp_path: Path, device: str) -> None:
    """A second loop device over the same image is another device; a link to the device is not."""
    link = tmp_path / "link"
    link.symlink_to(device)
    cli("pool", "create", "tank", f"disk:{device}", "--segment-size", "1M")
    facts = shape(cli)
    cli.refused("pool", "add", "tank", f"disk:{link}")
    assert shape(cli) == facts


def test_a_device_that_is_read_only(cli: Command, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 64 << 20)
    with ExitStack() as stack:
        device = attach(image)
        stack.callback(detach, device)
        subprocess.run(["blockdev", "--setro", device], check=True)
        stack.callback(subprocess.run, ["blockdev", "--setrw", device], check=True)
        assert "read-only" in device_refused(cli, tmp_path, device)


# -- letting go, and overlaps ------------------------------------------------------------------------------------------


def stays(cli: Command, root: Path, *arguments: str | Path) -> str:
    """The line; the pool is as it was."""
    facts, before = shape(cli), tree(root / "a", root / "b")
    line = cli.refused(*arguments)
    assert (shape(cli), tree(root / "a", root / "b")) == (facts, before)
    return line


def test_the_last_backend_is_not_removed(cli: Command, tmp_path: Path) -> None:
    a_pool(cli, tmp_path, "a")
    assert "last backend" in stays(cli, tmp_path, "pool", "remove", "tank", tmp_path / "a")


def test_no_backend_is_removed_that_copies_need(cli: Command, tmp_path: Path) -> None:
    a_pool(cli, tmp_path, "a", "b", copies=2)
    assert "add one first" in stays(cli, tmp_path, "pool", "remove", "tank", tmp_path / "a")


def test_no_backend_is_removed_that_the_copies_of_a_dataset_need(cli: Command, tmp_path: Path) -> None:
    a_pool(cli, tmp_path, "a", "b")
    cli("volume", "create", "tank/vm", "8M")
    cli("set", "tank/vm", "copies=2")
    assert "add one first" in stays(cli, tmp_path, "pool", "remove", "tank", tmp_path / "a")


def test_a_backend_that_the_pool_does_not_have_is_not_removed(cli: Command, tmp_path: Path) -> None:
    a_pool(cli, tmp_path, "a", "b")
    line = stays(cli, tmp_path, "pool", "remove", "tank", tmp_path / "c")
    assert "no backend of pool tank" in line and str(tmp_path / "a") in line


@pytest.mark.parametrize("place", ["a", "a/inside", ".", "link"])
def test_a_directory_that_overlaps_is_not_added(cli: Command, tmp_path: Path, place: str) -> None:
    a_pool(cli, tmp_path, "a", "b")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "inside").mkdir()
    line = stays(cli, tmp_path, "pool", "add", "tank", tmp_path / place)
    assert "overlaps backend" in line and "separate places" in line
    (tmp_path / "a" / "inside").rmdir()


def test_a_directory_that_is_not_there_or_not_empty_is_not_added(cli: Command, tmp_path: Path) -> None:
    a_pool(cli, tmp_path, "a")
    assert "make the directory first" in stays(cli, tmp_path, "pool", "add", "tank", tmp_path / "b")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").write_text("dear")
    assert "not empty" in stays(cli, tmp_path, "pool", "add", "tank", tmp_path / "full")
