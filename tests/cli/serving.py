"""Volumes opened in the process of the test: data in and out without a server."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import trio

from backends.registry import connect
from sds.daemon.opened import Opened, opened
from sds.dataset.dataset import Settings
from sds.log.env import real_env
from sds.pool.home import Home
from sds.pool.lease import Holder
from sds.pool.pool import open_pool

T = TypeVar("T")
ME = Holder.me("test")
QUIET = Settings(stage_slots=2, flush_delay_s=1e9, checkpoint_delay_s=1e9, idle_delay_s=1e9)


def with_volume(home: Path, name: str, work: Callable[[Opened], Awaitable[T]]) -> T:
    async def body() -> T:
        pool = await open_pool(Home(home), "tank", connect)
        try:
            row = pool.catalog.dataset(name)
            with pool.lease(row, ME):
                async with opened(pool, row.id, ME, real_env(), QUIET) as here:
                    return await work(here)
        finally:
            await pool.close()

    return trio.run(body)


def write_pattern(home: Path, name: str, offset: int, data: bytes) -> None:
    async def work(here: Opened) -> None:
        await here.volume.write(offset, memoryview(data))

    with_volume(home, name, work)


def read_back(home: Path, name: str, offset: int, length: int) -> bytes:
    async def work(here: Opened) -> bytes:
        return b"".join(await here.volume.read(offset, length))

    return with_volume(home, name, work)
