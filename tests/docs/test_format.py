"""docs/format.md and the code say the same: examples, layouts, numbers, columns, limits."""

import importlib
import re
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import lz4.block
import pytest

from backends import device_format
from backends.device_format import decode_entry, decode_superblock
from sds.core import frame, keys, names, page, txn
from sds.core.address import block_of, offset_of, pack_address, segment_of
from sds.core.checkpoint_record import decode_checkpoint
from sds.core.frame import HEADER_SIZE, frame_is_valid, pool_key
from sds.core.node import decode_node
from sds.core.page import decode_page, decode_value
from sds.core.segment import SegmentHead, SegmentTrailer, decode_head, decode_trailer
from sds.core.txn import Put, decode_txn
from sds.filesystem.acl import decode_acl
from sds.filesystem.attributes import ROOT_INODE, Owner, decode_attr
from sds.filesystem.entries import decode_links, find
from sds.filesystem.inodes import SEED_KEY, load_chunks, load_counters, symlink_prefix, xattr_prefix
from sds.log.codec import decompress
from sds.log.stage import FileStage
from sds.pool.label import decode_label
from sds.pool.owner import decode_owner
from sds.pool.schema import metadata
from sds.pool.state import TABLES
from tests.docs import golden
from tests.filesystem.engine import Engine

TEXT = (Path(__file__).resolve().parents[2] / "docs/format.md").read_text()
LAYOUTS = (
    "HEAD", "TRAILER", "HEADER", "_HEAD", "_SNAPSHOT", "_VALUE", "PACK_HEAD", "TABLE", "ENTRY", "INDEX_ENTRY",
    "PACK_TRAILER",
)  # fmt: skip
KEY_HEADS = (("sds.core.keys", "_HEAD"), ("sds.filesystem.inodes", "_HEAD"))
SIZES = {"B": 1, "H": 2, "I": 4, "Q": 8, "q": 8}


