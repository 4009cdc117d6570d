"""S3Store against a server that lies, stumbles and hangs: what is returned is right, or an error says who must act."""

import time
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from backends.s3 import S3Store
from sds.core.errors import BackendError, BadInput, Corrupt, Exists, Missing, NoSpace
from tests.servers.lying import Liar, Request, lying_server, tag_of, times, truth
from tests.servers.running import ACCESS_KEY, SECRET_KEY, write_credentials
from tests.servers.stores import QUICK, read, run_store

CONTENT = bytes(range(256)) * 32
ALWAYS = 10**9


@pytest.fixture
def liar() -> Iterator[Liar]:
    with lying_server() as server:
        server.objects["key"] = CONTENT
        yield server


def test_a_short_body_is_never_returned_and_asked_for_again(liar: Liar) -> None:
    def short(request: Request) -> None:
        request.answer(206, CONTENT[:50], ETag="x", Content_Range="bytes 0-99/8192", Content_Length="100")
        request.reset()

    async def body(store: S3Store) -> bytes:
        return await read(store, "key", 0, 100)

    liar.lie = times(2, "GET", short)
    assert run_store(liar.url(), body) == CONTENT[:100]
    liar.lie = times(ALWAYS, "GET", short)
    with pytest.raises(BackendError, match="key: "):
        run_store(liar.url(), body, limits=QUICK)


@pytest.mark.parametrize(
    ("said", "count"),
    [("bytes 1-100/8192", 100), ("bytes 0-98/8192", 99), ("bytes 0-99/8192", 99), ("nonsense", 100), ("", 100)],
)
def test_a_wrong_range_is_never_returned(liar: Liar, said: str, count: int) -> None:
    def wrong(request: Request) -> None:
        headers = {"Content_Range": said} if said else {}
        request.answer(206, b"?" * count, ETag="x", **headers)

    liar.lie = times(ALWAYS, "GET", wrong)
    with pytest.raises(BackendError, match="bytes"):
        run_store(liar.url(), lambda store: read(store, "key", 0, 100), limits=QUICK)
    assert len(liar.requests) == 3, "asked three times, not for ever"


@pytest.mark.parametrize("offset", [0, 1, 5000, len(CONTENT) - 10])
def test_the_whole_object_as_answer_to_a_range_gives_the_right_slice(liar: Liar, offset: int) -> None:
    liar.lie = times(ALWAYS, "GET", lambda request: request.answer(200, CONTENT, ETag=tag_of(CONTENT)))
    assert run_store(liar.url(), lambda store: read(store, "key", offset, 10)) == CONTENT[offset : offset + 10]
    with pytest.raises(Corrupt, match="too short"):
        run_store(liar.url(), lambda store: read(store, "key", len(CONTENT) - 5, 10))


def test_an_object_that_is_too_short_is_corrupt_and_no_object_is_missing(liar: Liar) -> None:
    async def body(store: S3Store) -> None:
        with pytest.raises(Corrupt, match="key: too short"):
            await read(store, "key", len(CONTENT) - 5, 10)
        with pytest.raises(Corrupt, match="key: too short"):
            await read(store, "key", len(CONTENT), 10)
        with pytest.raises(Corrupt, match="more than 100"):
            await store.fetch("key", 100)
        for count in (0, 10):
            with pytest.raises(Missing, match="other: no such object"):
                await read(store, "other", 0, count)

    run_store(liar.url(), body)


def test_a_404_that_no_s3_store_wrote_is_not_a_missing_object(liar: Liar) -> None:
    liar.lie = times(ALWAYS, "GET", lambda request: request.answer(404, b"<html>not here</html>"))
    with pytest.raises(BadInput, match="endpoint_url"):
        run_store(liar.url(), lambda store: read(store, "key", 0, 10))


