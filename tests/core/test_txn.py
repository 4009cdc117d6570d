"""TXN and CHECKPOINT payloads: golden bytes, round trips, and no input that hurts the decoders."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sds.core.checkpoint_record import (
    RECORD_SIZE_MAX,
    CheckpointRecord,
    Kind,
    SnapshotRecord,
    decode_checkpoint,
    encode_checkpoint,
)
from sds.core.errors import Corrupt
from sds.core.txn import (
    Delete,
    Drop,
    Operation,
    Put,
    Resize,
    Rollback,
    Snapshot,
    Unmap,
    decode_txn,
    encode_txn,
)

U64 = st.integers(0, (1 << 64) - 1)
SIZES = st.integers(0, (1 << 63) - 1)
KEYS = st.binary(min_size=1, max_size=40)
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789._-é", min_size=1, max_size=31)
OPERATIONS = st.one_of(
    st.builds(Unmap, U64, st.integers(0, 1 << 50), st.integers(1, 1 << 50)),
    st.builds(Resize, SIZES),
    st.builds(Snapshot, U64, NAMES),
    st.builds(Rollback, U64, U64, SIZES),
    st.builds(Put, KEYS, st.binary(max_size=300)),
    st.builds(Delete, KEYS),
    st.builds(Drop, st.integers(0, (1 << 64) - 1)),
)
SNAPSHOTS = st.lists(
    st.builds(SnapshotRecord, U64, NAMES, U64, U64, SIZES, U64), max_size=4, unique_by=lambda s: s.snapshot_id
).map(lambda all_: tuple(sorted(all_, key=lambda s: s.snapshot_id)))
RECORDS = st.builds(
    CheckpointRecord, U64, st.sampled_from(Kind), NAMES, U64, U64, SIZES, U64, st.integers(0, 1 << 25), U64,
    SNAPSHOTS
)
PAYLOADS = st.lists(OPERATIONS, min_size=1, max_size=4).map(encode_txn) | RECORDS.map(encode_checkpoint)

GOLDEN: list[tuple[Operation, str]] = [
    (Unmap(1, 2, 3), "01" + "0100000000000000" + "0200000000000000" + "0300000000000000"),
    (Resize(1 << 40), "02" + "0000000000010000"),
    (Snapshot(9, "abc"), "03" + "0900000000000000" + "03" + "616263"),
    (Rollback(9, 0x20, 4096), "04" + "0900000000000000" + "2000000000000000" + "0010000000000000"),
    (Put(b"k", b"vv"), "05" + "0100" + "0200" + "6b" + "7676"),
    (Delete(b"k"), "06" + "0100" + "6b"),
    (Drop(0x0102), "07" + "0201000000000000"),
]
RECORD = CheckpointRecord(
    7, Kind.VOLUME, "vm1", 0x1122, 99, 1 << 30, 5, 4096, 12, (SnapshotRecord(3, "s", 0x20, 50, 4096, 1),)
)
RECORD_BYTES = (
    "01" + "01" + "0700000000000000" + "2211000000000000" + "6300000000000000" + "0000004000000000"
    + "0500000000000000" + "00100000" + "0c00000000000000" + "01000000" + "03" + "766d31"
    + "0300000000000000" + "2000000000000000" + "3200000000000000" + "0010000000000000" + "0100000000000000"
    + "01" + "73"
)  # fmt: skip


@pytest.mark.parametrize(("operation", "encoded"), GOLDEN)
def test_the_stored_form_of_an_operation_never_changes(operation: Operation, encoded: str) -> None:
    assert encode_txn([operation]).hex() == encoded
    assert decode_txn(bytes.fromhex(encoded)) == [operation]


def test_the_stored_form_of_a_checkpoint_never_changes() -> None:
    assert encode_checkpoint(RECORD).hex() == RECORD_BYTES
    assert decode_checkpoint(bytes.fromhex(RECORD_BYTES)) == RECORD


@given(st.lists(OPERATIONS, min_size=1, max_size=6))
def test_operations_come_back_in_order(operations: list[Operation]) -> None:
    assert decode_txn(encode_txn(operations)) == operations


@given(RECORDS)
def test_a_checkpoint_comes_back(record: CheckpointRecord) -> None:
    encoded = encode_checkpoint(record)
    assert len(encoded) <= RECORD_SIZE_MAX
    assert decode_checkpoint(encoded) == record


@settings(max_examples=400, deadline=None)
@given(PAYLOADS, st.data())
def test_damaged_payloads_are_corrupt_or_a_value_stored_like_that(data: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 3))):
        damaged[draw.draw(st.integers(0, len(damaged) - 1))] = draw.draw(st.integers(0, 255))
    check_hostile(bytes(damaged[: draw.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))]))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_corrupt_or_a_value(data: bytes) -> None:
    check_hostile(data)


def check_hostile(data: bytes) -> None:
    try:
        assert encode_txn(decode_txn(data, "frame 7")) == data
    except Corrupt as error:
        message = str(error)
        assert "frame 7" in message
    try:
        assert encode_checkpoint(decode_checkpoint(data, "frame 7")) == data
    except Corrupt as error:
        message = str(error)
        assert "frame 7" in message


@pytest.mark.parametrize(
    ("why", "encoded"),
    [
        ("nothing", ""),
        ("unknown operation", "08" + "00" * 24),
        ("unmap of nothing", "01" + "00" * 24),
        ("unmap beyond every volume", "01" + "00" * 8 + "ff" * 8 + "01" + "00" * 7),
        ("a size of 2**64 - 1", "02" + "ff" * 8),
        ("no name", "03" + "00" * 9),
        ("a name that is not UTF-8", "03" + "00" * 8 + "01" + "ff"),
        ("an empty key", "06" + "0000"),
        ("a value too large", "05" + "0100" + "ffff" + "00" * 65536),
        ("a range that is none", "07" + "0100" + "0100" + "61" + "61"),
        ("half an operation more", "06" + "0100" + "6b" + "0601"),
    ],
)
def test_malformed_operations_are_refused(why: str, encoded: str) -> None:
    with pytest.raises(Corrupt, match="TXN frame"):
        decode_txn(bytes.fromhex(encoded))


@pytest.mark.parametrize(
    ("why", "at", "patch"),
    [
        ("a newer version", 0, "02"),
        ("an unknown kind", 1, "03"),
        ("a size of 2**63", 26, "0000000000000080"),
        ("4 billion snapshots", 54, "ffffffff"),
        ("a snapshot more than there are", 54, "02000000"),
        ("a snapshot less than there are", 54, "00000000"),
        ("no name", 58, "00"),
        ("a long name", 58, "ff"),
    ],
)
def test_malformed_checkpoints_are_refused(why: str, at: int, patch: str) -> None:
    new = bytes.fromhex(patch)
    data = bytes.fromhex(RECORD_BYTES)
    with pytest.raises(Corrupt, match="CHECKPOINT frame"):
        decode_checkpoint(data[:at] + new + data[at + len(new) :])
