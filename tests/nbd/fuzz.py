"""A seeded fuzzer of handshake and requests, for any NBD server of ours.

`fuzz` opens many connections, each of which misbehaves in its own way: noise, options with wrong lengths,
requests with any flags, commands, ranges and lengths, half messages, early ends. The server may answer with
an error or hang up; what it must not do is end, hang, or forget how to serve a decent client: `fuzz` checks
that at the end. It writes only where requests happen to be legal; the content of the export afterwards is
arbitrary.
"""

import random
import socket
import struct

from sds.nbd import wire
from tests.nbd.client import EXTENDED, SIMPLE, STRUCTURED, Client, Closed, Handshake, connect

PATIENCE_S = 0.02
_SIZES = (0, 1, 511, 4096, 1 << 20, (32 << 20) + 1, (64 << 20) + 1)
_EDGES = (*_SIZES, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1)


def fuzz(address: str, *, seed: int, connections: int = 200) -> None:
    rng = random.Random(seed)
    for _ in range(connections):
        attack = rng.choice((_noise, _options, _options, _requests, _requests, _requests))
        try:
            attack(rng, address)
        except (Closed, OSError):
            continue  # hanging up is a legal answer
    with Client(address, STRUCTURED) as client:
        reply = client.call(wire.READ, 0, min(4096, client.size_bytes))
        assert not reply.error, f"seed {seed}: the server does not serve any more"


def _drink(sock: socket.socket) -> None:
    """Take what the server says, for a moment, so that it never waits for us."""
    sock.settimeout(PATIENCE_S)
    try:
        while sock.recv(1 << 20):
            continue
    except (TimeoutError, OSError):
        return


def _send(sock: socket.socket, data: bytes) -> None:
    sock.settimeout(1.0)
    sock.sendall(data)


def _noise(rng: random.Random, address: str) -> None:
    with connect(address) as sock:
        start = rng.choice((b"", struct.pack(">I", 3), struct.pack(">I", rng.getrandbits(32)), b"IHAVEOPT"))
        _send(sock, start + rng.randbytes(rng.randint(0, 5000)))
        _drink(sock)


def _options(rng: random.Random, address: str) -> None:
    with Handshake(address, rng.choice((3, 3, 3, 1, 0, 2, 7))) as shaking:
        for _ in range(rng.randint(1, 40)):
            option = rng.choice((*range(13), rng.getrandbits(32)))
            payload = _option_payload(rng)
            length = len(payload) if rng.random() < 0.8 else rng.choice(_EDGES) & 0xFFFFFFFF
            magic = b"IHAVEOPT" if rng.random() < 0.98 else rng.randbytes(8)
            _send(shaking.sock, struct.pack(">8sII", magic, option, length) + payload)
        _drink(shaking.sock)


def _option_payload(rng: random.Random) -> bytes:
    name = rng.choice((b"", b"x", b"memory", rng.randbytes(9), b"n" * 4096, b"n" * 5000, b"\0"))
    length = len(name) if rng.random() < 0.8 else rng.choice(_EDGES) & 0xFFFFFFFF
    count = rng.choice((0, 1, 2, 65535))
    parts = [rng.choice((b"\0\1", b"\0\0\0\4base", rng.randbytes(3))) for _ in range(rng.randint(0, 4))]
    wide = struct.pack(">I", rng.choice((0, 1, 3, 0xFFFFFFFF)))
    counted = rng.choice((struct.pack(">H", count), wide))
    return rng.choice((b"", struct.pack(">I", length) + name + counted + b"".join(parts)))


def _requests(rng: random.Random, address: str) -> None:
    mode = rng.choice((SIMPLE, STRUCTURED, EXTENDED))
    with Client(address, mode, () if mode == SIMPLE else (wire.ALLOCATION_CONTEXT,)) as client:
        out = bytearray()
        for _ in range(rng.randint(1, 30)):
            out += _request(rng, mode == EXTENDED, client.size_bytes)
        if rng.random() < 0.3:
            del out[rng.randrange(len(out)) :]
        _send(client.sock, bytes(out))
        if rng.random() < 0.8:
            _drink(client.sock)


def _request(rng: random.Random, extended: bool, size_bytes: int) -> bytes:
    command = rng.choice((*range(9), rng.getrandbits(16)))
    flags = rng.choice((0, 0, 0, 1, rng.getrandbits(6), rng.getrandbits(16)))
    offset = rng.choice((rng.randrange(size_bytes), size_bytes - 1, size_bytes, *_EDGES))
    length = rng.choice((rng.randint(1, 10_000), *_EDGES))
    magic = (0x21E41C71 if extended else 0x25609513) if rng.random() < 0.98 else rng.getrandbits(32)
    payload = b""
    if command == wire.WRITE and rng.random() < 0.9:
        length = rng.randint(0, 20_000)
        payload = rng.randbytes(length)
        flags |= wire.CMD_PAYLOAD_LEN if extended else 0
    head = struct.pack(">IHHQQ", magic, flags, command, rng.getrandbits(64), offset)
    if extended:
        return head + struct.pack(">Q", length) + payload
    return head + struct.pack(">I", length & 0xFFFFFFFF) + payload
