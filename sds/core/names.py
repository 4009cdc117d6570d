"""Names that users give (`pool`, `pool/dataset`, `pool/dataset@snapshot`) and the names of segments on
backends.

  N1  A pool, dataset or snapshot name matches [a-z0-9][a-z0-9._-]{0,62}: safe as a file name, in a URL and
      in a shell.
  N2  parse_segment_name accepts exactly what segment_name writes: one spelling per segment, no leading junk.

Segment name:  segments/DDDDDDDD/SSSSSSSSSS-EEEEEEEE     dataset id (32 bits), segment id (40), epoch (32),
lower-case hex
"""

import re
from dataclasses import dataclass

from sds.core.address import SEGMENT_ID_MAX
from sds.core.errors import BadInput
from sds.core.units import shown

SEGMENT_PREFIX = "segments/"
PACK_PREFIX = "packs/"
DATASET_ID_MAX = (1 << 32) - 1
EPOCH_MAX = (1 << 32) - 1

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_SEGMENT = re.compile(r"segments/([0-9a-f]{8})/([0-9a-f]{10})-([0-9a-f]{8})", re.ASCII)
_PACK = re.compile(rf"{PACK_PREFIX}([0-9a-f]{{8}})/([0-9a-f]{{10}})")
_RULE = "use 1 to 63 of a-z 0-9 . _ - and begin with a letter or digit"


@dataclass(frozen=True, slots=True)
class Target:
    """What a command names: a dataset, or one of its snapshots."""

    pool: str
    dataset: str
    snapshot: str | None = None

    def __str__(self) -> str:
        base = f"{self.pool}/{self.dataset}"
        return base if self.snapshot is None else f"{base}@{self.snapshot}"


@dataclass(frozen=True, slots=True)
class SegmentName:
    dataset: int
    segment: int
    epoch: int


def check_name(what: str, name: str) -> str:
    """The name itself if it is legal; `what` says in the message what it should name."""
    if _NAME.fullmatch(name) is None:
        raise BadInput(f"{shown(name)} is not a {what} name: {_RULE}")
    return name


def parse_pool(text: str) -> str:
    return check_name("pool", text)


def parse_target(text: str) -> Target:
    """POOL/DATASET or POOL/DATASET@SNAPSHOT."""
    path, at, snapshot = text.partition("@")
    pool, slash, dataset = path.partition("/")
    if not slash or "/" in dataset:
        raise BadInput(f"{shown(text)} names no dataset: write POOL/DATASET or POOL/DATASET@SNAPSHOT")
    check_name("pool", pool)
    check_name("dataset", dataset)
    return Target(pool, dataset, check_name("snapshot", snapshot) if at else None)


def parse_dataset(text: str) -> Target:
    """POOL/DATASET, no snapshot."""
    if "@" in text:
        raise BadInput(f"{shown(text)} names a snapshot: write POOL/DATASET here")
    return parse_target(text)


def parse_snapshot(text: str) -> Target:
    """POOL/DATASET@SNAPSHOT."""
    if "@" not in text:
        raise BadInput(f"{shown(text)} names no snapshot: write POOL/DATASET@SNAPSHOT")
    return parse_target(text)


def segment_name(dataset: int, segment: int, epoch: int) -> str:
    """The name of a segment's file on every backend that has a copy."""
    assert 0 < dataset <= DATASET_ID_MAX
    assert 0 < segment <= SEGMENT_ID_MAX
    assert 0 < epoch <= EPOCH_MAX
    return f"{SEGMENT_PREFIX}{dataset:08x}/{segment:010x}-{epoch:08x}"


def parse_segment_name(name: str) -> SegmentName:
    """BadInput for whatever segment_name cannot have written."""
    match = _SEGMENT.fullmatch(name)
    if match is None:
        raise BadInput(f"{shown(name)} is not a segment name: expected segments/<dataset>/<segment>-<epoch>")
    parsed = SegmentName(*(int(part, 16) for part in match.groups()))
    if 0 in (parsed.dataset, parsed.segment, parsed.epoch):
        raise BadInput(f"{shown(name)} is not a segment name: dataset, segment and epoch begin at 1")
    return parsed


@dataclass(frozen=True, slots=True)
class PackName:
    family: int
    pack: int


def pack_name(family: int, pack: int) -> str:
    """The name of a pack of cleaned segments on every backend that has a copy."""
    assert 0 < family <= DATASET_ID_MAX
    assert 0 < pack <= SEGMENT_ID_MAX
    return f"{PACK_PREFIX}{family:08x}/{pack:010x}"


def parse_pack_name(name: str) -> PackName:
    """BadInput for whatever pack_name cannot have written."""
    match = _PACK.fullmatch(name)
    if match is None or 0 in (int(match[1], 16), int(match[2], 16)):
        raise BadInput(f"{shown(name)} is not the name of a pack: expected packs/<family>/<pack>, both from 1")
    return PackName(int(match[1], 16), int(match[2], 16))
