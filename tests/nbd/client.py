"""A small NBD client of our own: any bytes may be sent with it, any dialect spoken, many requests be in
flight.

It blocks, knows nothing of the server's code but the numbers of the protocol, and checks every reply it
decodes.
"""

import select
import socket
import struct
from dataclasses import dataclass, field
from typing import Self

from sds.nbd import wire

SIMPLE, STRUCTURED, EXTENDED = "simple", "structured", "extended"
TIMEOUT_S = 20.0


class Closed(Exception):
    """The server hung up."""


def connect(address: str) -> socket.socket:
    """`address`: a socket path, or HOST:PORT."""
    if "/" in address:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(TIMEOUT_S)
        sock.connect(address)
        return sock
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), TIMEOUT_S)


def receive(sock: socket.socket, size_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < size_bytes:
        try:
            more = sock.recv(size_bytes - len(data))
        except ConnectionResetError:
            more = b""
        if not more:
            raise Closed(f"the server closed the connection after {len(data)} of {size_bytes} bytes")
        data += more
    return bytes(data)


@dataclass(frozen=True, slots=True)
class OptionReply:
    option: int
    kind: int
    payload: bytes


@dataclass(slots=True)
class Reply:
    command: int
    error: int = 0
    message: str = ""
    data: bytes = b""
    structured: bool = False
    chunks: int = 0
    status: dict[int, list[tuple[int, int]]] = field(default_factory=dict)


class Handshake:
    """The option phase, one option at a time."""

    def __init__(self, address: str, flags: int = 3) -> None:
        self.sock = connect(address)
        try:
            self.greeting = receive(self.sock, 18)
            self.sock.sendall(struct.pack(">I", flags))
        except (Closed, OSError):
            self.sock.close()
            raise

    def option(self, option: int, payload: bytes = b"") -> list[OptionReply]:
        self.sock.sendall(struct.pack(">8sII", b"IHAVEOPT", option, len(payload)) + payload)
        return self.replies()

    def replies(self) -> list[OptionReply]:
        """Up to the final reply: an ACK or an error."""
        replies = []
        while True:
            magic, option, kind, length = struct.unpack(">QIII", receive(self.sock, 20))
            assert magic == 0x3E889045565A9
            replies.append(OptionReply(option, kind, receive(self.sock, length)))
            if kind == wire.REP_ACK or kind & wire.REP_ERROR:
                return replies

    def closed(self) -> bool:
        try:
            receive(self.sock, 1)
        except Closed:
            return True
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()


def info_payload(name: str = "", infos: tuple[int, ...] = ()) -> bytes:
    raw = name.encode()
    return struct.pack(f">I{len(raw)}sH{len(infos)}H", len(raw), raw, len(infos), *infos)


def meta_payload(name: str, *queries: str) -> bytes:
    raw = name.encode()
    parts = [struct.pack(f">I{len(raw)}sI", len(raw), raw, len(queries))]
    parts += [struct.pack(">I", len(q.encode())) + q.encode() for q in queries]
    return b"".join(parts)


class Client:
    """A connection in transmission."""

    def __init__(self, address: str, mode: str = STRUCTURED, contexts: tuple[str, ...] = ()) -> None:
        self.mode = mode
        with_options = Handshake(address)
        self.sock = with_options.sock
        if mode != SIMPLE:
            option = wire.OPT_EXTENDED_HEADERS if mode == EXTENDED else wire.OPT_STRUCTURED_REPLY
            assert with_options.option(option)[-1].kind == wire.REP_ACK
        self.contexts: dict[str, int] = {}
        if contexts:
            for reply in with_options.option(wire.OPT_SET_META_CONTEXT, meta_payload("", *contexts))[:-1]:
                self.contexts[reply.payload[4:].decode()] = int.from_bytes(reply.payload[:4])
        replies = with_options.option(wire.OPT_GO, info_payload())
        assert replies[-1].kind == wire.REP_ACK, replies
        _, self.size_bytes, self.flags = struct.unpack(">HQH", replies[0].payload)
        self._out = bytearray()
        self._cookie = 0
        self.waiting: dict[int, Reply] = {}
        self.offsets: dict[int, tuple[int, int]] = {}

    def submit(
        self, command: int, offset: int = 0, length: int = 0, *, flags: int = 0, payload: bytes = b""
    ) -> int:
        """Queue a request; its cookie. WRITE: the length of a payload wins over `length`."""
        self._cookie += 1
        if command == wire.WRITE and payload:
            length = len(payload)
        if self.mode == EXTENDED:
            flags |= wire.CMD_PAYLOAD_LEN if payload else 0
            length = len(payload) if payload else length
            head = struct.pack(">IHHQQQ", 0x21E41C71, flags, command, self._cookie, offset, length)
        else:
            head = struct.pack(">IHHQQI", 0x25609513, flags, command, self._cookie, offset, length)
        self._out += head + payload
        self.waiting[self._cookie] = Reply(command)
        self.offsets[self._cookie] = (offset, length)
        return self._cookie

    def call(
        self, command: int, offset: int = 0, length: int = 0, *, flags: int = 0, payload: bytes = b""
    ) -> Reply:
        cookie = self.submit(command, offset, length, flags=flags, payload=payload)
        return self.wait_all()[cookie]

    def flush_out(self) -> None:
        self.sock.sendall(self._out)
        self._out.clear()

    def wait_all(self) -> dict[int, Reply]:
        """Send what is queued while receiving; the replies of everything in flight, by cookie."""
        done: dict[int, Reply] = {}
        while self.waiting:
            ready, writable, _ = select.select([self.sock], [self.sock] if self._out else [], [], TIMEOUT_S)
            assert ready or writable, f"no reply to {len(self.waiting)} requests"
            if ready:
                self._receive_chunk(done)
            elif writable:
                try:
                    del self._out[: self.sock.send(self._out[: 1 << 16], socket.MSG_DONTWAIT)]
                except BlockingIOError:
                    continue
                except (BrokenPipeError, ConnectionResetError) as exc:
                    raise Closed("the server closed the connection") from exc
        return done

    def _receive_chunk(self, done: dict[int, Reply]) -> None:
        magic = int.from_bytes(receive(self.sock, 4))
        flags, kind, length, offset = wire.CHUNK_DONE, wire.CHUNK_NONE, 0, None
        error = 0
        if magic == wire.SIMPLE_REPLY_MAGIC:
            assert self.mode != EXTENDED, "a simple reply after extended headers"
            error, cookie = struct.unpack(">IQ", receive(self.sock, 12))
        elif magic == wire.STRUCTURED_REPLY_MAGIC:
            assert self.mode == STRUCTURED
            flags, kind, cookie, length = struct.unpack(">HHQI", receive(self.sock, 16))
        else:
            assert (magic, self.mode) == (wire.EXTENDED_REPLY_MAGIC, EXTENDED), f"{magic:#x} in {self.mode}"
            flags, kind, cookie, offset, length = struct.unpack(">HHQQQ", receive(self.sock, 28))
        reply = self.waiting[cookie]
        asked_offset, asked_length = self.offsets[cookie]
        assert offset in (None, asked_offset), "the offset of the request is not echoed"
        reply.chunks += 1
        reply.error = reply.error or error
        if magic == wire.SIMPLE_REPLY_MAGIC:
            assert self.mode == SIMPLE or reply.command != wire.READ, "a simple reply to a structured READ"
            if reply.command == wire.READ and not error:
                reply.data = receive(self.sock, asked_length)
        else:
            reply.structured = True
            self._decode_chunk(reply, kind, receive(self.sock, length), asked_offset)
        if flags & wire.CHUNK_DONE:
            del self.waiting[cookie], self.offsets[cookie]
            done[cookie] = reply

    def _decode_chunk(self, reply: Reply, kind: int, payload: bytes, asked_offset: int) -> None:
        if kind & 0x8000:
            error, length = struct.unpack_from(">IH", payload)
            assert error, "an error chunk without an error"
            reply.error, reply.message = error, payload[6 : 6 + length].decode()
        elif kind == wire.CHUNK_OFFSET_DATA:
            assert int.from_bytes(payload[:8]) == asked_offset + len(reply.data), "chunks out of order"
            reply.data += payload[8:]
        elif kind == wire.CHUNK_BLOCK_STATUS:
            numbers = struct.unpack(f">{len(payload) // 4}I", payload)
            reply.status[numbers[0]] = list(zip(numbers[1::2], numbers[2::2], strict=True))
        elif kind == wire.CHUNK_BLOCK_STATUS_EXT:
            context, count = struct.unpack_from(">II", payload)
            numbers = struct.unpack_from(f">{2 * count}Q", payload, 8)
            reply.status[context] = list(zip(numbers[::2], numbers[1::2], strict=True))
        else:
            assert kind == wire.CHUNK_NONE, f"unknown chunk {kind}"

    def closed(self) -> bool:
        """The server has hung up (waits for it)."""
        try:
            receive(self.sock, 1)
        except Closed:
            return True
        return False

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()
