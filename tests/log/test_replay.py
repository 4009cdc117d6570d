"""Where the log in one segment ends."""

from sds.core.frame import DATA, RAW
from sds.core.segment import SegmentTrailer, decode_trailer, encode_trailer
from sds.log.open_segment import OpenSegment
from sds.log.replay import durable_evidence, parse

KEY = 7
POOL = bytes(16)
BLOCK = bytes(4096)


def segment(size: int) -> OpenSegment:
    made = OpenSegment(
        id=5, dataset=1, epoch=1, key=KEY, slot=0, view=memoryview(bytearray(size)), copies=(1,), reserved=False
    )
    made.begin(POOL, 0, 1)
    return made


def filled(size: int, leave: int) -> OpenSegment:
    """With blocks until less than `leave` bytes are left."""
    made = segment(size)
    sequence = 0
    while size - made.tail > leave:
        sequence += 1
        made.append(DATA, RAW, 0, 1, BLOCK, 4096, 1, sequence, sequence, sequence - 1)
    return made


def test_a_sealed_segment_ends_behind_its_trailer_wherever_that_is() -> None:
    """A segment that is nearly full is filled up, another is cut: the trailer stays in both."""
    size = 1 << 20
    for leave in (30_000, size // 2):
        made = filled(size, leave)
        made.seal(made.last_sequence + 1, 0)
        found = parse(made.view, 5, KEY, 128, 0)
        assert found.sealed
        assert found.end == made.tail
        assert decode_trailer(made.view[: found.end]) is not None


def test_a_frame_with_a_flipped_bit_ends_the_log_and_what_lies_behind_it_is_evidence() -> None:
    made = filled(1 << 16, 30_000)
    third = made.offsets[2]
    for bit in range(0, 8 * 64, 5):
        made.view[third + bit // 8] ^= 1 << bit % 8
        found = parse(made.view, 5, KEY, 128, 0)
        made.view[third + bit // 8] ^= 1 << bit % 8
        assert found.sequence == 2
        assert found.end == third
    made.view[third] ^= 1
    assert durable_evidence(made.view, 5, KEY, third) == made.last_sequence - 1


def test_frames_of_another_segment_or_pool_do_not_count() -> None:
    made = filled(1 << 16, 30_000)
    assert parse(made.view, 6, KEY, 128, 0).frames == []
    assert parse(made.view, 5, KEY + 1, 128, 0).frames == []
    assert parse(made.view, 5, KEY, 128, 1).frames == []


def test_a_trailer_of_an_earlier_tenant_is_not_the_end_of_this_segment() -> None:
    """Room of a deleted segment, used again; the power failed between SEAL frame and trailer."""
    size = 1 << 20
    made = filled(size, size // 2)
    made.seal(made.last_sequence + 1, 0)
    made.view[made.tail - 64 : made.tail] = bytes(64)
    made.view[size - 64 :] = encode_trailer(SegmentTrailer(4, 128, 1))
    assert parse(made.view, 5, KEY, 128, 0).end == made.tail
