"""Several tasks on one filesystem, with hardly any memory: sections wait in between and are done again."""

import errno
from array import array
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import pytest
import trio

from sds.core.node import Node
from sds.filesystem.attributes import Changes
from tests.sim.fs_check import FsExpected, recover_fs
from tests.sim.fs_model import EXCHANGE, NOREPLACE, ROOT
from tests.sim.fs_state import BLOCK
from tests.sim.fs_swarm import few_nodes
from tests.sim.fs_view import bytes_of
from tests.sim.fs_workload import SETTINGS, FsActor, FsScript
from tests.sim.schedule import run_seeded
from tests.sim.workload import content_of
from tests.sim.world import SEGMENT_SIZE, Shape, World

Step = Callable[[], Awaitable[object]]
TASKS = 8


async def errors_of(steps: list[Step]) -> list[int]:
    """All at once; the errno of each, 0: it succeeded."""
    results = [-1] * len(steps)

    async def one(number: int) -> None:
        try:
            await steps[number]()
            results[number] = 0
        except OSError as error:
            results[number] = error.errno or -1

    async with trio.open_nursery() as nursery:
        for number in range(len(steps)):
            nursery.start_soon(one, number)
    return results


async def filled(actor: FsActor) -> None:
    """More than fits into the memory for nodes, and all of it in the tree."""
    for number in range(30):
        inode = await actor.create(f"filler{number}")
        await actor.write_to(inode, 0, bytes([number]) * 1500)
    await actor.mkdir("d")
    await actor.mkdir("e")
    await actor.create("f")
    await actor.checkpoint()
    await actor.dataset.log.rest()


def slowly(read_node: Callable[[int], Awaitable[Node]]) -> Callable[[int], Awaitable[Node]]:
    """As if no node were in the stage any more."""

    async def read(address: int) -> Node:
        for _ in range(4):
            await trio.lowlevel.checkpoint()
        return await read_node(address)

    return read


def together(body: Callable[[FsActor], Awaitable[None]], seed: int) -> None:
    """On a filesystem that is full of other things; afterwards everything fits, before and after a kill."""

    async def main() -> None:
        async with script.open("h") as actor:
            await filled(actor)
            with patch.object(actor.dataset.nodes, "read_node", slowly(actor.dataset.nodes.read_node)):
                await body(actor)
            await actor.check()
            worlds.append((script.world.kill(), script.expected(False)))

    worlds: list[tuple[World, FsExpected]] = []
    script = FsScript(World.new(Shape(latency=4), seed))
    script.create("h")
    with few_nodes(6):
        run_seeded(main, seed)
        for world, expected in worlds:
            run_seeded(lambda: recover_fs(world, expected, clock=script.clock), seed)  # noqa: B023
            world.close()
    script.world.close()


@pytest.mark.parametrize("seed", range(3))
def test_of_several_renames_of_one_name_exactly_one_succeeds(seed: int) -> None:
    async def body(a: FsActor) -> None:
        steps: list[Step] = [partial(a.move, ROOT, b"f", a.inode("d"), b"%d" % n) for n in range(TASKS)]
        assert sorted(await errors_of(steps)) == [0] + [errno.ENOENT] * (TASKS - 1)
        assert len(a.tree.nodes[a.inode("d")].entries) == 1

    together(body, seed)


@pytest.mark.parametrize("seed", range(3))
def test_of_several_makers_and_movers_to_one_name_exactly_one_succeeds(seed: int) -> None:
    async def body(a: FsActor) -> None:
        inode = a.inode("f")
        steps: list[Step] = [lambda: a.create("new") for _ in range(3)]
        steps += [lambda: a.link_to(inode, ROOT, b"new") for _ in range(3)]
        steps += [partial(a.move, ROOT, b"filler%d" % n, ROOT, b"new", NOREPLACE) for n in range(3)]
        assert sorted(await errors_of(steps)) == [0] + [errno.EEXIST] * 8

    together(body, seed)


@pytest.mark.parametrize("seed", range(3))
def test_directories_moved_into_each_other_at_once_stay_a_tree(seed: int) -> None:
    async def body(a: FsActor) -> None:
        d, e = a.inode("d"), a.inode("e")
        steps: list[Step] = [
            lambda: a.move(ROOT, b"d", e, b"x"), lambda: a.move(ROOT, b"e", d, b"x"),
            lambda: a.move(ROOT, b"d", ROOT, b"e", EXCHANGE),
        ]  # fmt: skip
        results = await errors_of(steps)
        assert 0 in results
        assert set(results) <= {0, errno.EINVAL, errno.ENOENT}

    together(body, seed)


