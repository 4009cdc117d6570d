"""Requests and replies: what is answered, with which error, and in which dialect."""

import errno
import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from sds.core.errors import Failed, Fenced, NoSpace
from sds.nbd import wire
from tests.nbd.client import EXTENDED, SIMPLE, STRUCTURED, Client, receive
from tests.nbd.memory_device import MemoryDevice
from tests.nbd.serving import Served, serving

SIZE = 8 << 20
MODES = (SIMPLE, STRUCTURED, EXTENDED)
EINVAL, ENOSPC, EPERM, EIO = 22, 28, 1, 5


@pytest.fixture(params=[0, 2], ids=["fast", "waiting"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    with serving(MemoryDevice(SIZE, patience=request.param), tmp_path) as running:
        yield running


@pytest.mark.parametrize("mode", MODES)
def test_what_is_written_is_read_at_any_alignment(served: Served, mode: str) -> None:
    rng = random.Random(3)
    ranges = ((0, 1), (4095, 2), (12345, 100_001), (SIZE - 1, 1), (0, 5 << 20), (1, SIZE - 1))
    with Client(served.address, mode) as client:
        for offset, length in ranges:
            data = rng.randbytes(length)
            assert not client.call(wire.WRITE, offset, payload=data).error
            reply = client.call(wire.READ, offset, length)
            assert reply.data == data
            assert reply.structured == (mode != SIMPLE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("command", "offset", "length", "flags", "error"),
    [
        (wire.READ, SIZE, 1, 0, EINVAL),
        (wire.READ, (1 << 64) - 1, 2, 0, EINVAL),
        (wire.READ, 0, (32 << 20) + 1, 0, EINVAL),
        (wire.READ, 0, 0, 0, EINVAL),
        (wire.READ, 0, 1, wire.CMD_NO_HOLE, EINVAL),
        (wire.READ, 0, 1, 1 << 15, EINVAL),
        (wire.TRIM, SIZE - 1, 2, 0, EINVAL),
        (wire.TRIM, 0, 0, 0, EINVAL),
        (wire.WRITE_ZEROES, SIZE - 1, 2, 0, ENOSPC),
        (wire.WRITE_ZEROES, 0, (1 << 32) - 1, 0, ENOSPC),
        (wire.WRITE_ZEROES, 0, 0, 0, EINVAL),
        (wire.WRITE_ZEROES, 0, 4096, wire.CMD_NO_HOLE | wire.CMD_FAST_ZERO, 95),
        (wire.CACHE, SIZE, 1, 0, EINVAL),
        (wire.FLUSH, 0, 1, 0, EINVAL),
        (wire.FLUSH, 1, 0, 0, EINVAL),
        (wire.BLOCK_STATUS, 0, 1, 0, EINVAL),
        (8, 0, 0, 0, EINVAL),
        (65535, 0, 0, 0, EINVAL),
    ],
)
def test_bad_requests_get_an_error_and_the_next_one_works(
    served: Served, mode: str, command: int, offset: int, length: int, flags: int, error: int
) -> None:
    with Client(served.address, mode) as client:
        reply = client.call(command, offset, length, flags=flags)
        assert reply.error == error
        assert reply.structured == (mode != SIMPLE)
        assert not client.call(wire.READ, 0, 512).error


@pytest.mark.parametrize("mode", MODES)
def test_bad_writes_lose_their_payload_and_nothing_else(served: Served, mode: str) -> None:
    with Client(served.address, mode) as client:
        assert client.call(wire.WRITE, SIZE - 1, payload=b"ab").error == ENOSPC
        assert client.call(wire.WRITE, SIZE - 10, payload=bytes(1 << 20)).error == ENOSPC
        assert client.call(wire.WRITE, 0, payload=b"ab", flags=wire.CMD_DF).error == EINVAL
        assert client.call(wire.WRITE, 0, payload=b"x" * ((32 << 20) + 1)).error == EINVAL
        assert not client.call(wire.READ, 0, 512).error
    assert bytes(served.device.data) == bytes(SIZE)


def test_payloads_beyond_reason_end_the_connection(served: Served) -> None:
    with Client(served.address) as client:
        client.submit(wire.WRITE, 0, (64 << 20) + 1)
        client.flush_out()
        assert client.closed()


def test_a_wrong_magic_ends_the_connection_after_what_came_before(served: Served) -> None:
    with Client(served.address) as client:
        client.call(wire.WRITE, 0, payload=b"abcd")
        client.submit(wire.READ, 0, 4)
        client.flush_out()
        client.sock.sendall(bytes(28))
        assert client.wait_all().popitem()[1].data == b"abcd"
        assert client.closed()


def test_df_needs_structured_replies_and_gets_one_chunk(served: Served) -> None:
    with Client(served.address, SIMPLE) as client:
        assert client.call(wire.READ, 0, 4096, flags=wire.CMD_DF).error == EINVAL
    with Client(served.address) as client:
        assert client.call(wire.READ, 0, 4 << 20, flags=wire.CMD_DF).chunks == 1


def test_fua_is_legal_everywhere_and_flushes_what_changes(served: Served) -> None:
    with Client(served.address) as client:
        assert not client.call(wire.WRITE, 0, payload=b"a" * 4096, flags=wire.CMD_FUA).error
        for command in (wire.TRIM, wire.WRITE_ZEROES, wire.READ, wire.CACHE):
            assert not client.call(command, 0, 4096, flags=wire.CMD_FUA).error
        assert not client.call(wire.FLUSH, flags=wire.CMD_FUA).error
    assert served.device.calls.count("flush") == 4


def test_zeroes_and_trim_do_what_they_say(served: Served) -> None:
    with Client(served.address) as client:
        client.call(wire.WRITE, 0, payload=b"a" * 20_000)
        assert not client.call(wire.WRITE_ZEROES, 1, 5, flags=wire.CMD_FAST_ZERO).error
        assert not client.call(wire.WRITE_ZEROES, 10, 5, flags=wire.CMD_NO_HOLE).error
        assert client.call(wire.READ, 0, 16).data == b"a\0\0\0\0\0aaaa\0\0\0\0\0a"
        assert not client.call(wire.TRIM, 4000, 8192).error
        assert client.call(wire.READ, 4000, 8192).data == b"a" * 96 + bytes(4096) + b"a" * 4000


def test_a_read_only_export_refuses_changes(tmp_path: Path) -> None:
    with serving(MemoryDevice(SIZE, read_only=True), tmp_path) as running, Client(running.address) as client:
        assert client.flags & wire.FLAG_READ_ONLY
        assert not client.flags & (wire.FLAG_TRIM | wire.FLAG_WRITE_ZEROES)
        assert client.call(wire.WRITE, 0, payload=b"a" * 100_000).error == EPERM
        assert client.call(wire.TRIM, 0, 1).error == EPERM
        assert client.call(wire.WRITE_ZEROES, 0, 1).error == EPERM
        assert not client.call(wire.FLUSH).error
        assert not client.call(wire.READ, 0, 1).error


@pytest.mark.parametrize(
    ("failure", "told"),
    [(NoSpace("full: add a backend"), ENOSPC), (Fenced("gone"), 108), (Failed("ro"), EPERM),
    (ValueError("bug"), EIO)],
)
def test_errors_of_the_device_reach_the_client(tmp_path: Path, failure: Exception, told: int) -> None:
    with serving(MemoryDevice(SIZE), tmp_path) as running:
        running.device.failure = failure
        for mode in MODES:
            with Client(running.address, mode) as client:
                for command in (wire.READ, wire.WRITE, wire.FLUSH, wire.TRIM):
                    payload = bytes(4096) if command == wire.WRITE else b""
                    reply = client.call(command, 0, 0 if command == wire.FLUSH else 4096, payload=payload)
                    assert reply.error == told
                    if mode != SIMPLE and told == ENOSPC:
                        assert reply.message == "full: add a backend"
        assert running.server.metrics.errors == 12


def test_an_exception_on_the_fast_path_costs_one_request_the_fast_path(tmp_path: Path) -> None:
    class Broken(MemoryDevice):
        def read_nowait(self, offset: int, length: int) -> None:
            raise RuntimeError("bug")

    with serving(Broken(SIZE), tmp_path) as running, Client(running.address) as client:
        cookies = [client.submit(wire.READ, 0, 512), client.submit(wire.WRITE, 0, payload=b"abc")]
        replies = client.wait_all()
        assert [replies[cookie].error for cookie in cookies] == [0, 0]
        assert running.device.calls == ["read"]


@pytest.mark.parametrize("mode", [STRUCTURED, EXTENDED])
def test_block_status_tells_every_context(tmp_path: Path, mode: str) -> None:
    device = MemoryDevice(SIZE)
    device.data[0:8192] = b"a" * 8192
    device.snapshot("monday")
    device.data[4096:12288] = b"b" * 8192
    contexts = (wire.ALLOCATION_CONTEXT, "qemu:dirty-bitmap:monday")
    with serving(device, tmp_path) as running, Client(running.address, mode, contexts) as client:
        base, monday = (client.contexts[name] for name in contexts)
        status = client.call(wire.BLOCK_STATUS, 0, SIZE).status
        assert status[base] == [(12288, 0), (SIZE - 12288, 3)]
        assert status[monday] == [(4096, 0), (8192, 1), (SIZE - 12288, 0)]
        one = client.call(wire.BLOCK_STATUS, 100, 5000, flags=wire.CMD_REQ_ONE).status
        assert one == {base: [(5000, 0)], monday: [(3996, 0)]}
        running.device.snapshots.clear()
        assert client.call(wire.BLOCK_STATUS, 0, SIZE).error == EIO


def test_extended_headers_filter_block_status_by_payload(tmp_path: Path) -> None:
    device = MemoryDevice(SIZE)
    device.snapshot("monday")
    contexts = (wire.ALLOCATION_CONTEXT, "qemu:dirty-bitmap:monday")
    with serving(device, tmp_path) as running, Client(running.address, EXTENDED, contexts) as client:
        monday = client.contexts[contexts[1]]

        def ask(length: int, *ids: int) -> tuple[int, set[int]]:
            payload = struct.pack(f">Q{len(ids)}I", length, *ids)
            reply = client.call(wire.BLOCK_STATUS, 0, payload=payload)
            return reply.error, set(reply.status)

        assert ask(SIZE, monday) == (0, {monday})
        assert ask(SIZE, 1, monday) == (0, {1, monday})
        for bad in ((SIZE, 77), (SIZE,), (SIZE, 1, 1), (SIZE + 1, 1), (0, 1), (SIZE, *range(2000))):
            assert ask(*bad) == (EINVAL, set())
        assert client.call(wire.BLOCK_STATUS, 0, payload=b"abc").error == EINVAL
        assert client.call(wire.READ, 0, payload=b"what?").error == EINVAL
        assert not client.call(wire.READ, 0, 4096).error


def test_extended_headers_carry_64_bit_lengths(tmp_path: Path) -> None:
    with serving(MemoryDevice(SIZE), tmp_path) as running, Client(running.address, EXTENDED) as client:
        assert client.call(wire.WRITE_ZEROES, 0, 1 << 40).error == ENOSPC
        assert client.call(wire.TRIM, 1 << 40, 1 << 40).error == EINVAL
        assert not client.call(wire.WRITE_ZEROES, 0, SIZE).error


def test_replies_to_many_requests_in_flight_are_complete(served: Served) -> None:
    """Far more than the socket holds, with reads and writes mixed: nothing is lost when sends are partial."""
    rng = random.Random(1)
    blocks = [rng.randbytes(64 << 10) for _ in range(64)]
    with Client(served.address) as client:
        for number, block in enumerate(blocks):
            client.submit(wire.WRITE, number << 16, payload=block)
        client.wait_all()
        cookies = [client.submit(wire.READ, number << 16, 64 << 10) for number in range(64)]
        more = [client.submit(wire.READ, 0, 4 << 20) for _ in range(6)]
        replies = client.wait_all()
        assert [replies[cookie].data for cookie in cookies] == blocks
        assert all(replies[cookie].data == b"".join(blocks) for cookie in more)


def test_requests_that_arrive_byte_by_byte_are_served(served: Served) -> None:
    with Client(served.address) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        raw = struct.pack(">IHHQQI", 0x25609513, 0, wire.WRITE, 9, 5, 6) + b"slowly"
        for number in range(len(raw)):
            client.sock.sendall(raw[number : number + 1])
        assert receive(client.sock, 16) == struct.pack(">IIQ", wire.SIMPLE_REPLY_MAGIC, 0, 9)
        assert client.call(wire.READ, 5, 6).data == b"slowly"


def test_size_changes_are_seen_by_the_next_request(served: Served) -> None:
    with Client(served.address) as client:
        assert client.call(wire.READ, SIZE, 1).error == EINVAL

        def grow() -> None:
            served.device._view.release()
            served.device.data.extend(bytes(4096))
            served.device._view = memoryview(served.device.data)

        served.in_loop(grow)
        assert not client.call(wire.READ, SIZE, 1).error


def test_metrics_count_requests_and_bytes(served: Served) -> None:
    with Client(served.address) as client:
        for number in range(3):
            client.call(wire.WRITE, number, payload=b"abc")
        client.call(wire.READ, 0, 100)
        client.call(wire.FLUSH)
        metrics = served.server.metrics
        assert (metrics.ops["write"], metrics.bytes["write"]) == (3, 9)
        assert (metrics.ops["read"], metrics.bytes["read"], metrics.ops["flush"]) == (1, 100, 1)
        assert (metrics.connections, metrics.errors) == (1, 0)


def test_errno_table_is_closed() -> None:
    assert {wire.wire_errno(number) for number in errno.errorcode} == {1, 5, 12, 22, 28, 75, 95, 108}