def test_a_store_that_keeps_other_bytes_is_noticed(liar: Liar) -> None:
    def damage(request: Request) -> None:
        request.body = bytes([request.body[0] ^ 1]) + request.body[1:]
        request.honest()

    liar.lie = times(ALWAYS, "PUT", damage)
    with pytest.raises(BackendError, match="new: the store keeps other bytes"):
        run_store(liar.url(), lambda store: store.put("new", CONTENT))


def test_an_etag_that_is_no_md5_costs_one_reading_back(liar: Liar) -> None:
    def flipped(request: Request) -> None:
        liar.objects[request.key] = request.body
        request.answer(200, ETag='"0123456789abcdef0123456789abcdef"')

    async def body(store: S3Store) -> None:
        for number in range(5):
            await store.put(f"new{number}", CONTENT)

    liar.lie = times(ALWAYS, "PUT", flipped)
    run_store(liar.url(), body)
    assert sum(line.startswith("GET") for line in liar.requests) == 1


def test_one_wrong_etag_of_a_store_whose_etags_were_right_does_not_end_the_checks(liar: Liar) -> None:
    def flipped(request: Request) -> None:
        liar.objects[request.key] = request.body
        request.answer(200, ETag='"0123456789abcdef0123456789abcdef"')

    async def body(store: S3Store) -> None:
        await store.put("right", CONTENT)
        liar.lie = times(ALWAYS, "PUT", flipped)
        await store.put("first", CONTENT)
        await store.put("second", CONTENT)

    run_store(liar.url(), body)
    assert sum(line.startswith("GET") for line in liar.requests) == 2


@pytest.mark.parametrize("code", ["SlowDown", "InternalError", "nonsense"])
def test_a_store_that_is_busy_for_a_while_is_asked_again(liar: Liar, code: str) -> None:
    status = 503 if code == "SlowDown" else 500
    liar.lie = times(2, "PUT", lambda request: request.error(status, code))
    run_store(liar.url(), lambda store: store.put("new", CONTENT))
    assert liar.objects["new"] == CONTENT
    assert len(liar.requests) == 3


def test_a_store_that_stays_busy_is_a_backend_error_in_time(liar: Liar) -> None:
    liar.lie = times(ALWAYS, "PUT", lambda request: request.error(503, "SlowDown"))
    began = time.monotonic()
    with pytest.raises(BackendError, match="slow down"):
        run_store(liar.url(), lambda store: store.put("new", CONTENT), limits=QUICK)
    assert time.monotonic() - began < QUICK.call_s + 2
    assert len(liar.requests) >= 2


def test_a_server_that_hangs_is_asked_again_and_holds_up_nobody_for_ever(liar: Liar) -> None:
    def hang(request: Request) -> None:
        time.sleep(QUICK.read_s * 2)
        request.reset()

    liar.lie = times(1, "GET", hang)
    assert run_store(liar.url(), lambda store: read(store, "key", 0, 10), limits=QUICK) == CONTENT[:10]
    liar.lie = times(ALWAYS, "GET", hang)
    with pytest.raises(BackendError, match="no answer"):
        run_store(liar.url(), lambda store: read(store, "key", 0, 10), limits=QUICK)


def test_a_body_that_trickles_ends_in_time(liar: Liar) -> None:
    def trickle(request: Request) -> None:
        request.answer(200, b"", ETag="x", Content_Length="1000")
        try:
            for _ in range(1000):
                request.wfile.write(b"x")
                request.wfile.flush()
                time.sleep(0.05)
        except OSError:
            request.close_connection = True

    liar.lie = times(ALWAYS, "GET", trickle)
    began = time.monotonic()
    with pytest.raises(BackendError):
        run_store(liar.url(), lambda store: store.fetch("key", 1000), limits=QUICK)
    assert time.monotonic() - began < QUICK.call_s + 2


def commit_and_reset(request: Request) -> None:
    request.server.liar.objects[request.key] = request.body
    request.reset()


def test_a_put_whose_answer_was_lost_is_not_lost(liar: Liar) -> None:
    liar.lie = times(1, "PUT", commit_and_reset)
    run_store(liar.url(), lambda store: store.put("new", CONTENT))
    assert liar.objects["new"] == CONTENT