@pytest.mark.parametrize("seed", range(3))
def test_pieces_written_by_several_tasks_are_all_there_and_counted_once(seed: int) -> None:
    async def body(a: FsActor) -> None:
        inode, length = a.inode("f"), 1000
        steps: list[Step] = [partial(a.write_to, inode, n * length, b"%d" % n * length) for n in range(TASKS)]
        assert set(await errors_of(steps)) == {0}
        node = a.tree.nodes[inode]
        assert bytes_of(node, 0, 1 << 20) == b"".join(b"%d" % n * length for n in range(TASKS))
        assert (await a.fs.getattr(inode)).blocks == -(-TASKS * length // BLOCK)

    together(body, seed)


@pytest.mark.parametrize("seed", range(3))
def test_a_file_that_is_removed_while_others_work_on_it_leaves_nothing(seed: int) -> None:
    async def body(a: FsActor) -> None:
        inode = a.inode("f")
        await a.hold(inode)
        steps: list[Step] = [
            lambda: a.unlink("f"), lambda: a.forget([inode]), lambda: a.write_to(inode, 0, b"x" * 5 * BLOCK),
            lambda: a.change(inode, Changes(size_bytes=100)), lambda: a.write_to(inode, 50, b"y" * 100),
        ]  # fmt: skip
        assert set(await errors_of(steps)) == {0}
        await a.let_go(inode)
        await a.forget_all()
        assert inode not in a.tree.nodes
        assert a.dataset.map.mapped_blocks == len(a.model.now.raw.blocks)

    together(body, seed)


@pytest.mark.parametrize("seed", range(3))
def test_a_small_file_that_grows_while_it_is_read_is_never_empty(seed: int) -> None:
    """What is read is held against all states since the read began (FR3)."""

    async def body(a: FsActor) -> None:
        inodes = [a.inode(f"filler{number}") for number in range(30)]
        for inode in inodes:
            await a.change(inode, Changes(mode=0o600))  # the attributes are in memory, the contents are not
        steps: list[Step] = []
        for inode in inodes[:20]:
            steps += [partial(a.read, inode, 0, 1500), partial(a.write_to, inode, 1500, b"x" * 3000)]
        assert set(await errors_of(steps)) == {0}

    together(body, seed)


@pytest.mark.parametrize("seed", range(3))
def test_a_truncation_that_waits_for_the_map_undoes_nothing_that_others_did_meanwhile(seed: int) -> None:
    async def body(a: FsActor) -> None:
        inodes = [await a.create(f"large{number}") for number in range(6)]
        for inode in inodes:
            for page in range(4):
                await a.write_to(inode, page * 128 * BLOCK, b"l" * BLOCK)
        await a.checkpoint()
        await a.dataset.log.rest()
        a.dataset.map.pages.clear()  # as if they had been evicted: no layer needs them
        for inode in inodes:
            await a.change(inode, Changes(uid=3))  # the attributes are in memory, what they tell of is not
        a.dataset.nodes._cache.clear()
        steps: list[Step] = []
        for inode in inodes:
            steps += [
                partial(a.change, inode, Changes(size_bytes=200 * BLOCK + 5)),
                partial(a.change, inode, Changes(mode=0o600)),
                partial(a.link_to, inode, ROOT, b"again%d" % inode),
                partial(a.write_to, inode, 300 * BLOCK, b"w" * 9000),
            ]
        assert set(await errors_of(steps)) == {0}

    together(body, seed)


@pytest.mark.parametrize("seed", range(3))
def test_what_waits_to_be_deleted_and_gets_its_name_back_by_a_rollback_stays(seed: int) -> None:
    async def body(a: FsActor) -> None:
        async def forget_in_the_middle() -> None:
            while not a.tree.nodes[inodes[0]].nlink:
                await trio.lowlevel.checkpoint()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.list, ROOT, 1)
                nursery.start_soon(a.forget, inodes)

        for name in ("plain", "blocks"):
            await a.create(name)
            await a.set_xattr(a.inode(name), b"user.a", b"v")  # so that it is not deleted at once
        await a.write("blocks", 0, 2 * BLOCK)
        await a.snapshot("s")
        await a.checkpoint()
        inodes = [a.inode("plain"), a.inode("blocks")]
        await a.unlink("plain")
        await a.unlink("blocks")
        await a.create("late")
        assert set(await errors_of([lambda: a.rollback("s"), forget_in_the_middle])) == {0}
        assert {a.inode("plain"), a.inode("blocks")} == set(inodes)

    together(body, seed)


def test_an_extended_attribute_that_no_segment_takes_is_refused() -> None:
    """With segments of 64 KiB; with others the limit is that of Linux."""

    async def body(a: FsActor) -> None:
        await a.set_xattr(ROOT, b"user.most", bytes(SEGMENT_SIZE // 8))
        with pytest.raises(OSError) as failure:
            await a.fs.setxattr(ROOT, b"user.more", bytes(SEGMENT_SIZE // 8 + 1))
        assert failure.value.errno == errno.E2BIG

    together(body, 1)


def test_what_was_read_from_the_stage_is_right_though_the_slot_is_written_again_at_once() -> None:
    """Between the contents and a second look at the attributes there is time for many segments."""

    async def main() -> None:
        async with script.open("h", replace(SETTINGS, stage_slots=3)) as a:
            await a.create("other")
            inode = await a.create("f")
            await a.write_to(inode, 0, content_of(1, BLOCK))  # it does not compress: there is no copy but the stage's
            await a.checkpoint()
            a.dataset.map.pages.clear()  # as if it had been evicted: the read waits for it, not for the data
            read_node, read_twice, written = a.dataset.nodes.read_node, trio.Event(), trio.Event()

            async def read_page(key: int) -> "array[int]":
                page = await load_page(key)
                a.dataset.nodes._cache.clear()
                read_twice.set()
                return page

            async def slow_node(address: int) -> Node:
                if read_twice.is_set():
                    await written.wait()
                return await read_node(address)

            async def write() -> None:
                await read_twice.wait()
                a.dataset.map.page = load_page  # type: ignore[method-assign]
                for number in range(24):
                    await a.write_to(other, number % 2 * 3 * BLOCK, a.script.content(3 * BLOCK))
                written.set()

            other, load_page = a.inode("other"), a.dataset.map.page
            await a.write_to(other, 0, b"o" * 6 * BLOCK)
            a.dataset.nodes.read_node = slow_node  # type: ignore[method-assign]
            a.dataset.map.page = read_page  # type: ignore[method-assign]
            assert set(await errors_of([partial(a.read, inode, 0, BLOCK), write])) == {0}

    script = FsScript(World.new(Shape(latency=4)))
    script.create("h")
    run_seeded(main, 1)
    script.world.close()
