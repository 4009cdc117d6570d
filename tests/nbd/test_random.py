"""Random requests against a model, and random nonsense against the server."""

import struct
import threading
from pathlib import Path
from time import perf_counter

import pytest
import trio

from sds.nbd import wire
from sds.nbd.device import Buffer
from tests.nbd.client import SIMPLE, Client, receive
from tests.nbd.exerciser import Mismatch, exercise
from tests.nbd.fuzz import fuzz
from tests.nbd.memory_device import MemoryDevice
from tests.nbd.serving import serving

SIZE = 2 << 20


@pytest.mark.parametrize("patience", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_the_export_agrees_with_the_model(tmp_path: Path, patience: int, seed: int) -> None:
    with serving(MemoryDevice(SIZE, patience=patience), tmp_path) as served:
        model = exercise(served.address, seed=seed, rounds=60)
        assert served.device.data == model


def test_the_exerciser_finds_a_device_that_loses_one_byte(tmp_path: Path) -> None:
    class Lossy(MemoryDevice):
        writes = 0

        def write_nowait(self, offset: int, data: memoryview) -> bool:
            self.writes += 1
            return super().write_nowait(offset, data[:-1] if self.writes % 50 == 0 else data)

    with serving(Lossy(SIZE), tmp_path) as served, pytest.raises(Mismatch, match="seed 1"):
        exercise(served.address, seed=1, rounds=60)


class Reusing(MemoryDevice):
    """Reuses the buffers it handed out as soon as its caller awaits anything (D5)."""

    def read_nowait(self, offset: int, length: int) -> tuple[Buffer]:
        copy = memoryview(bytearray(self.data[offset : offset + length]))
        trio.lowlevel.current_trio_token().run_sync_soon(self.spoil, copy)
        return (copy,)

    async def read(self, offset: int, length: int) -> tuple[Buffer]:
        await trio.lowlevel.checkpoint()
        return self.read_nowait(offset, length)

    def spoil(self, copy: memoryview) -> None:
        copy[:] = b"\xee" * len(copy)


def test_reads_are_copied_before_the_device_may_change_them(tmp_path: Path) -> None:
    with serving(Reusing(SIZE), tmp_path) as served:
        exercise(served.address, seed=4, rounds=40, length_max=600_000)


@pytest.mark.parametrize("length", [900_000, 1_200_000], ids=["fast", "tasks"])
def test_reads_are_copied_when_the_socket_is_full_and_few_are_held(tmp_path: Path, length: int) -> None:
    with serving(Reusing(SIZE), tmp_path) as served, Client(served.address) as client:
        served.in_loop(lambda: served.device.data.__setitem__(slice(None), b"a" * SIZE))
        cookies = [client.submit(wire.READ, number, length) for number in range(16)]
        client.flush_out()
        served.until(lambda: served.server._state.transmitting[0]._outbox.pending_bytes > 0)
        if length == 900_000:
            assert served.server._state.transmitting[0]._outbox.pending_bytes < 2 << 20
        replies = client.wait_all()
        assert [replies[cookie].data == b"a" * length for cookie in cookies] == [True] * 16


@pytest.mark.parametrize("last", [wire.DISC, wire.FLUSH, None])
def test_reads_are_copied_when_the_connection_ends_or_waits(tmp_path: Path, last: int | None) -> None:
    """The client reads nothing until all is handled: what does not fit the socket was copied in time."""
    with serving(Reusing(SIZE), tmp_path) as served, Client(served.address) as client:
        served.in_loop(lambda: served.device.data.__setitem__(slice(None), b"a" * SIZE))
        cookies = [client.submit(wire.READ, number, 300_000) for number in range(3)]
        if last is not None:
            ending = client.submit(last)
            if last == wire.DISC:
                del client.waiting[ending]
        client.flush_out()
        served.until(lambda: served.server.metrics.ops["read"] == 3)
        replies = client.wait_all()
        assert [replies[cookie].data == b"a" * 300_000 for cookie in cookies] == [True] * 3


def test_background_work_gets_its_turn_while_a_client_never_pauses(tmp_path: Path) -> None:
    requests = 20_000
    longest_s = 0.0
    last_turn = 0.0

    class Busy(MemoryDevice):
        """Takes 20 us for a read, so that the socket is never empty."""

        def read_nowait(self, offset: int, length: int) -> tuple[Buffer]:
            nonlocal longest_s
            now = end = perf_counter()
            longest_s = max(longest_s, now - last_turn) if last_turn else 0.0
            while end < now + 20e-6:
                end = perf_counter()
            return (b"x",)

    async def background() -> None:
        nonlocal last_turn
        while not stop.is_set():
            last_turn = perf_counter()
            await trio.lowlevel.checkpoint()

    stop = threading.Event()
    with serving(Busy(SIZE), tmp_path) as served, Client(served.address, SIMPLE) as client:
        served.in_loop(lambda: trio.lowlevel.spawn_system_task(background))
        raw = struct.pack(">IHHQQI", wire.REQUEST_MAGIC, 0, wire.READ, 1, 0, 1) * requests
        sender = threading.Thread(target=client.sock.sendall, args=(raw,))
        sender.start()
        assert len(receive(client.sock, 17 * requests)) == 17 * requests
        sender.join()
        stop.set()
    assert longest_s < 0.1, "the loop kept all others waiting"


@pytest.mark.parametrize("patience", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_nonsense_is_answered_or_hung_up_on(
    tmp_path: Path, patience: int, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(MemoryDevice(SIZE, patience=patience), tmp_path) as served:
        fuzz(served.address, seed=seed, connections=150)
        served.until(lambda: served.server.metrics.connections == 0)
        budget = served.server._state.budget
        assert (budget.count, budget.bytes) == (0, 0)
    assert not [record for record in caplog.records if record.exc_info], "the server was surprised"
