"""The NBD wire format: numbers, structures, and pure functions that encode and decode them. No I/O.

  W1  All integers are big-endian.
  W2  Decoders check every length before they slice; what does not fit raises `Malformed`.
  W3  The first eight bytes of a request are read as one integer (magic, flags, command): the two commands
      that matter are told apart from everything else by one comparison.

| structure | fields |
|---|---|
| greeting | "NBDMAGIC", "IHAVEOPT", u16 handshake flags |
| option | "IHAVEOPT", u32 option, u32 length, payload |
| option reply | u64 0x3e889045565a9, u32 option, u32 type, u32 length, payload |
| request, compact | u32 0x25609513, u16 flags, u16 command, u64 cookie, u64 offset, u32 length |
| request, extended | u32 0x21e41c71, u16 flags, u16 command, u64 cookie, u64 offset, u64 length |
"""

import errno
import struct
from dataclasses import dataclass
from struct import Struct

# Handshake
GREETING_MAGIC = b"NBDMAGIC"
OPTION_MAGIC = b"IHAVEOPT"
OPTION_REPLY_MAGIC = 0x3E889045565A9
HANDSHAKE_FIXED_NEWSTYLE = 1
HANDSHAKE_NO_ZEROES = 2
GREETING = GREETING_MAGIC + OPTION_MAGIC + struct.pack(">H", HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES)
CLIENT_FLAGS = Struct(">I")
OPTION_HEADER = Struct(">8sII")
OPTION_REPLY = Struct(">QIII")

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST = 1, 2, 3
OPT_STARTTLS, OPT_INFO, OPT_GO, OPT_STRUCTURED_REPLY = 5, 6, 7, 8
OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, OPT_EXTENDED_HEADERS = 9, 10, 11

REP_ACK, REP_SERVER, REP_INFO, REP_META_CONTEXT = 1, 2, 3, 4
REP_ERROR = 1 << 31
ERR_UNSUP, ERR_POLICY, ERR_INVALID = REP_ERROR + 1, REP_ERROR + 2, REP_ERROR + 3
ERR_UNKNOWN, ERR_TOO_BIG, ERR_EXT_HEADER_REQD = REP_ERROR + 6, REP_ERROR + 9, REP_ERROR + 10

INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE = 0, 1, 2, 3

NAME_BYTES_MAX = 4096
"""Longest string of the protocol: export names, context names, messages."""

# Transmission flags of an export
FLAG_HAS_FLAGS = 1 << 0
FLAG_READ_ONLY = 1 << 1
FLAG_FLUSH = 1 << 2
FLAG_FUA = 1 << 3
FLAG_TRIM = 1 << 5
FLAG_WRITE_ZEROES = 1 << 6
FLAG_DF = 1 << 7
FLAG_MULTI_CONN = 1 << 8
FLAG_CACHE = 1 << 10
FLAG_FAST_ZERO = 1 << 11
FLAG_BLOCK_STATUS_PAYLOAD = 1 << 12

# Requests
REQUEST_MAGIC = 0x25609513
EXTENDED_REQUEST_MAGIC = 0x21E41C71
REQUEST = Struct(">QQQI")
EXTENDED_REQUEST = Struct(">QQQQ")

READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
COMMAND_NAMES = ("read", "write", "disc", "flush", "trim", "cache", "write_zeroes", "block_status")
CMD_FUA, CMD_NO_HOLE, CMD_DF, CMD_REQ_ONE, CMD_FAST_ZERO, CMD_PAYLOAD_LEN = 1, 2, 4, 8, 16, 32

# Replies
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF
EXTENDED_REPLY_MAGIC = 0x6E8A278C
CHUNK_DONE = 1
CHUNK_NONE, CHUNK_OFFSET_DATA, CHUNK_OFFSET_HOLE = 0, 1, 2
CHUNK_BLOCK_STATUS, CHUNK_BLOCK_STATUS_EXT = 5, 6
CHUNK_ERROR, CHUNK_ERROR_OFFSET = 0x8001, 0x8002
SIMPLE_REPLY = Struct(">IIQ")
STRUCTURED_REPLY = Struct(">IHHQI")
EXTENDED_REPLY = Struct(">IHHQQQ")

# Block status
ALLOCATION_CONTEXT = "base:allocation"
BITMAP_PREFIX = "qemu:dirty-bitmap:"
ALLOCATION_ID = 1
BITMAP_ID_FIRST = 2

# Sizes
BLOCK_MIN_BYTES = 1
BLOCK_PREFERRED_BYTES = 4096
PAYLOAD_MAX_BYTES = 32 << 20
DRAIN_MAX_BYTES = 64 << 20
"""Payloads up to here are read and thrown away to keep the connection; beyond, it is closed."""

