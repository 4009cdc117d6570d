"""Ceph RGW, the store that users deploy: its quirks, wrong credentials, a full store, and its sudden end."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from backends.base import Stat
from backends.s3 import S3Store
from backends.s3_errors import Garbled
from backends.s3_probe import Probed, probe
from backends.s3_requests import Content, Requests, Stored
from sds.core.errors import BackendError, BadInput, Exists, NoSpace
from tests.servers import rgw
from tests.servers.running import ACCESS_KEY, S3Server, write_credentials
from tests.servers.stores import USUAL, run_store

pytestmark = pytest.mark.real(*rgw.PROGRAMS)
MIB = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[rgw.Rgw]:
    with rgw.rgw_server() as running:
        running.make_bucket("bucket")
        yield running


def test_rgw_passes_the_probe(server: rgw.Rgw) -> None:
    assert run_store(server.url("bucket/probe"), probe) == Probed(conditional=True, warnings=())


def test_if_match_works_though_rgw_knows_it_only_without_quotes(server: rgw.Rgw) -> None:
    """The spelling is found out with the first replacement; a wrong tag stays refused in either spelling."""

    async def body(store: S3Store) -> None:
        tag = await store.replace("k", b"0", None)
        assert tag.startswith('"'), "as boto3 hands it back"
        for number in range(1, 4):
            with pytest.raises(Exists):
                await store.replace("k", b"wrong", '"00000000000000000000000000000000"')
            tag = await store.replace("k", b"%d" % number, tag)
        assert (await store.fetch("k", 10)).content == b"3"

    run_store(server.url("bucket/quotes"), body)


def test_the_servers_of_these_tests_answer_small_requests_at_once() -> None:
    """Without this option each small GET waits 40 ms for a delayed acknowledgement."""
    assert "tcp_nodelay=1" in rgw.CONFIG


def test_content_that_changes_on_its_way_is_refused_by_the_store(server: rgw.Rgw) -> None:
    """Content-MD5, which goes with every put, is one that RGW checks."""

    async def body(store: S3Store) -> None:
        content = Content(b"what was meant")
        assert content.digest
        content.data = memoryview(b"what was SENT!")
        with pytest.raises(BackendError, match="changed on its way"):
            await store.request("k", lambda requests, _: requests.put("k", content, {}), store.soon())
        assert await store.list("") == []

    run_store(server.url("bucket/digest"), body)


@pytest.mark.parametrize(
    ("access_key", "secret_key", "says"),
    [("nobody", "wrong", "does not know this access key"), (ACCESS_KEY, "wrong-secret", "secret key is wrong")],
)
def test_wrong_credentials_are_bad_input_and_not_shown(
    server: rgw.Rgw, tmp_path: Path, access_key: str, secret_key: str, says: str
) -> None:
    keys = write_credentials(tmp_path / "keys", access_key, secret_key)
    with pytest.raises(BadInput, match=says) as caught:
        run_store(S3Server(server.endpoint_url, keys).url("bucket"), probe)
    assert access_key not in str(caught.value) and secret_key not in str(caught.value)


def test_a_crashed_upload_in_parts_is_found_and_given_up(server: rgw.Rgw) -> None:
    async def body(store: S3Store) -> None:
        upload = await store.request("k", lambda requests, _: requests.begin_parts("k"), store.soon())
        assert upload
        assert await store.list("") == []
        assert await store.abort_uploads(3600) == 0, "it is young: it may be somebody's at work"
        assert await store.abort_uploads(0) == 1
        assert await store.abort_uploads(0) == 0

    run_store(server.url("bucket/crashed"), body)


def test_an_upload_in_parts_that_fails_leaves_nothing(server: rgw.Rgw, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Requests.put_part

    def third_fails(self: Requests, key: str, upload: str, number: int, content: Content) -> Stored:
        if number == 3:
            raise Garbled("part 3 does not get there")
        return honest(self, key, upload, number, content)

    async def body(store: S3Store) -> None:
        with pytest.raises(BackendError, match="part 3 does not get there"):
            await store.put("large", bytes(20 * MIB))
        assert await store.abort_uploads(0) == 0
        assert await store.list("") == []

    monkeypatch.setattr(Requests, "put_part", third_fails)
    run_store(server.url("bucket/failing", "part_size=5M"), body)


def test_an_upload_in_parts_that_is_cancelled_leaves_no_parts(server: rgw.Rgw) -> None:
    async def body(store: S3Store) -> None:
        with trio.move_on_after(0.05):
            await store.put("large", bytes(20 * MIB))
        assert await store.abort_uploads(0) == 0
        assert await store.list("") in ([], [Stat("large", 20 * MIB)]), "all or nothing"

    run_store(server.url("bucket/cancelled", "part_size=5M"), body)


def test_a_lost_answer_to_the_last_request_of_an_upload_in_parts_is_no_loss(
    server: rgw.Rgw, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Requests.end_parts
    lost: list[str] = []

    def lose(self: Requests, key: str, upload: str, tags: list[str], whole: str) -> Stored:
        stored = honest(self, key, upload, tags, whole)
        if not lost:
            lost.append(key)
            raise ConnectionResetError("lost")
        return stored

    async def body(store: S3Store) -> None:
        await store.put("large", bytes(20 * MIB))
        assert await store.list("") == [Stat("large", 20 * MIB)]

    monkeypatch.setattr(Requests, "end_parts", lose)
    run_store(server.url("bucket/lost", "part_size=5M"), body)
    assert lost == ["large"]


def test_a_store_over_its_quota_has_no_space(server: rgw.Rgw) -> None:
    async def body(store: S3Store) -> None:
        with pytest.raises(NoSpace, match="quota"):
            await store.put("large", bytes(4 * MIB))
        assert await store.list("") == []

    server.set_quota(MIB)
    try:
        run_store(server.url("bucket/full"), body)
    finally:
        server.set_quota(None)


def test_a_gateway_killed_during_uploads_loses_nothing_that_was_acknowledged(server: rgw.Rgw) -> None:
    contents = {f"o/{number:02d}": os.urandom(MIB) for number in range(24)}
    put: list[str] = []
    some_are_put = trio.Event()

    async def body(store: S3Store) -> None:
        async def upload(name: str) -> None:
            await store.put(name, contents[name])
            put.append(name)
            if len(put) == 3:
                some_are_put.set()

        async with trio.open_nursery() as nursery:
            for name in contents:
                nursery.start_soon(upload, name)
            await some_are_put.wait()
            await trio.to_thread.run_sync(server.kill_gateway)
            acknowledged = len(put)
            await trio.to_thread.run_sync(server.start_gateway)
        assert acknowledged < len(contents), "the end came too late to test anything"
        assert [stat.name for stat in await store.list("o/")] == sorted(contents)
        for name, content in contents.items():
            assert (await store.fetch(name, MIB)).content == content

    run_store(server.url("bucket/killed", "parallelism=4"), body, limits=USUAL)
