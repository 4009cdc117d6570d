"""The tables of a catalog.

| table    | one row per                  | remarks                                                          |
|----------|------------------------------|------------------------------------------------------------------|
| pool     | catalog (exactly one)        |                                                                  |
| counter  | kind of id                   | the last id handed out; ids are never reused                     |
| backend  | backend                      |                                                                  |
| family   | set of datasets that share   | generation: see rows.DatasetRow; id = id of its first dataset    |
| member   | dataset, alive or destroyed  | kept as long as the family: segments of a destroyed parent are   |
|          |                              | still found by `import` and still read by its clones             |
| dataset  | living dataset               | ck_*: its CheckpointRef; ck_root NULL: none yet; up_*: the newest |
|          |                              | one of which every segment is where it stays (B12 of backends)   |
| snapshot | snapshot                     | root NULL: checkpoint under way                                  |
| segment  | segment of any family        | copies: backend ids joined by commas; pack 0: a file of its own  |
| progress | long task (scrub)            | what it needs to go on after an interruption, as JSON            |
| event    | something worth telling      |                                                                  |

64-bit values (addresses, sequence numbers) may have the top bit set; SQL integers are signed: type U64 folds
them.

Version 2 added what MIGRATIONS adds; a catalog of version 1 is brought up when it is opened.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

SCHEMA_VERSION = 2


class U64(TypeDecorator[int]):
    """0 <= n < 2**64 in a signed column: the upper half is stored as n - 2**64."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        if value is None:
            return None
        assert 0 <= value < 1 << 64
        return value - (1 << 64) if value >> 63 else value

    def process_result_value(self, value: int | None, dialect: Dialect) -> int | None:
        return None if value is None else value & (1 << 64) - 1


metadata = MetaData()

pool = Table(
    "pool",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True),
    Column("uuid", LargeBinary, nullable=False),
    Column("name", String, nullable=False),
    Column("segment_size", Integer, nullable=False),
    Column("copies", Integer, nullable=False),
    Column("format_version", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

counter = Table(
    "counter",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
COUNTERS = ("backend", "dataset", "snapshot", "segment", "backup")

backend = Table(
    "backend",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("url", String, nullable=False, unique=True),
    Column("uuid", String, nullable=False, unique=True),
    Column("label", String, nullable=False),
    Column("state", String, nullable=False),
    Column("tier", String, nullable=False, server_default=""),
)

BACKEND_STATES = ("online", "draining")

family = Table(
    "family",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("generation", BigInteger, nullable=False),
)

member = Table(
    "member",
    metadata,
    Column("dataset", Integer, primary_key=True, autoincrement=False),
    Column("family", Integer, ForeignKey("family.id", ondelete="CASCADE"), nullable=False, index=True),
)

dataset = Table(
    "dataset",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", String, nullable=False, unique=True),
    Column("kind", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("holder", String, nullable=False),
    Column("family", Integer, ForeignKey("family.id"), nullable=False, index=True),
    Column("origin_snapshot", Integer),
    Column("properties", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("ck_root", U64),
    Column("ck_sequence", U64),
    Column("ck_segment", BigInteger),
    Column("ck_offset", BigInteger),
    Column("ck_size_bytes", BigInteger),
    Column("ck_mapped_blocks", BigInteger),
    Column("ck_written_bytes", BigInteger),
    Column("up_root", U64),
    Column("up_sequence", U64),
    Column("up_segment", BigInteger),
    Column("up_offset", BigInteger),
    Column("up_size_bytes", BigInteger),
    Column("up_mapped_blocks", BigInteger),
    Column("up_written_bytes", BigInteger),
    Column("journal_lost", Integer, nullable=False, server_default="0"),
)

snapshot = Table(
    "snapshot",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("dataset", Integer, ForeignKey("dataset.id"), nullable=False),
    Column("name", String, nullable=False),
    Column("sequence", U64, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("root", U64),
    Column("created_at", BigInteger, nullable=False),
    Column("mapped_blocks", BigInteger, nullable=False),
    UniqueConstraint("dataset", "name"),
)

segment = Table(
    "segment",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("dataset", Integer, nullable=False, index=True),
    Column("epoch", BigInteger, nullable=False),
    Column("copies", String, nullable=False),
    Column("sealed", Boolean, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("family", Integer, ForeignKey("family.id"), nullable=False, index=True),
    Column("generation", Integer, nullable=False, server_default="0"),
    Column("blocks", Integer, nullable=False, server_default="0"),
    Column("pack", BigInteger, nullable=False, server_default="0", index=True),
    Column("base", BigInteger, nullable=False, server_default="0"),
    Column("verified_at", BigInteger, nullable=False, server_default="0"),
)

progress = Table(
    "progress",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", String, nullable=False),
)

event = Table(
    "event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("kind", String, nullable=False),
    Column("text", String, nullable=False),
)

_UP = ("root", "sequence", "segment", "offset", "size_bytes", "mapped_blocks", "written_bytes")
_ADDED = ("generation INTEGER", "blocks INTEGER", "pack BIGINT", "base BIGINT", "verified_at BIGINT")
MIGRATIONS: dict[int, tuple[str, ...]] = {
    1: (
        "ALTER TABLE backend ADD COLUMN tier VARCHAR NOT NULL DEFAULT ''",
        *(f"ALTER TABLE dataset ADD COLUMN up_{name} BIGINT" for name in _UP),
        "ALTER TABLE dataset ADD COLUMN journal_lost INTEGER NOT NULL DEFAULT 0",
        *(f"ALTER TABLE segment ADD COLUMN {column} NOT NULL DEFAULT 0" for column in _ADDED),
        "CREATE INDEX ix_segment_pack ON segment (pack)",
        "CREATE TABLE progress (name VARCHAR NOT NULL PRIMARY KEY, value VARCHAR NOT NULL)",
        "UPDATE backend SET state = 'draining' WHERE state = 'evacuating'",
        # An import left full segments unsealed that no replay reads any more.
        "UPDATE segment SET sealed = 1, size_bytes = (SELECT segment_size FROM pool) WHERE NOT sealed AND ("
        "dataset NOT IN (SELECT id FROM dataset)"
        " OR id < (SELECT ck_segment FROM dataset AS d WHERE d.id = segment.dataset))",
    )
}
"""By version: what makes the next one of it."""