def test_a_new_object_whose_answer_was_lost_is_known_to_be_ours(liar: Liar) -> None:
    liar.lie = times(1, "PUT", commit_and_reset)
    run_store(liar.url(), lambda store: store.put("new", b"mine", only_new=True), conditional=True)
    assert liar.objects["new"] == b"mine"


def test_a_new_object_of_another_is_not_taken_for_ours_after_a_lost_answer(liar: Liar) -> None:
    def other_first(request: Request) -> None:
        liar.objects["new"] = b"theirs"
        request.reset()

    liar.lie = times(1, "PUT", other_first)
    with pytest.raises(Exists):
        run_store(liar.url(), lambda store: store.put("new", b"mine", only_new=True), conditional=True)
    assert liar.objects["new"] == b"theirs"


def test_the_same_content_of_another_is_exists_when_no_answer_was_lost(liar: Liar) -> None:
    with pytest.raises(Exists):
        run_store(liar.url(), lambda store: store.put("key", CONTENT, only_new=True), conditional=True)


def test_a_replacement_whose_answer_was_lost_is_known_to_be_ours(liar: Liar) -> None:
    liar.lie = times(1, "PUT", commit_and_reset)
    tag = run_store(liar.url(), lambda store: store.replace("key", b"mine", tag_of(CONTENT)), conditional=True)
    assert tag == tag_of(b"mine")
    assert liar.objects["key"] == b"mine"


def test_a_replacement_that_may_have_been_replaced_again_is_an_error_not_a_guess(liar: Liar) -> None:
    def then_another(request: Request) -> None:
        commit_and_reset(request)
        liar.objects["key"] = b"theirs"

    liar.lie = times(1, "PUT", then_another)
    with pytest.raises(BackendError, match="read it to find out"):
        run_store(liar.url(), lambda store: store.replace("key", b"mine", tag_of(CONTENT)), conditional=True)


def test_a_conflict_of_conditional_puts_passes_or_is_exists(liar: Liar) -> None:
    def conflict(request: Request) -> None:
        request.error(409, "ConditionalRequestConflict")

    liar.lie = times(2, "PUT", conflict)
    run_store(liar.url(), lambda store: store.put("new", b"mine", only_new=True), conditional=True)
    assert liar.objects["new"] == b"mine"
    liar.lie = times(ALWAYS, "PUT", conflict)
    with pytest.raises((Exists, BackendError)):
        run_store(liar.url(), lambda store: store.put("newer", b"mine", only_new=True), conditional=True)
    assert "newer" not in liar.objects


def test_a_loop_of_redirects_ends_and_says_what_to_set(liar: Liar) -> None:
    def elsewhere(request: Request) -> None:
        request.error(307, "TemporaryRedirect", Location=request.path)

    liar.lie = times(ALWAYS, "GET", elsewhere)
    with pytest.raises(BadInput, match="region= or endpoint_url="):
        run_store(liar.url(), lambda store: read(store, "key", 0, 10), limits=QUICK)
    assert len(liar.requests) <= 4


@pytest.mark.parametrize("page", [b"<<<garbage", b"", b"<html><body>welcome</body></html>", b"<ListBucketResult>"])
def test_a_listing_that_is_garbage_is_never_an_empty_listing(liar: Liar, page: bytes) -> None:
    liar.lie = times(ALWAYS, "GET", lambda request: request.answer(200, page))
    with pytest.raises(BackendError, match="endpoint_url"):
        run_store(liar.url(), lambda store: store.list(""), limits=QUICK)


def test_a_listing_that_fails_on_a_later_page_is_no_listing(liar: Liar) -> None:
    first = b"<L><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></L>"

    def pages(request: Request) -> None:
        if "continuation-token" in request.path:
            request.error(403, "AccessDenied")
        else:
            request.answer(200, first)

    liar.lie = times(ALWAYS, "GET", pages)
    with pytest.raises(BadInput, match="permission denied"):
        run_store(liar.url(), lambda store: store.list(""))


