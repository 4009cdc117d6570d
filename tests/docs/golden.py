"""The worked examples of docs/format.md: the values that it states, encoded by the code.

`python -m tests.docs.golden` prints every block as the document has to show it.
"""

from array import array
from collections.abc import Iterator
from dataclasses import replace

from backends.device_format import Entry, encode_entry, encode_superblock, layout
from sds.core import pack
from sds.core.address import pack_address
from sds.core.checkpoint_record import CheckpointRecord, Kind, SnapshotRecord, encode_checkpoint
from sds.core.frame import BLOCKS, DATA, HEADER_SIZE, RAW, TXN, ZERO, pool_key
from sds.core.keys import map_key
from sds.core.names import pack_name, segment_name
from sds.core.node import Node, encode_node
from sds.core.pack import MemberHead, PackBuilder, PackHead, decode_index, decode_pack_trailer
from sds.core.page import PAGE_BLOCKS, encode_page, inline_value, new_page, outside_value
from sds.core.segment import HEAD_SIZE, TRAILER_SIZE
from sds.core.txn import Delete, Drop, Operation, Put, Resize, Rollback, Snapshot, Unmap, encode_txn
from sds.filesystem.acl import GROUP_OBJ, ID_NONE, MASK, OTHER, USER, USER_OBJ, AclEntry, encode_acl
from sds.filesystem.attributes import INLINE, ROOT_INODE, Attr, encode_attr
from sds.filesystem.entries import Link, encode_links, entry_key, hash_of
from sds.filesystem.inodes import (
    COUNTERS_KEY,
    SEED_KEY,
    Counters,
    orphan_key,
    store_chunks,
    store_counters,
    symlink_prefix,
    xattr_prefix,
)
from sds.log.open_segment import OpenSegment
from sds.log.stage import FileStage
from sds.pool.label import Label, encode_label
from sds.pool.owner import IN_USE, OwnerRecord, encode_owner

POOL = bytes(range(16))
SEGMENT_SIZE = 64 << 10
SEGMENT, DATASET, EPOCH, FIRST_SEQUENCE = 7, 1, 2, 100
BOOT_ID = "01234567-89ab-cdef-0123-456789abcdef"
LINE_BYTES = 32

OPERATIONS: tuple[tuple[str, Operation], ...] = (
    ("unmap", Unmap(1, 8, 16)),
    ("resize", Resize(1 << 30)),
    ("snapshot", Snapshot(3, "daily")),
    ("rollback", Rollback(3, pack_address(SEGMENT, 128), 1 << 30)),
    ("put", Put(b"key", b"value")),
    ("delete", Delete(b"key")),
    ("drop", Drop(7)),
)
RECORD = CheckpointRecord(
    dataset_id=1, kind=Kind.VOLUME, name="vm", root=pack_address(SEGMENT, 128), sequence=99, size_bytes=1 << 30,
    replay_segment=SEGMENT, replay_offset=4096, mapped_blocks=5,
    snapshots=(SnapshotRecord(3, "daily", pack_address(5, 64), 42, 1 << 30, 1_700_000_000 * 10**9),),
)  # fmt: skip
FILESYSTEM_RECORD = replace(RECORD, kind=Kind.FILESYSTEM, name="home", size_bytes=0, snapshots=())
SEED = 0x0123456789ABCDEF
SECOND_NS = 1_700_000_000 * 10**9
ATTR = Attr(
    inode=2, flags=INLINE, mode=0o100644, nlink=1, uid=1000, gid=1000, rdev=0, size_bytes=5, blocks=0,
    parent=ROOT_INODE, atime_ns=SECOND_NS + 1, mtime_ns=SECOND_NS + 2, ctime_ns=SECOND_NS + 3,
    btime_ns=SECOND_NS + 4,
)  # fmt: skip
LINKS = [Link(2, 8, b"file", 0), Link(3, 4, b"directory", 1)]
COUNTERS = Counters(next_inode=4, inodes=3)
ACL = (
    AclEntry(USER_OBJ, 7, ID_NONE), AclEntry(USER, 4, 1000), AclEntry(GROUP_OBJ, 4, ID_NONE),
    AclEntry(MASK, 4, ID_NONE), AclEntry(OTHER, 0, ID_NONE),
)  # fmt: skip
LEAF = Node(0, [map_key(1, 0), map_key(1, 5)], [b"\0\1", b"\0\2\3"])
INNER = Node(1, [map_key(1, 0), map_key(1, 900)], children=[pack_address(7, 128), pack_address(7, 4096)])
FAMILY, PACK = 3, 9
DEVICE = layout(64 << 20, bytes(range(16, 32)))
DEVICE_ENTRY = Entry(3, 5, segment_name(DATASET, SEGMENT, EPOCH), SEGMENT_SIZE, ((2, 1),))
OWNER = OwnerRecord(bytes(range(32, 48)).hex(), "node-1", 2, 17, IN_USE, 1_700_000_000)
LABEL = Label(POOL.hex(), "tank", bytes(range(16, 32)).hex(), 1_700_000_000)


