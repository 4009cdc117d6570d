"""`python -m bench.fs_fill HOME POOL/FS FILES`: fill a filesystem without a mount, as fast as the engine goes.

A thousand files to a directory, 64 bytes in each. A process of its own: what it costs in memory must not be
counted for the worker that is measured afterwards.
"""

import sys
from pathlib import Path

import trio

from sds.cli.session import environment, holder, open_named
from sds.daemon.opened import opened, take_lease
from sds.dataset.dataset import Settings
from sds.filesystem.attributes import ROOT_INODE, Owner
from sds.filesystem.filesystem import Filesystem
from sds.pool.home import Home

FILES_PER_DIRECTORY = 1000
CONTENT_BYTES = 64


async def fill(filesystem: Filesystem, files: int) -> None:
    owner = Owner(0, 0)
    for number in range(files):
        if number % FILES_PER_DIRECTORY == 0:
            name = b"d%05d" % (number // FILES_PER_DIRECTORY)
            directory = (await filesystem.mkdir(ROOT_INODE, name, 0o755, owner)).inode
            await trio.lowlevel.checkpoint()
        attr = await filesystem.create(directory, b"file-%07d.txt" % number, 0o644, owner)
        await filesystem.write(attr.inode, 0, (b"%063d\n" % number)[-CONTENT_BYTES:])
        await filesystem.release(attr.inode)
    await filesystem.fsync()


async def open_and_fill(home: Path, dataset: str, files: int) -> None:
    pool_name, name = dataset.split("/")
    me = holder("bench")
    async with open_named(Home(home), pool_name) as pool:
        row = pool.catalog.dataset(name)
        with await take_lease(pool, row, me):
            async with opened(pool, row.id, me, environment(), Settings()) as here:
                await fill(here.filesystem, files)


if __name__ == "__main__":
    trio.run(open_and_fill, Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
