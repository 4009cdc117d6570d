"""Scripted workloads of filesystems: each takes an open one through some part of it."""

from collections.abc import Awaitable, Callable

from sds.filesystem.attributes import Changes
from tests.sim.fs_model import EXCHANGE, ROOT
from tests.sim.fs_state import BLOCK
from tests.sim.fs_workload import FsActor, FsScript
from tests.sim.world import Shape

Body = Callable[[FsActor], Awaitable[None]]


async def small_files(a: FsActor) -> None:
    for number in range(6):
        await a.create(f"d/n{number}")
        await a.write(f"d/n{number}", 0, 700)
    await a.fsync()
    for number in range(0, 6, 2):
        await a.unlink(f"d/n{number}")
    await a.forget_all()
    await a.checkpoint()


async def large_files(a: FsActor) -> None:
    for at in range(0, 60, 10):
        await a.write("d/f", at * BLOCK + 50, 9 * BLOCK)
    await a.fsync()
    await a.truncate("d/f", 11 * BLOCK + 5)
    await a.write("d/f", 127 * BLOCK, 3 * BLOCK)
    await a.fsync()


async def grows(a: FsActor) -> None:
    await a.write("d/s", 1900, 140)
    await a.write("d/s", 2030, 30)
    await a.fsync()
    await a.truncate("d/s", 0)
    await a.write("d/s", 0, 10)
    await a.truncate("d/s", 1 << 33)
    await a.fsync()


async def names(a: FsActor) -> None:
    await a.mkdir("d/x")
    await a.rename("d/f", "d/x/g")
    await a.link("d/x/g", "h")
    await a.rename("d/s", "h")
    await a.rename("d/x", "y")
    await a.rename("y", "h", EXCHANGE)
    await a.symlink("l", b"t" * 3000)
    await a.fsync()
    await a.unlink("h/g")
    await a.rmdir("h")
    await a.forget_all()
    await a.fsync()


async def unlinked_and_open(a: FsActor) -> None:
    inode = a.inode("d/f")
    await a.hold(inode)
    await a.unlink("d/f")
    await a.forget([inode])
    await a.write_to(inode, 0, b"u" * 6 * BLOCK)
    await a.fsync()
    await a.let_go(inode)
    await a.forget_all()
    await a.fsync()


async def attributes(a: FsActor) -> None:
    inode = a.inode("d/f")
    await a.change(inode, Changes(mode=0o6755, uid=3, mtime_ns=-7))
    await a.set_xattr(inode, b"user.long", bytes(range(250)) * 20)
    await a.fsync()
    await a.set_xattr(inode, b"user.long", b"short")
    await a.set_xattr(ROOT, b"user.x", b"")
    await a.remove_xattr(ROOT, b"user.x")
    await a.fsync()


async def snapshots(a: FsActor) -> None:
    await a.write("d/f", BLOCK, 2 * BLOCK)
    await a.snapshot("one")
    await a.unlink("d/f")
    await a.unlink("d/s")
    await a.forget_all()
    await a.clone("one", "c")
    await a.rollback("one")
    await a.write("d/s", 0, 3 * BLOCK)
    await a.destroy("one")
    await a.fsync()


BODIES: tuple[Body, ...] = (small_files, large_files, grows, names, unlinked_and_open, attributes, snapshots)
WORKLOADS: tuple[tuple[Body, Shape], ...] = (
    *((body, Shape()) for body in BODIES), (names, Shape(disks=2, copies=2)), (large_files, Shape(disks=3, copies=2)),
)  # fmt: skip


def name_of(workload: tuple[Body, Shape]) -> str:
    body, shape = workload
    return f"{body.__name__}-{shape.copies}of{shape.disks}"


async def prepared(script: FsScript) -> None:
    """What the workloads start from: d/f with blocks, d/s inline; closed."""
    script.create("h")
    async with script.open("h") as actor:
        await actor.mkdir("d")
        await actor.create("d/f")
        await actor.create("d/s")
        await actor.write("d/f", 0, 4 * BLOCK)
        await actor.write("d/s", 0, 100)
