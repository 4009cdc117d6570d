"""The handshake (fixed newstyle): from the greeting to the moment the client may send requests.

  H1  Everything is bounded: options per connection, bytes per option, queries per option, contexts, and all
      of it by the caller's deadline.
  H2  An unknown option is skipped with its payload and answered with ERR_UNSUP; parsing goes on.
  H3  SET_META_CONTEXT forgets the earlier set even if it fails. There is one export: a set can be for no
      other.
  H4  What an option needs is decided by a pure step (`Session.answer`); reading and writing is one loop
      around it.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from sds.nbd import wire
from sds.nbd.device import Device
from sds.nbd.replies import Extended, Simple, Structured
from sds.nbd.wire import HangUp, Malformed, encode_option_reply

OPTIONS_MAX = 32
OPTION_BYTES_MAX = 32 << 10
"""Longer options are skipped and refused."""
OPTION_SKIP_MAX = 1 << 20
"""Beyond this nobody means well."""
QUERIES_MAX = 64
CONTEXTS_MAX = 16


class Stream(Protocol):
    async def read(self, size_bytes: int) -> bytes:
        """Exactly so many bytes, or HangUp."""

    async def skip(self, size_bytes: int) -> None: ...

    async def write(self, data: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Export:
    name: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """A negotiated meta context; `bitmap` None: base:allocation."""

    id: int
    name: str
    bitmap: str | None


@dataclass(frozen=True, slots=True)
class Negotiated:
    replies: Simple
    contexts: tuple[Context, ...]


class Next(Enum):
    OPTION = auto()
    TRANSMISSION = auto()
    CLOSE = auto()


@dataclass(slots=True)
class Session:
    """What has been agreed on so far, and the answer to the next option (H4)."""

    device: Device
    export: Export
    no_zeroes: bool = False
    replies: Simple = field(default_factory=Simple)
    contexts: tuple[Context, ...] = ()

    def flags(self) -> int:
        flags = wire.FLAG_HAS_FLAGS | wire.FLAG_FLUSH | wire.FLAG_FUA | wire.FLAG_MULTI_CONN | wire.FLAG_CACHE
        if self.device.read_only:
            flags |= wire.FLAG_READ_ONLY
        else:
            flags |= wire.FLAG_TRIM | wire.FLAG_WRITE_ZEROES | wire.FLAG_FAST_ZERO
        if self.replies.structured:
            flags |= wire.FLAG_DF
        if self.replies.extended:
            flags |= wire.FLAG_BLOCK_STATUS_PAYLOAD
        return flags

    def knows(self, name: str) -> bool:
        return name in ("", self.export.name)

    def answer(self, option: int, data: bytes) -> tuple[bytes, Next]:
        """The bytes to send, and what comes then."""
        handler = _HANDLERS.get(option)
        if handler is None:
            return encode_option_reply(option, wire.ERR_UNSUP, b"this option is not supported"), Next.OPTION
        try:
            return handler(self, option, data)
        except Malformed as exc:
            return encode_option_reply(option, wire.ERR_INVALID, str(exc).encode()), Next.OPTION
        except OverflowError as exc:
            return encode_option_reply(option, wire.ERR_TOO_BIG, str(exc).encode()), Next.OPTION

    def export_name(self, option: int, data: bytes) -> tuple[bytes, Next]:
        """There is no way to say no but to hang up."""
        if self.replies.extended or data not in (b"", self.export.name.encode()):
            return b"", Next.CLOSE
        reply = wire.encode_export_name_reply(self.device.size_bytes, self.flags(), not self.no_zeroes)
        self.contexts = self.contexts if self.replies.structured else ()
        return reply, Next.TRANSMISSION

    def abort(self, option: int, data: bytes) -> tuple[bytes, Next]:
        return encode_option_reply(option, wire.REP_ACK), Next.CLOSE

    def list(self, option: int, data: bytes) -> tuple[bytes, Next]:
        _must_be_empty(data)
        server = wire.encode_server(self.export.name, self.export.description)
        return _replies(option, (wire.REP_SERVER, server)), Next.OPTION

    def info_or_go(self, option: int, data: bytes) -> tuple[bytes, Next]:
        asked = wire.decode_info_request(data)
        if not self.knows(asked.name):
            return encode_option_reply(option, wire.ERR_UNKNOWN, b"no such export here"), Next.OPTION
        infos = [wire.encode_export_info(self.device.size_bytes, self.flags()), wire.encode_block_size_info()]
        if wire.INFO_NAME in asked.infos:
            infos.append(wire.encode_text_info(wire.INFO_NAME, self.export.name))
        if wire.INFO_DESCRIPTION in asked.infos and self.export.description:
            infos.append(wire.encode_text_info(wire.INFO_DESCRIPTION, self.export.description))
        reply = _replies(option, *((wire.REP_INFO, info) for info in infos))
        return reply, Next.TRANSMISSION if option == wire.OPT_GO else Next.OPTION

    def structured_reply(self, option: int, data: bytes) -> tuple[bytes, Next]:
        _must_be_empty(data)
        if self.replies.extended:
            text = b"extended headers are on already"
            return encode_option_reply(option, wire.ERR_EXT_HEADER_REQD, text), Next.OPTION
        if self.replies.structured:
            raise Malformed("structured replies are on already")
        self.replies = Structured()
        return _replies(option), Next.OPTION

    def extended_headers(self, option: int, data: bytes) -> tuple[bytes, Next]:
        _must_be_empty(data)
        if self.replies.extended:
            raise Malformed("extended headers are on already")
        self.replies = Extended()
        return _replies(option), Next.OPTION

    def list_meta_context(self, option: int, data: bytes) -> tuple[bytes, Next]:
        asked = self._meta_request(data)
        if not self.knows(asked.name):
            return encode_option_reply(option, wire.ERR_UNKNOWN, b"no such export here"), Next.OPTION
        found = [c for c in self._offered() if not asked.queries or _matches(c.name, asked.queries)]
        return _replies(option, *_context_replies(found, listing=True)), Next.OPTION

    def set_meta_context(self, option: int, data: bytes) -> tuple[bytes, Next]:
        self.contexts = ()
        asked = self._meta_request(data)
        if not self.knows(asked.name):
            return encode_option_reply(option, wire.ERR_UNKNOWN, b"no such export here"), Next.OPTION
        found = tuple(c for c in self._offered() if c.name in asked.queries)
        if len(found) > CONTEXTS_MAX:
            raise OverflowError(f"at most {CONTEXTS_MAX} contexts")
        self.contexts = found
        return _replies(option, *_context_replies(found, listing=False)), Next.OPTION

    def _meta_request(self, data: bytes) -> wire.MetaRequest:
        if not self.replies.structured:
            raise Malformed("negotiate structured replies first")
        return wire.decode_meta_request(data, QUERIES_MAX)

    def _offered(self) -> tuple[Context, ...]:
        bitmaps = enumerate(self.device.bitmap_names(), wire.BITMAP_ID_FIRST)
        return (
            Context(wire.ALLOCATION_ID, wire.ALLOCATION_CONTEXT, None),
            *(Context(number, wire.BITMAP_PREFIX + name, name) for number, name in bitmaps),
        )


def _must_be_empty(data: bytes) -> None:
    if data:
        raise Malformed("this option has no payload")


def _replies(option: int, *items: tuple[int, bytes]) -> bytes:
    """Some replies and the final ACK."""
    all_items = (*items, (wire.REP_ACK, b""))
    return b"".join([encode_option_reply(option, kind, payload) for kind, payload in all_items])


def _matches(name: str, queries: tuple[str, ...]) -> bool:
    """Wildcards of LIST: a namespace (`base:`), or the kind of context (`qemu:dirty-bitmap:`)."""
    wildcards = tuple(q for q in queries if q in ("base:", "qemu:", wire.BITMAP_PREFIX))
    return name in queries or name.startswith(wildcards)


def _context_replies(found: Sequence[Context], listing: bool) -> list[tuple[int, bytes]]:
    """LIST tells no ids."""
    return [(wire.REP_META_CONTEXT, wire.encode_meta_context(0 if listing else c.id, c.name)) for c in found]


_HANDLERS: dict[int, Callable[[Session, int, bytes], tuple[bytes, Next]]] = {
    wire.OPT_EXPORT_NAME: Session.export_name,
    wire.OPT_ABORT: Session.abort,
    wire.OPT_LIST: Session.list,
    wire.OPT_INFO: Session.info_or_go,
    wire.OPT_GO: Session.info_or_go,
    wire.OPT_STRUCTURED_REPLY: Session.structured_reply,
    wire.OPT_EXTENDED_HEADERS: Session.extended_headers,
    wire.OPT_LIST_META_CONTEXT: Session.list_meta_context,
    wire.OPT_SET_META_CONTEXT: Session.set_meta_context,
}


async def negotiate(stream: Stream, device: Device, export: Export) -> Negotiated | None:
    """Greet and answer options. None: the client said goodbye. HangUp: it broke the protocol."""
    await stream.write(wire.GREETING)
    (client_flags,) = wire.CLIENT_FLAGS.unpack(await stream.read(wire.CLIENT_FLAGS.size))
    if client_flags & ~(wire.HANDSHAKE_FIXED_NEWSTYLE | wire.HANDSHAKE_NO_ZEROES):
        raise HangUp(f"unknown client flags {client_flags:#x}")
    session = Session(device, export, no_zeroes=bool(client_flags & wire.HANDSHAKE_NO_ZEROES))
    for _ in range(OPTIONS_MAX):
        option, data = await _read_option(stream)
        if option != wire.OPT_EXPORT_NAME and not client_flags & wire.HANDSHAKE_FIXED_NEWSTYLE:
            raise HangUp(f"option {option} without fixed newstyle")
        if data is None:
            reply = encode_option_reply(option, wire.ERR_TOO_BIG, b"the option is too long")
            then = Next.CLOSE if option == wire.OPT_EXPORT_NAME else Next.OPTION
        else:
            reply, then = session.answer(option, data)
        await _send(stream.write, reply, then)
        if then is Next.TRANSMISSION:
            return Negotiated(session.replies, session.contexts)
        if then is Next.CLOSE:
            return None
    raise HangUp(f"more than {OPTIONS_MAX} options")


async def _send(write: Callable[[bytes], Awaitable[None]], reply: bytes, then: Next) -> None:
    """A client may leave without waiting for the ACK of its ABORT."""
    try:
        await write(reply)
    except HangUp:
        if then is not Next.CLOSE:
            raise


async def _read_option(stream: Stream) -> tuple[int, bytes | None]:
    """The next option; None: its payload was too long and has been skipped."""
    magic, option, length = wire.OPTION_HEADER.unpack(await stream.read(wire.OPTION_HEADER.size))
    if magic != wire.OPTION_MAGIC:
        raise HangUp("an option does not start with its magic")
    if length > OPTION_SKIP_MAX:
        raise HangUp(f"option {option} with {length} bytes")
    known = option in _HANDLERS
    if known and length <= OPTION_BYTES_MAX:
        return option, await stream.read(length)
    await stream.skip(length)
    return option, None if known else b""
