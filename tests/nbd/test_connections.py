"""Connections that end, stall, come back, or are too many."""

import logging
import os
import socket
import struct
from pathlib import Path

import pytest
import trio

from sds.core.errors import BadInput, Busy, Exists
from sds.nbd import wire
from sds.nbd.listeners import listen_tcp, listen_unix
from sds.nbd.state import Limits
from tests.nbd.client import EXTENDED, STRUCTURED, Client, Closed, Handshake, connect
from tests.nbd.memory_device import MemoryDevice
from tests.nbd.serving import Served, serving

SIZE = 8 << 20


def close_gate(served: Served) -> None:
    """From now on every operation of the device waits."""

    def close() -> None:
        served.device.gate = trio.Event()

    served.in_loop(close)


def open_gate(served: Served) -> None:
    def open_() -> None:
        gate = served.device.gate
        assert gate is not None
        served.device.gate = None
        gate.set()

    served.in_loop(open_)


def test_disc_finishes_what_is_in_flight_and_gets_no_reply(tmp_path: Path) -> None:
    with serving(MemoryDevice(SIZE), tmp_path) as served, Client(served.address) as client:
        close_gate(served)
        client.submit(wire.WRITE, 0, payload=b"late")
        client.submit(wire.FLUSH)
        client.flush_out()
        client.sock.sendall(struct.pack(">IHHQQI", wire.REQUEST_MAGIC, 0, wire.DISC, 99, 0, 0))
        served.until(lambda: served.device.waiting == 2)
        open_gate(served)
        assert {reply.error for reply in client.wait_all().values()} == {0}
        assert client.closed()
        assert served.device.data[:4] == b"late"


def test_half_a_message_then_close_changes_nothing(tmp_path: Path) -> None:
    with serving(MemoryDevice(SIZE), tmp_path) as served:
        for cut in (1, 27, 28, 100, 28 + 4095):
            with Client(served.address) as client:
                raw = struct.pack(">IHHQQI", 0x25609513, 0, wire.WRITE, 9, 0, 4096) + b"x" * 4096
                client.sock.sendall(raw[:cut])
        served.until(lambda: served.server.metrics.connections == 0)
        assert bytes(served.device.data) == bytes(SIZE)


def test_a_large_payload_that_never_comes_gives_its_memory_back(tmp_path: Path) -> None:
    with serving(MemoryDevice(40 << 20), tmp_path) as served:
        with Client(served.address) as client:
            head = struct.pack(">IHHQQI", 0x25609513, 0, wire.WRITE, 9, 0, 20 << 20)
            client.sock.sendall(head + b"x" * 1000)
            served.until(lambda: served.server._state.budget.count == 1)
        served.until(lambda: served.server.metrics.connections == 0)
        assert (served.server._state.budget.count, served.server._state.budget.bytes) == (0, 0)
        assert bytes(served.device.data[:1000]) == bytes(1000)


def test_a_flush_covers_writes_replied_to_on_another_connection(tmp_path: Path) -> None:
    device = MemoryDevice(SIZE, patience=1)
    with serving(device, tmp_path) as served, Client(served.address) as one, Client(served.address) as two:
        one.call(wire.WRITE, 0, payload=b"abc")
        two.call(wire.FLUSH)
        assert device.calls == ["write", "flush"]


def test_writes_of_a_dead_connection_end_before_a_new_one_is_served(tmp_path: Path) -> None:
    """A stalled write must not land after newer data of the client that reconnected."""
    with serving(MemoryDevice(SIZE), tmp_path) as served:
        close_gate(served)
        dead = Client(served.address)
        dead.submit(wire.WRITE, 0, payload=b"old!")
        dead.flush_out()
        served.until(lambda: served.device.waiting == 1)
        dead.close()
        with Client(served.address) as fresh:
            fresh.submit(wire.WRITE, 0, payload=b"new!")
            fresh.flush_out()
            served.until(lambda: len(served.server._state.transmitting) == 2)
            assert served.device.calls == ["write"], "the new connection is served beside the dead one"
            open_gate(served)
            assert not fresh.wait_all().popitem()[1].error
            assert fresh.call(wire.READ, 0, 4).data == b"new!"
        assert served.device.calls.count("write") == 1


