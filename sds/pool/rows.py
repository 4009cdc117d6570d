"""What the catalog hands out: frozen rows. Ids are integers that are never reused within a pool."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

DatasetKind = Literal["volume", "fs"]


MAYBE_LOST, SURELY_LOST = 1, 2


@dataclass(frozen=True, slots=True)
class PoolRow:
    uuid: bytes
    """16 bytes."""
    name: str
    segment_size: int
    copies: int
    format_version: int = 1
    created_at: int = 0
    """Seconds since 1970, as all created_at."""


@dataclass(frozen=True, slots=True)
class BackendRow:
    id: int
    url: str
    uuid: str
    """32 hex digits; also in the label on the backend, so a swapped disk is noticed."""
    label: str
    """Failure domain: copies of a segment go to distinct labels."""
    state: str
    """`online`, or `draining`: nothing new is placed there, and what is there moves away."""
    tier: str = ""
    """What datasets with the property `place` call it by: `fast`, `cold`, ...; see `tier_of`."""


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """Where recovery begins."""

    root: int
    """Address of the root of the tree; 0: empty."""
    sequence: int
    """Records up to this sequence number are in the tree."""
    segment: int
    """Replay begins in this segment ..."""
    offset: int
    """... at this byte; 0/0: no log of its own yet."""
    size_bytes: int
    mapped_blocks: int
    written_bytes: int


@dataclass(frozen=True, slots=True)
class DatasetRow:
    id: int
    name: str
    kind: DatasetKind
    size_bytes: int
    epoch: int
    """Of the last writer; 0: never opened."""
    checkpoint: CheckpointRef | None
    family: int
    """Datasets that may share segments (by cloning) have the same family."""
    origin_snapshot: int | None
    """Id of the snapshot it was cloned from; that row may be gone."""
    generation: int
    """Of the family: grows with every clone, rollback and destroy, so a sweep notices that its mark is
    stale.
    """
    properties: dict[str, str] = field(default_factory=dict)
    created_at: int = 0
    uploaded: CheckpointRef | None = None
    """In pools with object stores: the newest checkpoint that needs nothing of this machine's journal."""
    journal_lost: int = 0
    """Imported without the journal that the end of its log may have been in (MAYBE_LOST), or was (SURELY_LOST)."""


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    id: int
    dataset: int
    name: str
    sequence: int
    size_bytes: int
    root: int | None
    """None: its checkpoint is still under way."""
    created_at: int = 0
    mapped_blocks: int = 0


@dataclass(frozen=True, slots=True)
class SegmentRow:
    id: int
    dataset: int
    """The dataset that wrote it; may be destroyed since."""
    epoch: int
    copies: tuple[int, ...]
    """Ids of the backends that have it."""
    sealed: bool
    size_bytes: int
    """What it occupies; 0 until it is sealed. Of a segment in a pack, its share: the shares add up to the file."""
    family: int = 0
    generation: int = 0
    """How often it was cleaned."""
    blocks: int = 0
    """DATA blocks in it, dead or alive; 0: not known."""
    pack: int = 0
    """The pack it lies in; 0: it is a file of its own."""
    base: int = 0
    """Where in the pack its relocation table is."""
    verified_at: int = 0
    """When all copies were last verified, in seconds since 1970; 0: never."""


class Sealed(NamedTuple):
    """What is known of a segment when it is sealed."""

    size_bytes: int
    blocks: int
    """DATA blocks; 0: not known."""


@dataclass(frozen=True, slots=True)
class EventRow:
    id: int
    at: int
    kind: str
    text: str
