"""The wire format, byte by byte."""

import errno
import random

import pytest

from sds.nbd import wire
from sds.nbd.device import Extent
from sds.nbd.replies import Extended, Simple, Structured

COOKIE = 0x0102030405060708


def test_greeting_is_fixed_newstyle_without_zeroes() -> None:
    assert wire.GREETING == b"NBDMAGICIHAVEOPT\0\3"


def test_requests_decode_with_one_integer_in_front() -> None:
    raw = bytes.fromhex("25609513 0001 0001 0102030405060708 0000000000001000 00000200")
    head, cookie, offset, length = wire.REQUEST.unpack(raw)
    assert head == wire.request_head(wire.REQUEST_MAGIC, wire.CMD_FUA, wire.WRITE)
    assert (cookie, offset, length) == (COOKIE, 4096, 512)
    raw = bytes.fromhex("21e41c71 0020 0001 0102030405060708 0000000000001000 0000010000000000")
    head, cookie, offset, length = wire.EXTENDED_REQUEST.unpack(raw)
    assert head == wire.request_head(wire.EXTENDED_REQUEST_MAGIC, wire.CMD_PAYLOAD_LEN, wire.WRITE)
    assert length == 1 << 40


def test_simple_replies() -> None:
    replies = Simple()
    assert replies.done(COOKIE, 4096).hex() == "67446698000000000102030405060708"
    assert replies.data(COOKIE, 4096, 512) == replies.done(COOKIE, 4096)
    assert replies.error(COOKIE, 0, 28, "full").hex() == "674466980000001c0102030405060708"


def test_structured_replies() -> None:
    replies = Structured()
    assert replies.done(COOKIE, 4096).hex() == "67446698000000000102030405060708"
    data = "668e33ef 0001 0001 0102030405060708 00000208 0000000000001000"
    assert replies.data(COOKIE, 4096, 512) == bytes.fromhex(data)
    error = bytes.fromhex("668e33ef 0001 8001 0102030405060708 0000000a 0000001c 0004") + b"full"
    assert replies.error(COOKIE, 0, 28, "full") == error
    status = "668e33ef 0001 0005 0102030405060708 00000014 00000001 00001000 00000003 00000200 00000000"
    extents = [Extent(4096, 3), Extent(512, 0)]
    assert replies.status(COOKIE, 0, 1, extents, last=True) == bytes.fromhex(status)
    assert replies.status(COOKIE, 0, 1, extents, last=False)[4:6] == b"\0\0"


def test_extended_replies_echo_the_offset() -> None:
    replies = Extended()
    done = "6e8a278c 0001 0000 0102030405060708 0000000000001000 0000000000000000"
    assert replies.done(COOKIE, 4096) == bytes.fromhex(done)
    data = "6e8a278c 0001 0001 0102030405060708 0000000000001000 0000000000000208 0000000000001000"
    assert replies.data(COOKIE, 4096, 512) == bytes.fromhex(data)
    error = "6e8a278c 0001 8001 0102030405060708 0000000000001000 000000000000000a 0000001c 0004"
    assert replies.error(COOKIE, 4096, 28, "full") == bytes.fromhex(error) + b"full"
    status = (
        "6e8a278c 0001 0006 0102030405060708 0000000000001000 0000000000000018"
        "00000001 00000001 0000010000000000 0000000000000003"
    )
    assert replies.status(COOKIE, 4096, 1, [Extent(1 << 40, 3)], last=True) == bytes.fromhex(status)


def test_error_messages_are_cut_without_breaking_a_character() -> None:
    reply = Structured().error(1, 0, 5, "ä" * 1000)
    assert len(reply) == 20 + 6 + 254
    assert reply[26:].decode() == "ä" * 127


def test_option_replies() -> None:
    reply = wire.encode_option_reply(7, wire.ERR_UNKNOWN, b"no")
    assert reply == bytes.fromhex("0003e889045565a9 00000007 80000006 00000002") + b"no"
    assert wire.encode_export_info(1 << 30, 0x1ED) == bytes.fromhex("0000 0000000040000000 01ed")
    assert wire.encode_block_size_info() == bytes.fromhex("0003 00000001 00001000 02000000")
    assert wire.encode_server("ab", "c") == b"\0\0\0\2abc"
    assert len(wire.encode_export_name_reply(1, 1, zeroes=True)) == 134
    assert len(wire.encode_export_name_reply(1, 1, zeroes=False)) == 10


def test_info_requests_are_exactly_as_long_as_they_say() -> None:
    good = b"\0\0\0\1x\0\2\0\3\0\1"
    assert wire.decode_info_request(good) == wire.InfoRequest("x", (3, 1))
    for bad in (b"", good[:-1], good + b"\0", b"\0\0\0\2\xff\xfe\0\0", b"\xff\xff\xff\xffx\0\0", good[:5]):
        with pytest.raises(wire.Malformed):
            wire.decode_info_request(bad)


def test_names_of_4096_bytes_are_parsed_and_longer_ones_refused() -> None:
    long = b"n" * 4096
    assert wire.decode_info_request(b"\0\0\x10\0" + long + b"\0\0").name == "n" * 4096
    with pytest.raises(wire.Malformed):
        wire.decode_info_request(b"\0\0\x10\1n" + long + b"\0\0")


def test_meta_requests_with_too_many_queries_are_refused_before_they_are_read() -> None:
    many = b"\0\0\0\0" + (65).to_bytes(4) + b"\0\0\0\0" * 65
    with pytest.raises(OverflowError):
        wire.decode_meta_request(many, 64)
    with pytest.raises(wire.Malformed):
        wire.decode_meta_request(b"\0\0\0\0\xff\xff\xff\xff", 64)


def test_decoders_raise_nothing_but_what_they_promise() -> None:
    rng = random.Random(5)
    for _ in range(3000):
        data = bytes(rng.choice((0, 0, 0, 1, 4, 255)) for _ in range(rng.randrange(24)))
        for decode in (
            wire.decode_info_request,
            lambda raw: wire.decode_meta_request(raw, 4),
            wire.decode_status_filter,
            wire.decode_name,
        ):
            try:
                decode(data)
            except (wire.Malformed, OverflowError):
                continue


def test_status_filters() -> None:
    assert wire.decode_status_filter((9).to_bytes(8) + b"\0\0\0\1\0\0\0\2") == (9, (1, 2))
    for bad in (b"", bytes(7), bytes(9), bytes(8) + b"\0\0\0\1\0\0\0\1"):
        with pytest.raises(wire.Malformed):
            wire.decode_status_filter(bad)


@pytest.mark.parametrize(
    ("number", "told"),
    [(errno.EROFS, 1), (errno.EDQUOT, 28), (errno.EFBIG, 28), (errno.ENOENT, 5), (errno.ESHUTDOWN, 108), (0,
    5)],
)
def test_only_errors_of_the_protocol_are_told(number: int, told: int) -> None:
    assert wire.wire_errno(number) == told