_ERRNOS = {
    errno.EPERM: 1, errno.EIO: 5, errno.ENOMEM: 12, errno.EINVAL: 22, errno.ENOSPC: 28,
    errno.EOVERFLOW: 75, errno.ENOTSUP: 95, errno.ESHUTDOWN: 108,
    errno.EACCES: 1, errno.EROFS: 1, errno.EDQUOT: 28, errno.EFBIG: 28,
}  # fmt: skip


class Malformed(Exception):
    """A payload is not what its lengths say."""


class HangUp(Exception):
    """The peer broke the protocol, or left, in a way that only closing answers."""


def wire_errno(number: int) -> int:
    """The protocol knows eight errors; what is none of them is an I/O error."""
    return _ERRNOS.get(number, 5)


def request_head(magic: int, flags: int, command: int) -> int:
    """The first eight bytes of a request as one integer (W3)."""
    return magic << 32 | flags << 16 | command


@dataclass(frozen=True, slots=True)
class Request:
    flags: int
    command: int
    cookie: int
    offset: int
    length: int


# ------------------------------------------------------------------------------------------------ options


@dataclass(frozen=True, slots=True)
class InfoRequest:
    name: str
    infos: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MetaRequest:
    name: str
    queries: tuple[str, ...]


def encode_option_reply(option: int, kind: int, payload: bytes = b"") -> bytes:
    return OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(payload)) + payload


def _take_string(data: bytes, at: int) -> tuple[str, int]:
    if len(data) - at < 4:
        raise Malformed("a string's length is cut off")
    length = int.from_bytes(data[at : at + 4])
    stop = at + 4 + length
    if length > NAME_BYTES_MAX or stop > len(data):
        raise Malformed(f"a string of {length} bytes does not fit")
    return decode_name(data[at + 4 : stop]), stop


def decode_name(data: bytes) -> str:
    """Names are UTF-8 without NUL, at most 4096 bytes."""
    if len(data) > NAME_BYTES_MAX or b"\0" in data:
        raise Malformed("a name is too long or holds a NUL")
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise Malformed("a name is not UTF-8") from exc


def decode_info_request(data: bytes) -> InfoRequest:
    """INFO and GO: u32 length, name, u16 count, count * u16."""
    name, at = _take_string(data, 0)
    if len(data) - at < 2:
        raise Malformed("the number of information requests is cut off")
    count = int.from_bytes(data[at : at + 2])
    if len(data) - at - 2 != 2 * count:
        raise Malformed(f"{count} information requests do not fit")
    return InfoRequest(name, struct.unpack_from(f">{count}H", data, at + 2))


def decode_meta_request(data: bytes, queries_max: int) -> MetaRequest:
    """LIST and SET_META_CONTEXT: u32 length, name, u32 count, count * (u32 length, query).

    OverflowError: too many queries.
    """
    name, at = _take_string(data, 0)
    if len(data) - at < 4:
        raise Malformed("the number of queries is cut off")
    count = int.from_bytes(data[at : at + 4])
    at += 4
    if count * 4 > len(data) - at:
        raise Malformed(f"{count} queries do not fit")
    if count > queries_max:
        raise OverflowError(f"at most {queries_max} queries")
    queries = []
    for _ in range(count):
        query, at = _take_string(data, at)
        queries.append(query)
    if at != len(data):
        raise Malformed("bytes after the last query")
    return MetaRequest(name, tuple(queries))


def encode_export_info(size_bytes: int, flags: int) -> bytes:
    return struct.pack(">HQH", INFO_EXPORT, size_bytes, flags)


def encode_text_info(kind: int, text: str) -> bytes:
    return struct.pack(">H", kind) + text.encode()


def encode_block_size_info() -> bytes:
    sizes = (BLOCK_MIN_BYTES, BLOCK_PREFERRED_BYTES, PAYLOAD_MAX_BYTES)
    return struct.pack(">HIII", INFO_BLOCK_SIZE, *sizes)


def encode_export_name_reply(size_bytes: int, flags: int, zeroes: bool) -> bytes:
    return struct.pack(">QH", size_bytes, flags) + (bytes(124) if zeroes else b"")


def encode_server(name: str, description: str) -> bytes:
    raw = name.encode()
    return struct.pack(">I", len(raw)) + raw + description.encode()


def encode_meta_context(context: int, name: str) -> bytes:
    return struct.pack(">I", context) + name.encode()


def decode_status_filter(data: bytes) -> tuple[int, tuple[int, ...]]:
    """The payload of BLOCK_STATUS: u64 length of the range, then the ids (u32) of the contexts asked for."""
    if len(data) < 8 or len(data) % 4:
        raise Malformed("a filter is a length and a list of ids")
    ids = struct.unpack_from(f">{(len(data) - 8) // 4}I", data, 8)
    if len(set(ids)) != len(ids):
        raise Malformed("an id is there twice")
    return int.from_bytes(data[:8]), ids