def test_a_listing_that_goes_in_circles_ends(liar: Liar) -> None:
    page = b"<L><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></L>"
    liar.lie = times(ALWAYS, "GET", lambda request: request.answer(200, page))
    with pytest.raises(BackendError, match="does not say where"):
        run_store(liar.url(), lambda store: store.list(""), limits=QUICK)


def test_an_answer_without_etag_does_not_confirm_a_put(liar: Liar) -> None:
    liar.lie = times(ALWAYS, "PUT", lambda request: request.answer(200, b"<html>fine</html>"))
    with pytest.raises(BackendError, match="ETag"):
        run_store(liar.url(), lambda store: store.put("new", CONTENT), limits=QUICK)


@pytest.mark.parametrize(
    ("status", "code", "error", "says"),
    [
        (403, "QuotaExceeded", NoSpace, "quota"),
        (507, "InsufficientStorage", NoSpace, "full"),
        (507, "", NoSpace, "full"),
        (507, "XMinioStorageFull", NoSpace, "full"),
        (403, "AccessDenied", BadInput, "permission denied"),
        (404, "NoSuchBucket", BadInput, "create it"),
        (400, "ExpiredToken", BadInput, "renew"),
        (403, "InvalidAccessKeyId", BadInput, "does not know this access key"),
        (403, "SignatureDoesNotMatch", BadInput, "secret key is wrong"),
    ],
)
def test_each_refusal_says_who_must_act(
    liar: Liar, status: int, code: str, error: type[Exception], says: str
) -> None:
    liar.lie = times(ALWAYS, "PUT", lambda request: request.error(status, code))
    with pytest.raises(error, match=says) as caught:
        run_store(liar.url(), lambda store: store.put("new", CONTENT))
    assert "\n" not in str(caught.value)
    assert ACCESS_KEY not in str(caught.value) and SECRET_KEY not in str(caught.value)
    assert len(liar.requests) <= 2


@pytest.mark.parametrize(("ahead_s", "way"), [(3600, "behind"), (-7200, "ahead")])
def test_a_clock_that_is_off_is_said_with_how_much(liar: Liar, ahead_s: int, way: str) -> None:
    from email.utils import formatdate

    def skewed(request: Request) -> None:
        request.error(403, "RequestTimeTooSkewed", Date=formatdate(time.time() + ahead_s, usegmt=True))

    liar.lie = times(ALWAYS, "PUT", skewed)
    with pytest.raises(BadInput, match=rf"clock is off by {abs(ahead_s) // 1000}\d\d\d s {way}.*set it"):
        run_store(liar.url(), lambda store: store.put("new", CONTENT))


def test_renewed_credentials_are_found_without_a_restart(liar: Liar) -> None:
    def expired(request: Request) -> bool:
        if "sds-new-access" in request.headers["Authorization"]:
            return truth(request)
        request.error(400, "ExpiredToken")
        return True

    async def body(store: S3Store) -> None:
        with pytest.raises(BadInput, match="renew"):
            await store.put("new", CONTENT)
        write_credentials(liar.server.credentials_file, access_key="sds-new-access")
        await store.put("new", CONTENT)

    liar.lie = expired
    run_store(liar.url(), body)
    assert liar.objects["new"] == CONTENT


def test_reads_find_a_place_while_uploads_hang(liar: Liar) -> None:
    def slow(request: Request) -> None:
        time.sleep(QUICK.read_s * 3)
        request.reset()

    async def body(store: S3Store) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(store.put, f"new{number}", CONTENT)
            await trio.testing.wait_all_tasks_blocked(0.05)
            with trio.fail_after(1):
                assert await read(store, "key", 0, 10) == CONTENT[:10]
            nursery.cancel_scope.cancel()

    liar.lie = times(ALWAYS, "PUT", slow)
    run_store(liar.url("parallelism=4"), body, limits=QUICK)
