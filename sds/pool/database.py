"""One SQLite database behind SQLAlchemy: connections, transactions, and what its errors mean to us.

Q1  Every transaction that may write begins with BEGIN IMMEDIATE: it never fails half-way because another
    process wrote first; it waits for the lock (at most BUSY_TIMEOUT_S) before it reads anything.
Q2  A commit that returned is durable (WAL, synchronous=FULL). A killed process leaves a database that just
    opens.
Q3  Thread-safe: one connection, one lock; a method is one transaction. Calls block: callers use threads.
Q4  Only SdsErrors leave.
"""

import functools
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NoReturn

from sqlalchemy import create_engine, exc
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.url import make_url
from sqlalchemy.pool import StaticPool
from sqlalchemy.schema import CreateIndex, CreateTable

from sds.core.errors import BackendError, Busy, Corrupt, Missing, NoSpace
from sds.pool.schema import MIGRATIONS, SCHEMA_VERSION, metadata

APPLICATION_ID = 0x53445343
"""`SDSC` in the file's header: this SQLite file is a catalog."""
BUSY_TIMEOUT_S = 20.0
_WAL_BYTES = slice(18, 20)
"""In the file header: read and write version; 2 = WAL, which a memory database cannot be."""

Clock = Callable[[], float]


class Database:
    """Base of Catalog: it owns the connection."""

    def __init__(self, raw: sqlite3.Connection, where: str, clock: Clock) -> None:
        self._raw = raw
        self._where = where
        self._clock = clock
        self._lock = threading.RLock()
        self._connection = _engine(raw).connect()

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[Connection]:
        """Commits when the block ends, rolls back when it raises."""
        with self._lock:
            try:
                with self._connection.begin():
                    self._raw.execute(begin)
                    yield self._connection
            except (exc.DBAPIError, sqlite3.Error) as error:
                _translate(error, self._where)

    def _reading(self) -> AbstractContextManager[Connection]:
        return self._transaction("BEGIN")

    def _now(self) -> int:
        return int(self._clock())

    def close(self) -> None:
        with self._lock:
            self._connection.close()
            self._raw.close()

    def serialize(self) -> bytes:
        """The whole database, for Catalog.deserialize: a cheap copy as a crash would leave it."""
        with self._lock:
            image = bytearray(self._raw.serialize())
        image[_WAL_BYTES] = b"\1\1"
        return bytes(image)


def create_file(path: Path) -> sqlite3.Connection:
    """A new database file with empty tables; the caller has made sure that there is none."""
    raw = _connect(str(path))
    raw.execute("PRAGMA journal_mode=WAL")
    raw.execute("PRAGMA synchronous=FULL")
    raw.execute("BEGIN IMMEDIATE")
    for statement in _schema_statements():
        raw.execute(statement)
    raw.execute("COMMIT")
    return raw


def open_file(path: Path) -> sqlite3.Connection:
    """An existing database; refuses files that are none of ours, or newer than this program."""
    if not path.is_file():
        raise Missing(f"no catalog at {path}")
    raw = _connect(str(path))
    try:
        raw.execute("PRAGMA synchronous=FULL")
        ours = raw.execute("PRAGMA application_id").fetchone()[0]
        version = raw.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error as error:
        raw.close()
        _translate(error, str(path))
    if ours != APPLICATION_ID or version > SCHEMA_VERSION or version < 1:
        raw.close()
        if ours != APPLICATION_ID:
            raise Corrupt(
                f"{path} is not a catalog of sds: move its directory away, then rebuild it with `sds pool import`"
            )
        raise Corrupt(
            f"{path} has catalog version {version}, this program knows 1 to {SCHEMA_VERSION}: upgrade sds"
        )
    try:
        _migrate(raw, version)
    except sqlite3.Error as error:
        raw.close()
        _translate(error, str(path))
    return raw


def _migrate(raw: sqlite3.Connection, version: int) -> None:
    """Bring an older catalog up to this program's version, in one transaction (P9)."""
    if version == SCHEMA_VERSION:
        return
    raw.execute("BEGIN IMMEDIATE")
    try:
        version = raw.execute("PRAGMA user_version").fetchone()[0]  # somebody may have been faster
        while version < SCHEMA_VERSION:
            for statement in MIGRATIONS[version]:
                raw.execute(statement)
            version += 1
        raw.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        raw.execute("COMMIT")
    except BaseException:
        raw.execute("ROLLBACK")
        raise


def create_memory() -> sqlite3.Connection:
    return load_memory(_empty_image())


def load_memory(image: bytes) -> sqlite3.Connection:
    raw = _connect(":memory:")
    raw.deserialize(image)
    return raw


def _connect(path: str) -> sqlite3.Connection:
    # isolation_level=None: the module begins no transactions behind our back (Q1).
    try:
        raw = sqlite3.connect(path, BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        raw.execute("PRAGMA foreign_keys=ON")
    except sqlite3.Error as error:
        _translate(error, path)
    return raw


@functools.cache
def _schema_statements() -> tuple[str, ...]:
    """DDL of all tables, made once per process."""
    dialect = _shared_engine().dialect
    made: list[str] = []
    for table in metadata.sorted_tables:
        made.append(str(CreateTable(table).compile(dialect=dialect)))
        made += (str(CreateIndex(index).compile(dialect=dialect)) for index in sorted(table.indexes, key=str))
    return (*made, f"PRAGMA application_id={APPLICATION_ID}", f"PRAGMA user_version={SCHEMA_VERSION}")


@functools.cache
def _empty_image() -> bytes:
    raw = _connect(":memory:")
    for statement in _schema_statements():
        raw.execute(statement)
    image = raw.serialize()
    raw.close()
    return image


@functools.cache
def _shared_engine() -> Engine:
    """Its dialect and its cache of compiled statements serve every catalog: a new one then costs next to
    nothing.
    """
    engine = create_engine("sqlite://", poolclass=StaticPool)
    engine.connect().close()
    return engine


def _engine(raw: sqlite3.Connection) -> Engine:
    shared = _shared_engine()
    engine = Engine(StaticPool(lambda: raw), shared.dialect, make_url("sqlite://"))  # type: ignore[arg-type]
    engine._compiled_cache = shared._compiled_cache
    return engine


def _translate(error: Exception, where: str) -> NoReturn:
    cause = error.orig if isinstance(error, exc.DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        raise Busy(
            f"catalog {where} is locked by another process for {BUSY_TIMEOUT_S:.0f} s: try again"
        ) from error
    if code == sqlite3.SQLITE_FULL:
        raise NoSpace(f"catalog {where}: its file system is full: free space there") from error
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        raise Corrupt(
            f"catalog {where} is damaged ({cause}): move its directory away, then rebuild it with `sds pool import`"
        ) from error
    raise BackendError(f"catalog {where}: {cause}") from error
