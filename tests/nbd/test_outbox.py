"""The outbox against a peer that reads when it likes."""

import random
import socket

import pytest

from sds.nbd.budget import Budget
from sds.nbd.outbox import Outbox
from sds.nbd.wire import HangUp


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return ours, theirs


def take(sock: socket.socket, size_bytes: int) -> bytes:
    try:
        return sock.recv(size_bytes)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("seed", range(5))
def test_what_was_put_arrives_although_buffers_are_reused_after_settle(seed: int) -> None:
    rng = random.Random(seed)
    ours, theirs = pair()
    with ours, theirs:
        outbox = Outbox(ours, Budget(1, 1), 1.0)
        expected, got = bytearray(), bytearray()
        for _ in range(400):
            parts = [bytearray(rng.randbytes(rng.randrange(1, 3000))) for _ in range(rng.choice((1, 2, 3, 0)))]
            outbox.put(sum(map(len, parts)), [memoryview(part) for part in parts])
            expected += b"".join(parts)
            outbox.settle()
            for part in parts:
                part[:] = b"\xee" * len(part)
            for _ in range(rng.randrange(4)):
                got += take(theirs, rng.randrange(1, 1 << 18))
            if rng.random() < 0.3:
                outbox.settle()
        while not outbox.settle() or len(got) < len(expected):
            got += take(theirs, 1 << 20)
        assert got == expected
        assert (outbox.pending_bytes, outbox.parts) == (0, [])


def test_a_device_that_gives_less_than_was_announced_ends_the_connection() -> None:
    ours, theirs = pair()
    with ours, theirs:
        outbox = Outbox(ours, Budget(1, 1), 1.0)
        outbox.put(100, [b"x" * 99])
        with pytest.raises(HangUp, match="less than it was asked for"):
            outbox.settle()


def test_a_broken_socket_swallows_replies() -> None:
    ours, theirs = pair()
    with ours:
        theirs.close()
        outbox = Outbox(ours, Budget(1, 1), 1.0)
        outbox.put(4, [b"abcd"])
        assert outbox.settle()
        assert outbox.broken
        assert outbox.pending_bytes == 0