def blocks(kind: str) -> dict[str, str]:
    found = re.findall(rf"^```{kind} (\S+)\n(.*?)\n```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len({name for name, _ in found}) == len(found), "a block is there twice"
    return dict(found)


GOLDEN = {name: bytes.fromhex(text) for name, text in blocks("golden").items()}


def rows(header: str, text: str = TEXT) -> list[list[str]]:
    """The rows of the one table with this header."""
    _, found, rest = text.partition(f"\n| {header} |\n")
    assert found, f"no table | {header} |"
    lines = rest.splitlines()[1:]
    end = next((at for at, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines[:end]]


def named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def field_sizes(layout: struct.Struct) -> Iterator[int]:
    for count, code in re.findall(r"(\d*)([A-Za-z])", layout.format):
        if code == "s":
            yield int(count)
        else:
            yield from [SIZES[code]] * int(count or 1)


def coded_sizes(layout: struct.Struct) -> list[tuple[str, int]]:
    """Of each field, and of what is between fields (x)."""
    found: list[tuple[str, int]] = []
    for count, code in re.findall(r"(\d*)([A-Za-z])", layout.format):
        found += [(code, int(count))] if code in "sx" else [(code, SIZES[code])] * int(count or 1)
    return found


def coded_offsets(layout: struct.Struct) -> list[tuple[str, int]]:
    sizes = coded_sizes(layout)
    return [(code, sum(size for _, size in sizes[:index])) for index, (code, _) in enumerate(sizes)]


def layout_tables() -> dict[str, list[list[str]]]:
    parts = re.split(r"Layout of\s+`(\S+)`:\n", TEXT)
    header = "off | size | field | meaning"
    return {path: rows(header, text) for path, text in zip(parts[1::2], parts[2::2], strict=True)}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[FileStage]:
    stage = FileStage(tmp_path / "stage", golden.POOL, golden.DATASET, 4, golden.SEGMENT_SIZE, golden.BOOT_ID)
    yield stage
    stage.close()


def test_every_example_is_what_the_code_writes(stage: FileStage) -> None:
    written = dict(golden.examples(stage))
    assert set(GOLDEN) == set(written)
    for name, data in written.items():
        assert GOLDEN[name] == data, f"docs/format.md must show for {name}:\n{golden.shown(data)}"
    assert blocks("golden-text") == dict(golden.texts())


def test_the_code_reads_every_example_of_a_segment() -> None:
    head = SegmentHead(golden.SEGMENT_SIZE, golden.POOL, golden.SEGMENT, golden.DATASET, golden.EPOCH, 0, 100)
    assert decode_head(GOLDEN["segment-head"]) == head
    assert decode_trailer(GOLDEN["segment-trailer"]) == SegmentTrailer(golden.SEGMENT, 12288, 104)
    address = int.from_bytes(GOLDEN["address"], "little")
    assert (segment_of(address), offset_of(address), block_of(address)) == (golden.SEGMENT, 128, 3)
    # The headers that the document shows, put back where it says they were, with the payloads that it describes.
    data = bytearray(16384)
    payloads = {8640: bytes(3584), 320: GOLDEN["frame-blocks"][HEADER_SIZE:] + b"\x01" * 4096 + b"\x02" * 4096}
    places = {128: "txn", 256: "zero", 320: "blocks", 8640: "pad", 12288: "seal"}
    payloads[12288] = b"".join(GOLDEN[f"frame-{name}"][:HEADER_SIZE] for name in list(places.values())[:4])
    for sequence, (offset, name) in enumerate(places.items(), 100):
        shown = GOLDEN[f"frame-{name}"]
        data[offset : offset + len(shown)] = shown
        if offset in payloads:
            data[offset + HEADER_SIZE : offset + HEADER_SIZE + len(payloads[offset])] = payloads[offset]
        header = frame.decode_header(data, offset)
        assert header is not None
        assert header.sequence == sequence
        where = pack_address(golden.SEGMENT, offset)
        assert frame_is_valid(memoryview(data), offset, header, where, pool_key(golden.POOL)), name


def test_the_code_reads_every_other_example() -> None:
    for name, operation in golden.OPERATIONS:
        assert decode_txn(GOLDEN[f"txn-{name}"]) == [operation]
    assert decode_checkpoint(GOLDEN["checkpoint"]) == golden.RECORD
    assert decode_node(GOLDEN["node-leaf"]) == golden.LEAF
    assert decode_node(GOLDEN["node-inner"]) == golden.INNER
    assert decode_page(GOLDEN["page-runs"]) == golden.runs_page()
    assert decode_page(GOLDEN["page-bitmap"]) == golden.bitmap_page()
    assert decode_page(GOLDEN["page-planes"]) == golden.planes_page()
    assert decode_value(GOLDEN["value-inline"]) == golden.runs_page()
    assert decode_value(GOLDEN["value-outside"]) == pack_address(golden.SEGMENT, 8192)
    assert keys.map_page_index(GOLDEN["key-map"]) == 5
    assert decode_label(blocks("golden-text")["label"].encode(), "/disk") == golden.LABEL
    assert names.parse_segment_name(blocks("golden-text")["segment-name"]).epoch == golden.EPOCH
    assert names.parse_pack_name(blocks("golden-text")["pack-name"]) == names.PackName(golden.FAMILY, golden.PACK)
    assert decode_owner(blocks("golden-text")["owner"].encode(), "/disk") == golden.OWNER


def test_the_code_reads_the_examples_of_a_raw_device() -> None:
    superblock, entry = (
        data[:-8].ljust(504, b"\0") + data[-8:] for data in (GOLDEN["device-superblock"], GOLDEN["device-entry"])
    )
    assert decode_superblock(superblock) == golden.DEVICE
    assert decode_entry(golden.DEVICE, golden.DEVICE_ENTRY.slot, entry) == golden.DEVICE_ENTRY


def test_tables_of_a_raw_device_are_those_of_its_structs() -> None:
    tables = {
        "superblock": device_format._SUPERBLOCK, "entry": device_format._ENTRY, "generation": device_format._GENERATION,
    }  # fmt: skip
    for name, layout in tables.items():
        offset = 0
        found = rows(f"{name}: off | size | meaning")
        sizes = [size for code, size in coded_sizes(layout) if code != "x"]
        offsets = [at for code, at in coded_offsets(layout) if code != "x"]
        for row, at, size in zip(found[: len(sizes)], offsets, sizes, strict=True):
            assert (int(row[0]), int(row[1])) == (at, size), f"{name}: {row}"
            offset = at + size
        if len(found) > len(sizes):
            assert int(found[-1][0]) == offset, f"{name}: {found[-1]}"


def test_the_code_reads_every_example_of_a_filesystem() -> None:
    assert decode_attr(2, GOLDEN["value-attr"]) == golden.ATTR
    assert decode_links(GOLDEN["value-dirent"], ROOT_INODE) == golden.LINKS[:1]
    assert decode_links(GOLDEN["value-dirents"], ROOT_INODE) == golden.LINKS
    assert list(decode_acl(GOLDEN["value-acl"])) == list(golden.ACL)
    assert decode_checkpoint(GOLDEN["checkpoint-filesystem"]) == golden.FILESYSTEM_RECORD
    written = golden.Written({
        GOLDEN["key-counters"]: GOLDEN["value-counters"],
        GOLDEN["key-dirent"]: GOLDEN["value-dirent"],
        GOLDEN["key-symlink"]: b"target",
        GOLDEN["key-xattr"]: b"value",
    })
    seed = int.from_bytes(GOLDEN["value-seed"], "little")
    assert load_counters(written) == golden.COUNTERS
    assert find(written, seed, ROOT_INODE, b"file") == golden.LINKS[0]
    assert find(written, seed, ROOT_INODE, b"other") is None
    assert load_chunks(written, symlink_prefix(3)) == b"target"
    assert load_chunks(written, xattr_prefix(2, b"user.name")) == b"value"
    assert GOLDEN["key-seed"] == SEED_KEY
    kinds = [("key-dirent", "DIRENT"), ("key-symlink", "SYMLINK"), ("key-xattr", "XATTR"), ("key-orphan", "ORPHAN")]
    for name, kind in [*kinds, ("key-counters", "PROPERTY"), ("key-seed", "PROPERTY")]:
        assert keys.split_key(GOLDEN[name])[1] == getattr(keys, kind)
    puts = [(GOLDEN["key-counters"], GOLDEN["value-counters"]), (GOLDEN["key-dirent"], GOLDEN["value-dirent"])]
    assert decode_txn(GOLDEN["txn-create"]) == [Put(key, value) for key, value in puts]


def test_a_filesystem_has_items_of_the_kinds_in_the_document_and_no_others() -> None:
    """A file with an extended attribute, a link, a larger file that goes while it is open."""
    engine, owner = Engine(), Owner(0, 0)
    with closing(engine):
        engine.fs("create", ROOT_INODE, b"small", 0o644, owner)
        engine.fs("write", 2, 0, b"contents")
        engine.fs("setxattr", 2, b"user.name", b"value")
        engine.fs("symlink", ROOT_INODE, b"link", b"target", owner)
        engine.fs("create", ROOT_INODE, b"large", 0o644, owner)
        engine.fs("write", 4, 0, bytes(8192))
        engine.fs("unlink", ROOT_INODE, b"large")
        engine.checkpoint()
        stored = engine.dataset.items.all(bytes(9), b"\xff" * 9)
    names = {int(row[1]): row[0] for row in rows("kind | number | suffix | value")}
    found = [(inode, names[kind]) for inode, kind, _ in (keys.split_key(name) for name, _ in stored)]
    assert found == [
        (0, "ORPHAN"), (0, "PROPERTY"), (0, "PROPERTY"), (1, "ATTR"), (1, "DIRENT"), (1, "DIRENT"), (2, "ATTR"),
        (2, "XATTR"), (2, "INLINE"), (3, "ATTR"), (3, "SYMLINK"), (4, "ATTR"), (4, "MAP"),
    ]  # fmt: skip
    assert set(names.values()) == {kind for _, kind in found}


def test_layouts_are_those_of_the_structs() -> None:
    tables = layout_tables()
    structs = {path: named(path) for path in tables}
    assert len(tables) == 13
    for path, layout in structs.items():
        offset = 0
        for row, size in zip(tables[path], field_sizes(layout), strict=True):
            assert (int(row[0]), int(row[1])) == (offset, size), f"{path}: {row}"
            offset += size
        assert offset == layout.size


def test_every_struct_with_a_name_like_these_has_a_table() -> None:
    """A new structure of the format cannot be forgotten here."""
    root = Path(__file__).resolve().parents[2]
    found = set()
    for path in (path for name in ("core", "log", "filesystem") for path in (root / "sds" / name).glob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        for name in re.findall(r"^(\w+)(?:: Final)? = struct\.Struct", path.read_text(), re.MULTILINE):
            if name in LAYOUTS and (module, name) not in KEY_HEADS:
                found.add(f"{module}.{name}")
    assert found == set(layout_tables())


def test_fields_are_called_in_the_document_as_in_the_code() -> None:
    """Tables in docstrings: offset, size, name of each field in the same order."""
    for path, table in layout_tables().items():
        module = importlib.import_module(path.rpartition(".")[0])
        said = re.findall(r"^\s+(\d+)\s+(\d+) (\S+(?: \S+)*)", module.__doc__ or "", re.MULTILINE)
        for row in table:
            wanted = row[2].replace("_", " ")
            found = [name.replace("_", " ") for off, size, name in said if (off, size) == (row[0], row[1])]
            assert any(name.startswith(wanted) for name in found), f"{path}: {row}, the code says {found}"


def test_numbers_of_kinds_codecs_operations_and_forms() -> None:
    kinds = rows("kind | number | payload")
    assert {int(row[1]) for row in kinds} == frame.KINDS
    codecs = rows("codec | number | payload")
    assert {int(row[1]) for row in codecs} == frame.CODECS
    for name, number, *_ in (*kinds, *codecs):
        assert getattr(frame, name) == int(number)
    operations = rows("tag | operation | fields (bytes) | example")
    assert {int(row[0]) for row in operations} == set(txn._DECODERS)
    for (tag, name, *_), (key, operation) in zip(operations, golden.OPERATIONS, strict=True):
        assert name == key.upper().replace("-", "_")
        assert txn.encode_txn([operation])[0] == int(tag)
    for name, number, *_ in rows("kind | number | suffix | value"):
        assert getattr(keys, name) == int(number)
    for name, number, *_ in rows("form | number | rest"):
        assert getattr(page, f"_{name}") == int(number)


def test_codecs_that_others_define_are_read_as_stated() -> None:
    plain = bytes(range(256)) * 16
    assert decompress(frame.LZ4, lz4.block.compress(plain, store_size=False), len(plain), "here") == plain
    # One zstd frame: magic, single segment with its size, a block of one repeated byte.
    zstd = bytes.fromhex("28b52ffd") + bytes.fromhex("60000f") + bytes.fromhex("038000") + b"\xab"
    assert decompress(frame.ZSTD, zstd, 4096, "here") == b"\xab" * 4096


def test_columns_of_the_catalog_are_those_of_the_schema() -> None:
    table = {row[0].strip("`"): re.findall(r"`(\w+)`", row[2]) for row in rows("table | one row per | columns")}
    assert table == {name: [column.name for column in it.columns] for name, it in metadata.tables.items()}
    assert {it.name for it in TABLES} == set(table) - {"segment", "progress"}


def test_limits_are_those_of_the_code() -> None:
    for path, value, _ in rows("constant | value | meaning"):
        assert named(path.strip("`")) == int(value), path