def example_segment() -> OpenSegment:
    """Three operations, a flush (PAD), SEAL and trailer, in a segment of the smallest size."""
    view = memoryview(bytearray(SEGMENT_SIZE))
    segment = OpenSegment(
        id=SEGMENT, dataset=DATASET, epoch=EPOCH, key=pool_key(POOL), slot=0, view=view, copies=(1,), reserved=False
    )
    segment.begin(POOL, 0, FIRST_SEQUENCE)
    resize = encode_txn([Resize(1 << 30)])
    segment.append(TXN, RAW, 0, 0, resize, len(resize), 0, 0, 100, 99)
    segment.append(DATA, ZERO, 0, 2, b"", 8192, 1, 16, 101, 99)
    segment.append(DATA, BLOCKS, 0, 2, b"\x01" * 4096 + b"\x02" * 4096, 8192, 1, 0, 102, 99)
    segment.pad(103, 99)
    segment.seal(104, 103)
    return segment


def example_pack() -> bytes:
    """Two frames of the example segment, the later one first."""
    segment = example_segment()
    members = [MemberHead(SEGMENT, DATASET, EPOCH, 1)]
    builder = PackBuilder(PackHead(POOL, FAMILY, PACK), members, memoryview(bytearray(SEGMENT_SIZE)))
    for offset in (320, 128):
        builder.add(SEGMENT, offset, segment.view[offset:])
    return bytes(builder.finish().data)