def test_requests_a_dead_connection_left_unread_are_never_started(tmp_path: Path) -> None:
    """Its limit held it back when it died: what it had sent beyond is older than the new connection."""
    with serving(MemoryDevice(SIZE), tmp_path, limits=Limits(requests_per_connection=2)) as served:
        close_gate(served)
        dead = Client(served.address)
        for number in range(50):
            dead.submit(wire.WRITE, number * 4, payload=b"old!")
        dead.flush_out()
        served.until(lambda: served.device.waiting == 2)
        dead.close()
        with Client(served.address) as fresh:
            fresh.submit(wire.WRITE, 100, payload=b"new!")
            fresh.flush_out()
            served.until(lambda: len(served.server._state.transmitting) == 2)
            open_gate(served)
            fresh.wait_all()
            served.until(lambda: len(served.server._state.transmitting) == 1)
            assert fresh.call(wire.READ, 100, 4).data == b"new!"
        assert bytes(served.device.data).count(b"old!") == 2


def test_a_living_connection_does_not_hold_up_a_new_one(tmp_path: Path) -> None:
    with serving(MemoryDevice(SIZE), tmp_path) as served, Client(served.address) as busy:
        close_gate(served)
        busy.submit(wire.WRITE, 0, payload=b"busy")
        busy.flush_out()
        served.until(lambda: served.device.waiting == 1)
        with Client(served.address) as other:
            other.submit(wire.FLUSH)
            other.flush_out()
            served.until(lambda: served.device.waiting == 2)
            open_gate(served)
            assert not other.wait_all().popitem()[1].error
        assert not busy.wait_all().popitem()[1].error


def test_requests_in_flight_are_bounded_and_all_are_served(tmp_path: Path) -> None:
    limits = Limits(requests_per_connection=8, requests=12)
    with serving(MemoryDevice(SIZE), tmp_path, limits=limits) as served:
        close_gate(served)
        clients = [Client(served.address, mode) for mode in (STRUCTURED, EXTENDED)]
        for client in clients:
            for number in range(100):
                client.submit(wire.WRITE, number * 512, payload=bytes([number]) * 512)
            client.flush_out()
        served.until(lambda: served.device.waiting == 12)
        open_gate(served)
        for client in clients:
            assert {reply.error for reply in client.wait_all().values()} == {0}
            client.close()
        assert served.server._state.budget.count == 0


def test_bytes_in_flight_are_bounded(tmp_path: Path) -> None:
    limits = Limits(bytes_per_connection=3 << 20)
    with serving(MemoryDevice(SIZE), tmp_path, limits=limits) as served, Client(served.address) as client:
        close_gate(served)
        for _ in range(10):
            client.submit(wire.READ, 0, 1 << 20)
        client.flush_out()
        served.until(lambda: served.device.waiting == 2)
        assert served.server._state.budget.bytes <= 3 << 20
        open_gate(served)
        assert len(client.wait_all()) == 10


def test_a_client_that_reads_nothing_is_cut_only_while_others_wait(tmp_path: Path) -> None:
    limits = Limits(stall_s=0.1, bytes=5 << 20)
    with serving(MemoryDevice(SIZE), tmp_path, limits=limits) as served, Client(served.address) as stalled:
        stalled.submit(wire.READ, 0, SIZE)
        stalled.flush_out()
        served.until(lambda: served.server._state.budget.count == 1)
        with Client(served.address) as client:
            assert not client.call(wire.READ, 0, 4096).error
            assert len(client.call(wire.READ, 0, SIZE).data) == SIZE
        with pytest.raises(Closed):
            stalled.wait_all()


def test_a_client_that_stalls_inside_a_payload_is_cut_only_while_others_wait(tmp_path: Path) -> None:
    limits = Limits(stall_s=0.1, bytes=5 << 20)
    with serving(MemoryDevice(40 << 20), tmp_path, limits=limits) as served, Client(served.address) as stalled:
        stalled.submit(wire.WRITE, 0, 20 << 20)
        stalled.flush_out()
        served.until(lambda: served.server._state.budget.count == 1)
        with Client(served.address) as client:
            assert not client.call(wire.READ, 0, 4096).error
            assert len(client.call(wire.READ, 0, SIZE).data) == SIZE
        assert stalled.closed()


