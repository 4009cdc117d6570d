"""Requests that are not answered on the fast path: the check of any request, and its execution. No sockets
here.

  C1  `check` looks at everything a client can choose before anything is allocated or done.
  C2  Errors out of range: ENOSPC for what needs space, EINVAL for the rest. A range of no bytes is EINVAL,
      never silence.
  C3  FUA on a command that changes data means: done, then flushed, then answered.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass

from sds.core.errors import BadInput, SdsError
from sds.nbd import wire
from sds.nbd.device import Buffer, Device
from sds.nbd.handshake import Context
from sds.nbd.replies import Simple
from sds.nbd.wire import Malformed, Request, decode_status_filter

EXTENTS_MAX = 16384
"""Extents per context in one answer; the client asks again for the rest."""
FILTER_BYTES_MAX = 4096
STATUS_COST_BYTES = 1 << 20
COST_BYTES = 4096

_LEGAL_FLAGS = {
    wire.READ: wire.CMD_FUA | wire.CMD_DF,
    wire.WRITE: wire.CMD_FUA,
    wire.FLUSH: wire.CMD_FUA,
    wire.TRIM: wire.CMD_FUA,
    wire.CACHE: wire.CMD_FUA,
    wire.WRITE_ZEROES: wire.CMD_FUA | wire.CMD_NO_HOLE | wire.CMD_FAST_ZERO,
    wire.BLOCK_STATUS: wire.CMD_FUA | wire.CMD_REQ_ONE,
}
_CHANGES = (wire.WRITE, wire.TRIM, wire.WRITE_ZEROES)
_NEEDS_SPACE = (wire.WRITE, wire.WRITE_ZEROES)


@dataclass(frozen=True, slots=True)
class Refusal:
    errno: int
    message: str


class NotFast(SdsError):
    errno = errno.ENOTSUP


def payload_length(request: Request, replies: Simple) -> int:
    """Bytes that follow the header."""
    if request.command == wire.WRITE or (replies.extended and request.flags & wire.CMD_PAYLOAD_LEN):
        return request.length
    return 0


def check(request: Request, device: Device, replies: Simple, contexts: Sequence[Context]) -> Refusal | None:
    """None: may be executed (a filtered BLOCK_STATUS is checked again with its payload)."""
    legal = _LEGAL_FLAGS.get(request.command)
    if legal is None:
        return Refusal(errno.EINVAL, f"unknown command {request.command}")
    if request.command == wire.READ and not replies.structured:
        legal &= ~wire.CMD_DF
    if replies.extended and request.command in (wire.WRITE, wire.BLOCK_STATUS):
        legal |= wire.CMD_PAYLOAD_LEN
    if request.flags & ~legal:
        name = wire.COMMAND_NAMES[request.command]
        return Refusal(errno.EINVAL, f"{name} with flags {request.flags:#x}: some are unknown or misplaced")
    if request.command in _CHANGES and device.read_only:
        return Refusal(errno.EPERM, "the export is read-only")
    if request.command == wire.BLOCK_STATUS:
        if not contexts:
            return Refusal(errno.EINVAL, "no meta context was negotiated")
        if request.flags & wire.CMD_PAYLOAD_LEN:
            too_long = request.length > FILTER_BYTES_MAX
            return Refusal(errno.EINVAL, "the filter is too long") if too_long else None
    if request.command == wire.FLUSH:
        wrong = request.offset or request.length
        return Refusal(errno.EINVAL, "flush takes no range") if wrong else None
    return _check_range(request, device.size_bytes)


def _check_range(request: Request, size_bytes: int) -> Refusal | None:
    if request.command in (wire.READ, wire.WRITE) and request.length > wire.PAYLOAD_MAX_BYTES:
        return Refusal(errno.EINVAL, f"{request.length} bytes at once; at most {wire.PAYLOAD_MAX_BYTES}")
    if request.length == 0:
        return Refusal(errno.EINVAL, "a range of no bytes")
    if request.offset + request.length > size_bytes:
        number = errno.ENOSPC if request.command in _NEEDS_SPACE else errno.EINVAL
        return Refusal(number, f"the range ends beyond the {size_bytes} bytes of the export")
    return None


def cost_bytes(request: Request) -> int:
    """What a request holds in memory while it is under way."""
    if request.command in (wire.READ, wire.WRITE):
        return request.length + COST_BYTES
    return STATUS_COST_BYTES if request.command == wire.BLOCK_STATUS else COST_BYTES


class Executor:
    """Runs checked requests of one connection on the device."""

    def __init__(self, device: Device, replies: Simple, contexts: Sequence[Context]) -> None:
        self._device = device
        self._replies = replies
        self._contexts = contexts

    async def execute(self, request: Request, payload: memoryview | None) -> tuple[int, Sequence[Buffer]]:
        """Bytes and parts of the reply. `payload` None for a WRITE: its data is in, only FUA is left."""
        device, offset, length = self._device, request.offset, request.length
        match request.command:
            case wire.READ:
                return await self._read(request)
            case wire.WRITE:
                if payload is not None:
                    await device.write(offset, payload)
            case wire.TRIM:
                await device.trim(offset, length)
            case wire.WRITE_ZEROES:
                no_hole = bool(request.flags & wire.CMD_NO_HOLE)
                if no_hole and request.flags & wire.CMD_FAST_ZERO:
                    raise NotFast("zeroing without a hole is not fast")
                await device.write_zeroes(offset, length, no_hole)
            case wire.CACHE:
                await device.cache(offset, length)
            case wire.FLUSH:
                await device.flush()
            case wire.BLOCK_STATUS:
                return await self._block_status(request, payload)
        if request.flags & wire.CMD_FUA and request.command in _CHANGES:
            await device.flush()
        done = self._replies.done(request.cookie, offset)
        return len(done), (done,)

    async def _read(self, request: Request) -> tuple[int, Sequence[Buffer]]:
        parts = await self._device.read(request.offset, request.length)
        head = self._replies.data(request.cookie, request.offset, request.length)
        return len(head) + request.length, (head, *parts)

    def _filter(self, request: Request, payload: memoryview) -> tuple[int, Sequence[Context]]:
        """Length of the range, and which of the negotiated contexts are asked for."""
        try:
            length, ids = decode_status_filter(bytes(payload))
        except Malformed as exc:
            raise BadInput(str(exc)) from exc
        chosen = [context for context in self._contexts if context.id in ids]
        if not ids or len(chosen) != len(ids):
            raise BadInput("the filter names contexts that were not negotiated")
        refusal = _check_range(
            Request(request.flags, request.command, 0, request.offset, length), self._device.size_bytes
        )
        if refusal is not None:
            raise BadInput(refusal.message)
        return length, chosen

    async def _block_status(
        self, request: Request, payload: memoryview | None
    ) -> tuple[int, Sequence[Buffer]]:
        length, chosen = request.length, self._contexts
        if payload is not None:
            length, chosen = self._filter(request, payload)
        count_max = 1 if request.flags & wire.CMD_REQ_ONE else EXTENTS_MAX
        parts = []
        for number, context in enumerate(chosen, 1):
            if context.bitmap is None:
                extents = await self._device.extents(request.offset, length, count_max)
            else:
                extents = await self._device.changed(context.bitmap, request.offset, length, count_max)
            last = number == len(chosen)
            parts.append(self._replies.status(request.cookie, request.offset, context.id, extents, last))
        return sum(map(len, parts)), parts