def of_a_pack(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Its parts without the frames."""
    trailer = decode_pack_trailer(data[-pack.TRAILER_SIZE:], len(data))
    index = data[trailer.index_offset : trailer.index_offset + trailer.index_bytes]
    entry = decode_index(index, trailer, pool_key(POOL))[0]
    yield "pack-head", data[:pack.HEAD_SIZE]
    yield "pack-table", data[entry.base : entry.base + entry.table_bytes]
    yield "pack-index", index
    yield "pack-trailer", data[-pack.TRAILER_SIZE:]


def of_a_device() -> Iterator[tuple[str, bytes]]:
    for name, sector, end in (
        ("device-superblock", encode_superblock(DEVICE), 40), ("device-entry", encode_entry(DEVICE, DEVICE_ENTRY), 152),
    ):  # fmt: skip
        assert not any(sector[end:504])
        yield name, sector[:end] + sector[504:]


def runs_page() -> "array[int]":
    page = new_page()
    page[0:3] = array("Q", [pack_address(7, 128) + block for block in range(3)])
    page[100] = pack_address(9, 4096)
    return page


def bitmap_page() -> "array[int]":
    page = new_page()
    for number in range(8):
        page[16 * number] = pack_address(0x0102, 4160 * (number + 1))
    return page


def planes_page() -> "array[int]":
    """Every entry mapped, only the lowest byte varies."""
    return array("Q", [pack_address(0x0102, 1 << 14) + PAGE_BLOCKS - 1 - entry for entry in range(PAGE_BLOCKS)])


def stage_header(stage: FileStage) -> bytes:
    return stage.path.read_bytes()[:92]


class Written(dict[bytes, bytes]):
    """What a filesystem puts, as its functions put it."""

    def put(self, key: bytes, value: bytes) -> None:
        self[key] = value

    def delete(self, key: bytes) -> None:
        del self[key]


def of_a_filesystem() -> Iterator[tuple[str, bytes]]:
    entry = entry_key(ROOT_INODE, hash_of(b"file", SEED))
    chunks, counters = Written(), Written()
    store_chunks(chunks, symlink_prefix(3), b"target")
    store_chunks(chunks, xattr_prefix(2, b"user.name"), b"value")
    store_counters(counters, COUNTERS)
    yield "value-attr", encode_attr(ATTR)
    yield "key-dirent", entry
    yield "value-dirent", encode_links(LINKS[:1])
    yield "value-dirents", encode_links(LINKS)
    yield from zip(("key-symlink", "key-xattr"), chunks, strict=True)
    yield "value-acl", encode_acl(ACL)
    yield "key-orphan", orphan_key(2)
    yield "key-counters", COUNTERS_KEY
    yield "value-counters", counters[COUNTERS_KEY]
    yield "key-seed", SEED_KEY
    yield "value-seed", SEED.to_bytes(8, "little")
    yield "txn-create", encode_txn([Put(COUNTERS_KEY, counters[COUNTERS_KEY]), Put(entry, encode_links(LINKS[:1]))])
    yield "checkpoint-filesystem", encode_checkpoint(FILESYSTEM_RECORD)


def examples(stage: FileStage) -> Iterator[tuple[str, bytes]]:
    """Name of the block in the document, and its bytes. `stage`: for POOL and DATASET, 4 slots of SEGMENT_SIZE."""
    yield "address", pack_address(SEGMENT, 128, 3).to_bytes(8, "little")
    segment = example_segment()
    view, (txn, zero, blocks, pad, seal) = bytes(segment.view), segment.offsets
    yield "segment-head", view[:HEAD_SIZE]
    yield "frame-txn", view[txn:zero]
    yield "frame-zero", view[zero:blocks]
    yield "frame-blocks", view[blocks : blocks + HEADER_SIZE + 16]
    yield "frame-pad", view[pad : pad + HEADER_SIZE]
    yield "frame-seal", view[seal : seal + HEADER_SIZE]
    yield "segment-trailer", view[segment.tail - TRAILER_SIZE : segment.tail]
    for name, operation in OPERATIONS:
        yield f"txn-{name}", encode_txn([operation])
    yield "checkpoint", encode_checkpoint(RECORD)
    yield "key-map", map_key(1, 5)
    yield "node-leaf", encode_node(LEAF)
    yield "node-inner", encode_node(INNER)
    yield "page-runs", encode_page(runs_page())
    yield "page-bitmap", encode_page(bitmap_page())
    yield "page-planes", encode_page(planes_page())
    yield "value-inline", inline_value(encode_page(runs_page()))
    yield "value-outside", outside_value(pack_address(7, 8192), 100)
    yield from of_a_filesystem()
    yield "stage-header", stage_header(stage)
    yield from of_a_pack(example_pack())
    yield from of_a_device()


def texts() -> Iterator[tuple[str, str]]:
    yield "segment-name", segment_name(DATASET, SEGMENT, EPOCH)
    yield "pack-name", pack_name(FAMILY, PACK)
    yield "owner", encode_owner(OWNER).decode().rstrip("\n")
    yield "label", encode_label(LABEL).decode().rstrip("\n")


def shown(data: bytes) -> str:
    """Lines of hex as the document shows them."""
    return "\n".join(data[at : at + LINE_BYTES].hex() for at in range(0, len(data), LINE_BYTES))


def main() -> None:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as directory:
        stage = FileStage(Path(directory) / "stage", POOL, DATASET, 4, SEGMENT_SIZE, BOOT_ID)
        for name, data in examples(stage):
            print(f"```golden {name}\n{shown(data)}\n```\n")
        stage.close()
    for name, text in texts():
        print(f"```golden-text {name}\n{text}\n```\n")


if __name__ == "__main__":
    main()