def test_too_many_connections_are_hung_up_and_slots_come_back(tmp_path: Path) -> None:
    with serving(MemoryDevice(SIZE), tmp_path, limits=Limits(connections=2)) as served:
        one, two = Client(served.address), Client(served.address)
        with pytest.raises(Closed):
            Handshake(served.address)
        one.close()
        served.until(lambda: served.server.metrics.connections == 1)
        with Client(served.address) as three:
            assert not three.call(wire.READ, 0, 1).error
        two.close()


def test_stop_answers_what_was_received_and_closes(tmp_path: Path) -> None:
    with serving(MemoryDevice(SIZE), tmp_path) as served:
        idle, shaking = Client(served.address), Handshake(served.address)
        with Client(served.address) as client:
            close_gate(served)
            client.submit(wire.WRITE, 0, payload=b"late")
            client.flush_out()
            served.until(lambda: served.device.waiting == 1)
            served.in_loop(served.server.stop)
            served.in_loop(served.server.stop)
            assert idle.closed()
            assert shaking.closed()
            assert not served.ended.is_set()
            open_gate(served)
            assert not client.wait_all().popitem()[1].error
            assert client.closed()
        assert served.ended.wait(10)
        assert not os.path.exists(served.address)
        idle.close()
        shaking.sock.close()


def test_stop_cuts_clients_that_do_not_take_their_replies(tmp_path: Path) -> None:
    limits = Limits(grace_s=0.2)
    with serving(MemoryDevice(SIZE), tmp_path, limits=limits) as served, Client(served.address) as client:
        for _ in range(4):
            client.submit(wire.READ, 0, SIZE)
        client.flush_out()
        served.until(lambda: served.server._state.budget.count > 0)
        served.in_loop(served.server.stop)
        assert served.ended.wait(10)


def test_unexpected_errors_are_logged_once_with_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(MemoryDevice(SIZE), tmp_path) as served, Client(served.address) as client:
        served.device.failure = ZeroDivisionError("bug")
        with caplog.at_level(logging.ERROR):
            for _ in range(5):
                assert client.call(wire.FLUSH).error == 5
        told = [record for record in caplog.records if record.name == "sds.nbd"]
        assert len(told) == 1
        assert told[0].exc_info is not None


def test_tcp_serves_without_delay(tmp_path: Path) -> None:
    device = MemoryDevice(SIZE)
    with serving(device, tmp_path, tcp=True) as served, Client(served.address, EXTENDED) as client:
        client.call(wire.WRITE, 0, payload=b"abc" * 1000)
        assert client.call(wire.READ, 0, 3000).data == b"abc" * 1000


def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    with serving(MemoryDevice(SIZE), tmp_path):
        listen_unix(path).close()
        assert not os.path.exists(path)


def test_a_socket_in_use_and_other_files_are_left_alone(tmp_path: Path) -> None:
    with serving(MemoryDevice(SIZE), tmp_path) as served:
        with pytest.raises(Busy, match="listens on"):
            listen_unix(served.address)
        connect(served.address).close()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(Exists, match="not a socket"):
        listen_unix(str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "precious"


def test_addresses_that_cannot_be_listened_on_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot listen"):
        listen_unix(str(tmp_path / ("x" * 200)))
    with pytest.raises(BadInput, match="cannot listen"):
        listen_unix(str(tmp_path / "missing" / "s"))
    with pytest.raises(BadInput, match="cannot listen"):
        listen_tcp("127.0.0.1", 99999)
    first = listen_tcp("127.0.0.1", 0)
    with pytest.raises(Busy, match="is taken"):
        listen_tcp("127.0.0.1", first.port)
    first.close()


def test_uris_name_the_endpoint(tmp_path: Path) -> None:
    listener = listen_unix(str(tmp_path / "s"))
    assert listener.uri("vol") == f"nbd+unix:///vol?socket={tmp_path}/s"
    listener.close()
    tcp = listen_tcp("127.0.0.1", 0)
    assert tcp.uri("vol") == f"nbd://127.0.0.1:{tcp.port}/vol"
    tcp.close()
