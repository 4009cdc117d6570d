"""Parsing one segment of a log from its first to its last valid frame."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from sds.core.address import pack_address
from sds.core.frame import HEADER_SIZE, MAGIC, SEAL, FrameHeader, decode_header, frame_is_valid
from sds.core.segment import TRAILER_SIZE, decode_trailer


class Frame(NamedTuple):
    header: FrameHeader
    address: int
    payload: memoryview
    end: int
    """Offset of the byte behind the frame, where the next one starts."""


def frames(data: memoryview, segment: int, key: int, start: int, sequence: int) -> Iterator[Frame]:
    """The valid frames from offset `start` on whose sequence numbers go on from `sequence`.

    Ends behind a SEAL frame, and at the first gap or frame that does not verify.
    """
    offset = start
    while True:
        header = decode_header(data, offset)
        if header is None or header.sequence != sequence + 1:
            return
        address = pack_address(segment, offset)
        if not frame_is_valid(data, offset, header, address, key):
            return
        payload = data[offset + HEADER_SIZE : offset + HEADER_SIZE + header.stored_bytes]
        sequence = header.sequence
        offset += header.frame_bytes
        yield Frame(header, address, payload, offset)
        if header.kind == SEAL:
            return


@dataclass(frozen=True, slots=True)
class Parsed:
    """What one source of a segment holds of the log."""

    frames: list[Frame]
    sequence: int
    """Of the last valid frame."""
    end: int
    """Offset behind it. A sealed segment goes on to the end of its trailer."""
    sealed: bool


def parse(data: memoryview, segment: int, key: int, start: int, sequence: int) -> Parsed:
    found = list(frames(data, segment, key, start, sequence))
    if not found:
        return Parsed([], sequence, start, False)
    last = found[-1]
    sealed = last.header.kind == SEAL
    return Parsed(found, last.header.sequence, _sealed_end(data, segment, last.end) if sealed else last.end, sealed)


def _sealed_end(data: memoryview, segment: int, end: int) -> int:
    """Behind the trailer: it is in the next page with room for it, or at the very end if the segment was filled up.

    A trailer of another segment is what a deleted file left in room used again.
    """
    next_page = min((end + TRAILER_SIZE + 4095) & -4096, len(data))
    trailers = [decode_trailer(data[:at]) for at in (next_page, len(data))]
    near, far = [trailer is not None and trailer.segment == segment for trailer in trailers]
    return len(data) if far and not near else next_page


def durable_evidence(data: memoryview, segment: int, key: int, start: int) -> int:
    """The highest durable_sequence of any valid frame at or behind `start`, in sequence or not (0: none)."""
    raw = bytes(data)
    highest = 0
    at = raw.find(MAGIC, start)
    while at >= 0:
        offset = at - 8
        header = decode_header(data, offset) if offset > 0 and offset % HEADER_SIZE == 0 else None
        if header is not None and frame_is_valid(data, offset, header, pack_address(segment, offset), key):
            highest = max(highest, header.durable_sequence)
        at = raw.find(MAGIC, at + 1)
    return highest
