"""Replies in the three dialects a client may have negotiated. Pure.

| dialect | header | used for |
|---|---|---|
| simple | u32 0x67446698, u32 error, u64 cookie | everything else |
| structured | u32 0x668e33ef, u16 flags, u16 type, u64 cookie, u32 length | READ, BLOCK_STATUS, errors |
| extended | u32 0x6e8a278c, u16 flags, u16 type, u64 cookie, u64 offset, u64 length | everything, once negotiated |

  Y1  A READ is answered by one chunk with the DONE flag: it satisfies DF too, and costs one header.
  Y2  Once structured replies are on, a READ never gets a simple reply, not even for EINVAL.
  Y3  An error chunk carries the message of the error, cut to 255 bytes.
"""

import struct
from collections.abc import Sequence
from itertools import chain
from struct import Struct

from sds.nbd import wire
from sds.nbd.device import Extent

_DATA = (wire.CHUNK_DONE << 16) | wire.CHUNK_OFFSET_DATA
_STRUCTURED_DATA_HEAD = wire.STRUCTURED_REPLY_MAGIC << 32 | _DATA
_EXTENDED_DATA_HEAD = wire.EXTENDED_REPLY_MAGIC << 32 | _DATA
_EXTENDED_DONE_HEAD = wire.EXTENDED_REPLY_MAGIC << 32 | wire.CHUNK_DONE << 16 | wire.CHUNK_NONE
_SIMPLE_DONE_HEAD = wire.SIMPLE_REPLY_MAGIC << 32

_pack_simple = Struct(">QQ").pack
_pack_structured_data = Struct(">QQIQ").pack
_pack_extended_data = Struct(">QQQQQ").pack
_pack_extended_done = Struct(">QQQQ").pack

MESSAGE_BYTES_MAX = 255
_U32_MAX = (1 << 32) - 1


def _error_payload(error: int, message: str) -> bytes:
    text = message.encode()[:MESSAGE_BYTES_MAX].decode(errors="ignore").encode()
    return struct.pack(">IH", error, len(text)) + text


class Simple:
    """No negotiation: an error of a READ is a reply without data."""

    request = wire.REQUEST
    magic = wire.REQUEST_MAGIC
    structured = False
    extended = False

    def data(self, cookie: int, offset: int, length: int) -> bytes:
        """What comes before the bytes of a READ."""
        return _pack_simple(_SIMPLE_DONE_HEAD, cookie)

    def done(self, cookie: int, offset: int) -> bytes:
        return _pack_simple(_SIMPLE_DONE_HEAD, cookie)

    def error(self, cookie: int, offset: int, error: int, message: str) -> bytes:
        return wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, error, cookie)

    def status(self, cookie: int, offset: int, context: int, extents: Sequence[Extent], last: bool) -> bytes:
        raise AssertionError("block status needs structured replies; validation lets no request through")


class Structured(Simple):
    structured = True

    def data(self, cookie: int, offset: int, length: int) -> bytes:
        return _pack_structured_data(_STRUCTURED_DATA_HEAD, cookie, length + 8, offset)

    def _chunk(self, flags: int, kind: int, cookie: int, payload: bytes) -> bytes:
        head = wire.STRUCTURED_REPLY.pack(wire.STRUCTURED_REPLY_MAGIC, flags, kind, cookie, len(payload))
        return head + payload

    def error(self, cookie: int, offset: int, error: int, message: str) -> bytes:
        return self._chunk(wire.CHUNK_DONE, wire.CHUNK_ERROR, cookie, _error_payload(error, message))

    def status(self, cookie: int, offset: int, context: int, extents: Sequence[Extent], last: bool) -> bytes:
        numbers = chain.from_iterable((min(e.length, _U32_MAX), e.flags) for e in extents)
        payload = struct.pack(f">I{2 * len(extents)}I", context, *numbers)
        return self._chunk(wire.CHUNK_DONE if last else 0, wire.CHUNK_BLOCK_STATUS, cookie, payload)


class Extended(Simple):
    request = wire.EXTENDED_REQUEST
    magic = wire.EXTENDED_REQUEST_MAGIC
    structured = True
    extended = True

    def data(self, cookie: int, offset: int, length: int) -> bytes:
        return _pack_extended_data(_EXTENDED_DATA_HEAD, cookie, offset, length + 8, offset)

    def done(self, cookie: int, offset: int) -> bytes:
        return _pack_extended_done(_EXTENDED_DONE_HEAD, cookie, offset, 0)

    def _chunk(self, flags: int, kind: int, cookie: int, offset: int, payload: bytes) -> bytes:
        magic = wire.EXTENDED_REPLY_MAGIC
        return wire.EXTENDED_REPLY.pack(magic, flags, kind, cookie, offset, len(payload)) + payload

    def error(self, cookie: int, offset: int, error: int, message: str) -> bytes:
        payload = _error_payload(error, message)
        return self._chunk(wire.CHUNK_DONE, wire.CHUNK_ERROR, cookie, offset, payload)

    def status(self, cookie: int, offset: int, context: int, extents: Sequence[Extent], last: bool) -> bytes:
        numbers = chain.from_iterable((e.length, e.flags) for e in extents)
        count = len(extents)
        payload = struct.pack(f">II{2 * count}Q", context, count, *numbers)
        flags = wire.CHUNK_DONE if last else 0
        return self._chunk(flags, wire.CHUNK_BLOCK_STATUS_EXT, cookie, offset, payload)
