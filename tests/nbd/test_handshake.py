"""The option phase, one behaviour at a time, over a real socket."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from sds.nbd import wire
from sds.nbd.state import Limits
from tests.nbd.client import Client, Handshake, info_payload, meta_payload, receive
from tests.nbd.memory_device import MemoryDevice
from tests.nbd.serving import Served, serving

SIZE = 1 << 20


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    device = MemoryDevice(SIZE)
    device.snapshot("monday")
    device.snapshot("tuesday")
    with serving(device, tmp_path) as running:
        yield running


def kinds(handshake: Handshake, option: int, payload: bytes = b"") -> list[int]:
    return [reply.kind for reply in handshake.option(option, payload)]


def test_export_name_is_answered_without_zeroes_if_both_agree(served: Served) -> None:
    for flags, extra in ((3, 0), (1, 124)):
        with Handshake(served.address, flags) as h:
            h.sock.sendall(b"IHAVEOPT" + struct.pack(">II", wire.OPT_EXPORT_NAME, 6) + b"memory")
            h.sock.sendall(struct.pack(">IHHQQI", wire.REQUEST_MAGIC, 0, wire.READ, 7, 0, 4))
            raw = receive(h.sock, 10 + extra + 20)
            size, told = struct.unpack_from(">QH", raw)
            assert size == SIZE
            assert told & wire.FLAG_MULTI_CONN
            assert not told & wire.FLAG_DF
            assert raw[10 : 10 + extra] == bytes(extra)
            assert raw[10 + extra :] == struct.pack(">IIQ", wire.SIMPLE_REPLY_MAGIC, 0, 7) + bytes(4)


def test_export_name_of_an_unknown_export_hangs_up(served: Served) -> None:
    with Handshake(served.address) as h:
        h.sock.sendall(b"IHAVEOPT" + struct.pack(">II", wire.OPT_EXPORT_NAME, 5) + b"other")
        assert h.closed()


def test_abort_is_acknowledged(served: Served) -> None:
    with Handshake(served.address) as h:
        assert kinds(h, wire.OPT_ABORT) == [wire.REP_ACK]
        assert h.closed()


def test_list_tells_the_export_and_takes_no_payload(served: Served) -> None:
    with Handshake(served.address) as h:
        replies = h.option(wire.OPT_LIST)
        assert [r.kind for r in replies] == [wire.REP_SERVER, wire.REP_ACK]
        assert replies[0].payload == b"\0\0\0\6memoryin memory"
        assert kinds(h, wire.OPT_LIST, b"x") == [wire.ERR_INVALID]


def test_info_tells_what_is_asked_and_go_starts(served: Served) -> None:
    asked = info_payload("memory", (wire.INFO_NAME, wire.INFO_DESCRIPTION, wire.INFO_BLOCK_SIZE, 99))
    with Handshake(served.address) as h:
        told = {r.payload[:2]: r.payload[2:] for r in h.option(wire.OPT_INFO, asked)[:-1]}
        assert told[b"\0\0"][:8] == SIZE.to_bytes(8)
        assert told[b"\0\1"] == b"memory"
        assert told[b"\0\2"] == b"in memory"
        assert told[b"\0\3"] == struct.pack(">III", 1, 4096, 32 << 20)
        assert kinds(h, wire.OPT_INFO, info_payload("other")) == [wire.ERR_UNKNOWN]
        assert kinds(h, wire.OPT_INFO, info_payload("n" * 4096)) == [wire.ERR_UNKNOWN]
        assert kinds(h, wire.OPT_GO, info_payload("memory")[:-1]) == [wire.ERR_INVALID]
        assert kinds(h, wire.OPT_GO, info_payload(""))[-1] == wire.REP_ACK


def test_unknown_options_are_skipped_with_their_payload(served: Served) -> None:
    with Handshake(served.address) as h:
        for option in (4, 12, 77, 0xFFFFFFFF, wire.OPT_STARTTLS):
            assert kinds(h, option, b"IHAVEOPT" * 20_000) == [wire.ERR_UNSUP]
        assert kinds(h, wire.OPT_LIST)[-1] == wire.REP_ACK


def test_long_options_are_refused_and_absurd_ones_end_it(served: Served) -> None:
    with Handshake(served.address) as h:
        assert kinds(h, wire.OPT_GO, bytes(40_000)) == [wire.ERR_TOO_BIG]
        h.sock.sendall(b"IHAVEOPT" + struct.pack(">II", wire.OPT_GO, 0xFFFFFFFF))
        assert h.closed()


def test_the_number_of_options_is_bounded(served: Served) -> None:
    with Handshake(served.address) as h:
        for _ in range(32):
            assert kinds(h, wire.OPT_LIST)[-1] == wire.REP_ACK
        assert h.closed()


def test_wrong_magic_and_unknown_client_flags_end_it(served: Served) -> None:
    with Handshake(served.address) as h:
        h.sock.sendall(b"IHAVENOT" + bytes(8))
        assert h.closed()
    with Handshake(served.address, 4) as h:
        assert h.closed()
    with Handshake(served.address, 2) as h:
        h.sock.sendall(b"IHAVEOPT" + struct.pack(">II", wire.OPT_LIST, 0))
        assert h.closed()


def test_structured_replies_and_extended_headers_are_negotiated_once(served: Served) -> None:
    with Handshake(served.address) as h:
        assert kinds(h, wire.OPT_STRUCTURED_REPLY, b"x") == [wire.ERR_INVALID]
        assert kinds(h, wire.OPT_STRUCTURED_REPLY) == [wire.REP_ACK]
        assert kinds(h, wire.OPT_STRUCTURED_REPLY) == [wire.ERR_INVALID]
        assert kinds(h, wire.OPT_EXTENDED_HEADERS, b"x") == [wire.ERR_INVALID]
        assert kinds(h, wire.OPT_EXTENDED_HEADERS) == [wire.REP_ACK]
        assert kinds(h, wire.OPT_EXTENDED_HEADERS) == [wire.ERR_INVALID]
        assert kinds(h, wire.OPT_STRUCTURED_REPLY) == [wire.ERR_EXT_HEADER_REQD]
        h.sock.sendall(b"IHAVEOPT" + struct.pack(">II", wire.OPT_EXPORT_NAME, 0))
        assert h.closed()


def test_flags_follow_what_was_negotiated(served: Served) -> None:
    for mode, df, payload in (("simple", 0, 0), ("structured", 1, 0), ("extended", 1, 1)):
        with Client(served.address, mode) as client:
            assert bool(client.flags & wire.FLAG_DF) == df
            assert bool(client.flags & wire.FLAG_BLOCK_STATUS_PAYLOAD) == payload


def listed(h: Handshake, *queries: str) -> list[str]:
    replies = h.option(wire.OPT_LIST_META_CONTEXT, meta_payload("memory", *queries))
    assert replies[-1].kind == wire.REP_ACK
    return [r.payload[4:].decode() for r in replies[:-1]]


def test_contexts_are_listed_with_wildcards(served: Served) -> None:
    bitmaps = ["qemu:dirty-bitmap:monday", "qemu:dirty-bitmap:tuesday"]
    with Handshake(served.address) as h:
        assert kinds(h, wire.OPT_LIST_META_CONTEXT, meta_payload("memory")) == [wire.ERR_INVALID]
        assert kinds(h, wire.OPT_STRUCTURED_REPLY) == [wire.REP_ACK]
        assert listed(h) == ["base:allocation", *bitmaps]
        assert listed(h, "base:") == ["base:allocation"]
        assert listed(h, "qemu:") == bitmaps
        assert listed(h, "qemu:dirty-bitmap:") == bitmaps
        assert listed(h, "qemu:dirty-bitmap:tuesday", "x-unknown:thing", "base") == bitmaps[1:]
        assert kinds(h, wire.OPT_LIST_META_CONTEXT, meta_payload("other")) == [wire.ERR_UNKNOWN]


def test_setting_contexts_takes_no_wildcards_and_replaces_the_earlier_set(served: Served) -> None:
    with Handshake(served.address) as h:
        assert kinds(h, wire.OPT_STRUCTURED_REPLY) == [wire.REP_ACK]
        for queries in ((), ("base:",), ("qemu:",), ("qemu:dirty-bitmap:",), ("a:b",)):
            assert kinds(h, wire.OPT_SET_META_CONTEXT, meta_payload("", *queries)) == [wire.REP_ACK]
        set_one = meta_payload("", "base:allocation")
        assert kinds(h, wire.OPT_SET_META_CONTEXT, set_one) == [wire.REP_META_CONTEXT, wire.REP_ACK]
        too_many = meta_payload("", *["base:allocation"] * 65)
        assert kinds(h, wire.OPT_SET_META_CONTEXT, too_many) == [wire.ERR_TOO_BIG]
        assert kinds(h, wire.OPT_GO, info_payload())[-1] == wire.REP_ACK
        h.sock.sendall(struct.pack(">IHHQQI", wire.REQUEST_MAGIC, 0, wire.BLOCK_STATUS, 1, 0, 4096))
        assert receive(h.sock, 26)[20:24] == (22).to_bytes(4), "the failed set left the earlier one in force"


def test_a_slow_handshake_is_cut_at_the_deadline_while_others_are_served(tmp_path: Path) -> None:
    limits = Limits(handshake_s=0.3, handshakes=4)
    with serving(MemoryDevice(SIZE), tmp_path, limits=limits) as running:
        slow = [Handshake(running.address) for _ in range(3)]
        for h in slow:
            h.sock.sendall(b"IHAVE")
        with Client(running.address) as client:
            assert not client.call(wire.READ, 0, 512).error
        assert all(h.closed() for h in slow)
        for h in slow:
            h.sock.close()


def test_more_slow_handshakes_than_slots_only_delay_the_next_client(tmp_path: Path) -> None:
    with serving(MemoryDevice(SIZE), tmp_path, limits=Limits(handshake_s=0.2, handshakes=2)) as running:
        slow = [Handshake(running.address) for _ in range(2)]
        with Client(running.address) as client:
            assert not client.call(wire.READ, 0, 512).error
        for h in slow:
            h.sock.close()
