"""What verbs share: the home directory, pools opened and closed, one event loop per command."""

import os
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import trio

from backends.registry import connect
from sds.core.errors import BackendError
from sds.log.env import Env, real_env
from sds.pool.catalog import Catalog
from sds.pool.home import Home
from sds.pool.lease import Holder
from sds.pool.pool import Pool, open_pool
from sds.pool.rows import DatasetKind

T = TypeVar("T")
clock = time.time


def home_of(arguments: Namespace) -> Home:
    chosen = arguments.home or os.environ.get("SDS_HOME")
    if chosen:
        return Home(Path(os.path.abspath(chosen)))
    if os.geteuid() == 0:
        return Home(Path("/var/lib/sds"))
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return Home(Path(data) / "sds")


def run(function: Callable[..., Awaitable[T]], *arguments: object) -> T:
    return trio.run(function, *arguments)


def environment() -> Env:
    return real_env()


def holder(what: str) -> Holder:
    return Holder.me(f"sds {what}")


def kind_name(kind: DatasetKind) -> str:
    """As people say it."""
    return "filesystem" if kind == "fs" else "volume"


@asynccontextmanager
async def open_named(home: Home, name: str) -> AsyncIterator[Pool]:
    """A pool with as many backends as it needs to have one copy of everything."""
    pool = await open_pool(home, name, connect, allow_missing=True)
    try:
        if len(pool.missing) >= pool.copies:
            reason = next(iter(pool.missing.values()))
            raise BackendError(f"pool {name}: a backend is missing: {reason}")
        yield pool
    finally:
        await pool.close()


@contextmanager
def catalog_of(home: Home, name: str) -> Iterator[Catalog]:
    """Only what the catalog knows; its backends are not touched."""
    catalog = Catalog.open(home.catalog_path(name))
    try:
        yield catalog
    finally:
        catalog.close()
