"""P6: with copies=2 on two backends, one may be lost: what was written is read, and writing goes on."""

from pathlib import Path

import trio

from backends.registry import connect
from sds.daemon.opened import opened
from sds.log.env import real_env
from sds.pool.create import create_pool
from sds.pool.home import Home
from sds.pool.pool import open_pool
from tests.cli.serving import ME, QUIET

BLOCK = 4096


def test_one_of_two_backends_is_lost_and_the_volume_is_opened_read_and_written(tmp_path: Path) -> None:
    async def body() -> None:
        home = Home(tmp_path / "home")
        pool = await create_pool(home, "tank", [str(a), str(b)], connect, lambda: 0.0, 2, 1 << 20)
        pool.catalog.create_dataset("vm", "volume", 1 << 22)
        await use(home, b"", b"first")
        b.rename(tmp_path / "lost")
        await use(home, b"first", b"second")
        await use(home, b"second", b"third")

    async def use(home: Home, before: bytes, after: bytes) -> None:
        pool = await open_pool(home, "tank", connect, allow_missing=True)
        row = pool.catalog.dataset("vm")
        with pool.lease(row, ME):
            async with opened(pool, row.id, ME, real_env(), QUIET) as here:
                assert b"".join(await here.volume.read(0, len(before) or 1)) == (before or b"\0")
                await here.volume.write(0, memoryview(after.ljust(BLOCK)))
                await here.volume.flush()
        await pool.close()

    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    trio.run(body)
