"""The code reads the example of a pack in docs/format.md; the layouts that sds.core.pack states are its structs."""

import re
import struct

from sds.core import pack
from sds.core.frame import decode_header, frame_is_valid, pool_key
from sds.core.pack import (
    HEAD_SIZE,
    MemberHead,
    PackHead,
    Placed,
    decode_index,
    decode_pack_head,
    decode_pack_trailer,
    decode_table,
)
from sds.maintenance.verify import verify_pack
from sds.pool.rows import SegmentRow
from tests.docs import golden
from tests.docs.test_format import GOLDEN

KEY = pool_key(golden.POOL)
SIZES = {"B": 1, "H": 2, "I": 4, "Q": 8}
LAYOUTS = {
    "Head": pack.PACK_HEAD, "Table": pack.TABLE, "      0    4 old_offset": pack.ENTRY, "Index": pack.INDEX_ENTRY,
    "Trailer": pack.PACK_TRAILER,
}  # fmt: skip


def test_the_code_reads_the_example() -> None:
    stored = {name.removeprefix("pack-"): data for name, data in GOLDEN.items() if name.startswith("pack-")}
    assert decode_pack_head(stored["head"]) == PackHead(golden.POOL, golden.FAMILY, golden.PACK)
    trailer = decode_pack_trailer(stored["trailer"], 12288)
    entry = decode_index(stored["index"], trailer, KEY)[0]
    table = decode_table(stored["table"], entry.base, KEY)
    assert table.head.member == MemberHead(golden.SEGMENT, golden.DATASET, golden.EPOCH, 1)
    frames = table.frames()
    assert frames[1] == Placed(320, HEAD_SIZE, 64 + 16 + 8192 + 48)
    assert frames[0].old_offset == 128
    assert frames[0].new_offset == frames[1].new_offset + frames[1].length
    assert entry.base == frames[0].new_offset + frames[0].length
    data = memoryview(golden.example_pack())
    for frame in frames:
        header = decode_header(data, frame.new_offset)
        assert header is not None
        address = golden.SEGMENT << 24 | frame.old_offset >> 1
        assert frame_is_valid(data, frame.new_offset, header, address, KEY)
    row = SegmentRow(
        golden.SEGMENT,
        golden.DATASET,
        golden.EPOCH,
        (1,),
        True,
        12288,
        golden.FAMILY,
        1,
        table.head.blocks,
        golden.PACK,
        entry.base,
    )
    assert verify_pack(data, [row], golden.FAMILY, golden.POOL, KEY).ok


def field_sizes(layout: struct.Struct) -> list[int]:
    found: list[int] = []
    for count, code in re.findall(r"(\d*)([A-Za-z])", layout.format):
        found += [int(count)] if code == "s" else [SIZES[code]] * int(count or 1)
    return found


def test_the_layouts_in_the_document_of_the_module_are_those_of_the_structs() -> None:
    text = pack.__doc__ or ""
    for title, layout in LAYOUTS.items():
        _, found, rest = text.partition(f"\n{title}")
        assert found, title
        rows = re.findall(r"(?m)^\s+(\d+)\s+(\d+) \S+", found + rest)[: len(field_sizes(layout))]
        offset = 0
        for row, size in zip(rows, field_sizes(layout), strict=True):
            assert (int(row[0]), int(row[1])) == (offset, size), f"{title}: {row}"
            offset += size
        assert offset == layout.size
