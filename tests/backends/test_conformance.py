"""The contract in backends/base.py, on every backend: all that shows without a power cut.

What a power cut may and may not take is tested where it can be seen: tests/sim/test_disk.py and test_disk_names.py
(the simulated disk keeps these promises), test_directory_names.py (what a directory has synced when it returns).
"""

import pytest
import trio

from backends.base import Backend, Stat
from sds.core.errors import BadInput, Corrupt, Exists, Missing, NoSpace, SdsError
from tests.backends.places import KINDS, PAGE, pages, read_back, run_on

NAME = "segments/000001/0000000012-00000003"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_b1_create_makes_a_file_of_zeros_with_its_full_size(kind: str) -> None:
    async def body(backend: Backend) -> None:
        await backend.create(NAME, 3 * PAGE)
        assert await backend.list("") == [Stat(NAME, 3 * PAGE)]
        assert await read_back(backend, NAME, 0, 3 * PAGE) == bytes(3 * PAGE)

    run_on(kind, body)


def test_b1_a_name_that_exists_raises_exists_and_changes_nothing(kind: str) -> None:
    async def body(backend: Backend) -> None:
        await backend.create(NAME, 2 * PAGE)
        await backend.write(NAME, PAGE, pages(1))
        with pytest.raises(Exists, match=NAME):
            await backend.create(NAME, 8 * PAGE)
        assert await backend.list("") == [Stat(NAME, 2 * PAGE)]
        assert await read_back(backend, NAME, PAGE, PAGE) == pages(1)

    run_on(kind, body)


@pytest.mark.parametrize("first", ["sync", "seal", "write"])
def test_b1_a_fresh_file_is_all_there_before_and_after_what_makes_it_durable(kind: str, first: str) -> None:
    async def body(backend: Backend) -> None:
        await backend.create(NAME, 2 * PAGE)
        assert await backend.list("segments/") == [Stat(NAME, 2 * PAGE)]
        if first == "sync":
            await backend.sync(NAME)
        elif first == "seal":
            await backend.seal(NAME, 2 * PAGE)
        else:
            await backend.write(NAME, PAGE, pages(1), sync=True)
        written = bytes(pages(1)) if first == "write" else bytes(PAGE)
        assert await backend.list("segments/") == [Stat(NAME, 2 * PAGE)]
        assert await read_back(backend, NAME, 0, 2 * PAGE) == bytes(PAGE) + written
        with pytest.raises(Exists, match=NAME):
            await backend.create(NAME, PAGE)

    run_on(kind, body)


@pytest.mark.parametrize("kind", ["memory", "sim", "faulty"])  # Directories: test_directory_full.py
def test_b1_no_space_leaves_nothing_behind(kind: str) -> None:
    async def body(backend: Backend) -> None:
        too_much = (backend.usage().total_bytes // PAGE + 1024) * PAGE
        with pytest.raises(NoSpace, match=NAME):
            await backend.create(NAME, too_much)
        assert await backend.list("") == []
        with pytest.raises(Missing):
            await backend.open(NAME)
        await backend.create(NAME, PAGE)

    run_on(kind, body, capacity_bytes=1 << 20)


def test_b1_of_two_creates_of_one_name_at_the_same_time_one_wins(kind: str) -> None:
    async def body(backend: Backend) -> None:
        outcomes: list[str] = []

        async def create(size_bytes: int) -> None:
            try:
                await backend.create(NAME, size_bytes)
                outcomes.append("created")
            except Exists:
                outcomes.append("exists")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(create, PAGE)
            nursery.start_soon(create, 2 * PAGE)
        assert sorted(outcomes) == ["created", "exists"]

    run_on(kind, body)


def test_b2_a_reader_sees_a_write_that_returned(kind: str) -> None:
    async def body(backend: Backend) -> None:
        await backend.create(NAME, 8 * PAGE)
        reader = await backend.open(NAME)
        into = bytearray(PAGE)
        for index in (5, 0, 7):
            await backend.write(NAME, index * PAGE, pages(1, fill=index + 1))
            await reader.read(index * PAGE, memoryview(into))
            assert bytes(into) == pages(1, fill=index + 1)
        await backend.write(NAME, 0, pages(1, fill=99))
        await reader.read(0, memoryview(into))
        assert bytes(into) == pages(1, fill=99)
        reader.close()

    run_on(kind, body)


def test_b2_writes_beside_each_other_at_the_same_time_all_arrive(kind: str) -> None:
    async def body(backend: Backend) -> None:
        await backend.create(NAME, 64 * PAGE)
        data = pages(64)
        async with trio.open_nursery() as nursery:
            for at in range(0, 64 * PAGE, 4 * PAGE):
                nursery.start_soon(backend.write, NAME, at, data[at : at + 4 * PAGE], at % (8 * PAGE) == 0)
        assert await read_back(backend, NAME, 0, 64 * PAGE) == data

    run_on(kind, body)


def test_b2_memory_that_is_not_aligned_is_written_too(kind: str) -> None:
    async def body(backend: Backend) -> None:
        await backend.create(NAME, 4 * PAGE)
        crooked = memoryview(b"x" + bytes(pages(2, fill=3)))[1:]
        await backend.write(NAME, PAGE, crooked, sync=True)
        await backend.write(NAME, 3 * PAGE, pages(1, fill=4), sync=True)
        assert await read_back(backend, NAME, PAGE, 2 * PAGE) == crooked
        assert await read_back(backend, NAME, 3 * PAGE, PAGE) == pages(1, fill=4)

    run_on(kind, body)


def test_b2_crooked_writes_at_the_same_time_all_arrive(kind: str) -> None:
    async def body(backend: Backend) -> None:
        await backend.create(NAME, 64 * PAGE)
        crooked = memoryview(b"x" + bytes(pages(64)))[1:]
        async with trio.open_nursery() as nursery:
            for at in range(0, 64 * PAGE, PAGE):
                nursery.start_soon(backend.write, NAME, at, crooked[at : at + PAGE])
        assert await read_back(backend, NAME, 0, 64 * PAGE) == crooked

    run_on(kind, body)


@pytest.mark.parametrize(("offset", "length"), [(1, PAGE), (0, 100), (4 * PAGE, PAGE), (3 * PAGE, 2 * PAGE)])
def test_b2_only_whole_pages_inside_the_file_are_written(kind: str, offset: int, length: int) -> None:
    async def body(backend: Backend) -> None:
        await backend.create(NAME, 4 * PAGE)
        with pytest.raises(BadInput, match=NAME):
            await backend.write(NAME, offset, pages(2)[:length])
        assert await backend.list("") == [Stat(NAME, 4 * PAGE)]
        assert await read_back(backend, NAME, 0, 4 * PAGE) == bytes(4 * PAGE)
        await backend.write(NAME, 0, pages(4))  # Such a mistake does not spoil the file.

    run_on(kind, body)


def test_b3_write_and_sync_of_a_missing_file_raise_missing(kind: str) -> None:
    async def body(backend: Backend) -> None:
        with pytest.raises(Missing, match=NAME):
            await backend.write(NAME, 0, pages(1))
        with pytest.raises(Missing, match=NAME):
            await backend.sync(NAME)
        with pytest.raises(Missing, match=NAME):
            await backend.seal(NAME, 0)

    run_on(kind, body)


def test_b3_syncs_of_one_file_may_run_together(kind: str) -> None:
    async def body(backend: Backend) -> None:
        await backend.create(NAME, 8 * PAGE)
        async with trio.open_nursery() as nursery:
            for index in range(8):
                nursery.start_soon(backend.write, NAME, index * PAGE, pages(1), True)
                nursery.start_soon(backend.sync, NAME)
        await backend.sync(NAME)

    run_on(kind, body)


def test_b5_seal_cuts_and_keeps_what_is_before_the_cut(kind: str) -> None:
    async def body(backend: Backend) -> None:
        await backend.create(NAME, 8 * PAGE)
        await backend.write(NAME, 0, pages(8))
        await backend.seal(NAME, 3 * PAGE)
        await backend.seal(NAME, 3 * PAGE)
        assert await backend.list("") == [Stat(NAME, 3 * PAGE)]
        assert await read_back(backend, NAME, 0, 3 * PAGE) == pages(3)

    run_on(kind, body)


@pytest.mark.parametrize("size", [9 * PAGE, 100])
def test_b5_seal_never_grows_a_file_and_cuts_at_pages(kind: str, size: int) -> None:
    async def body(backend: Backend) -> None:
        await backend.create(NAME, 8 * PAGE)
        with pytest.raises(BadInput, match=NAME):
            await backend.seal(NAME, size)
        assert await backend.list("") == [Stat(NAME, 8 * PAGE)]

    run_on(kind, body)


def test_b6_read_fills_any_range_and_refuses_what_is_not_there(kind: str) -> None:
    async def body(backend: Backend) -> None:
        await backend.create(NAME, 4 * PAGE)
        data = pages(4)
        await backend.write(NAME, 0, data)
        assert await read_back(backend, NAME, 64, 5000) == data[64:5064]
        assert await read_back(backend, NAME, 4 * PAGE - 1, 1) == data[-1:]
        for offset, length in ((4 * PAGE, 1), (3 * PAGE, PAGE + 1), (99 * PAGE, PAGE)):
            with pytest.raises(Corrupt, match=NAME):
                await read_back(backend, NAME, offset, length)
        with pytest.raises(Missing, match="segments/none"):
            await backend.open("segments/none")

    run_on(kind, body)


def test_b6_many_reads_at_once_each_get_their_own_bytes(kind: str) -> None:
    async def body(backend: Backend) -> None:
        await backend.create(NAME, 64 * PAGE)
        data = pages(64)
        await backend.write(NAME, 0, data)
        reader = await backend.open(NAME)

        async def check(index: int) -> None:
            into = bytearray(PAGE)
            await reader.read(index * PAGE, memoryview(into))
            assert into == data[index * PAGE : (index + 1) * PAGE]

        async with trio.open_nursery() as nursery:
            for index in range(64):
                nursery.start_soon(check, index)
        reader.close()

    run_on(kind, body)


def test_b7_read_nowait_fills_the_buffer_or_says_false(kind: str) -> None:
    async def body(backend: Backend) -> None:
        await backend.create(NAME, 4 * PAGE)
        await backend.write(NAME, 0, pages(4))
        reader = await backend.open(NAME)
        into = bytearray(PAGE)
        await reader.read(PAGE, memoryview(into))
        for _ in range(20):
            into[:] = bytes(PAGE)
            if reader.read_nowait(PAGE, memoryview(into)):
                assert into == pages(4)[PAGE : 2 * PAGE]
        assert not reader.read_nowait(4 * PAGE, memoryview(into))
        assert not reader.read_nowait(3 * PAGE + 1, memoryview(into))
        reader.will_need(0, 4 * PAGE)
        reader.will_need(99 * PAGE, PAGE)
        reader.close()
        reader.close()
        assert not reader.read_nowait(0, memoryview(into))
        with pytest.raises(SdsError, match=NAME):
            await reader.read(0, memoryview(into))

    run_on(kind, body)


def test_b8_put_replaces_all_of_a_file(kind: str) -> None:
    async def body(backend: Backend) -> None:
        for data in (b"first" * 3000, b"", b"second"):
            await backend.put("pool.json", data)
            assert await backend.get("pool.json", 1 << 20) == data
            assert await backend.list("") == [Stat("pool.json", len(data))]
        await backend.put("backup/catalog", b"x" * 5000)
        assert await read_back(backend, "backup/catalog", 4990, 10) == b"x" * 10

    run_on(kind, body)


def test_b8_an_open_reader_keeps_the_version_that_it_opened(kind: str) -> None:
    async def body(backend: Backend) -> None:
        await backend.put("pool.json", b"first")
        reader = await backend.open("pool.json")
        await backend.put("pool.json", b"later")
        into = bytearray(5)
        await reader.read(0, memoryview(into))
        assert into == b"first"
        reader.close()

    run_on(kind, body)


def test_get_refuses_a_missing_and_a_larger_file(kind: str) -> None:
    async def body(backend: Backend) -> None:
        await backend.put("pool.json", b"12345")
        assert await backend.get("pool.json", 5) == b"12345"
        with pytest.raises(Corrupt, match=r"pool\.json"):
            await backend.get("pool.json", 4)
        with pytest.raises(Missing, match=r"other\.json"):
            await backend.get("other.json", 4)

    run_on(kind, body)


def test_b9_delete_takes_the_name_and_spares_open_readers(kind: str) -> None:
    async def body(backend: Backend) -> None:
        await backend.delete(NAME)
        await backend.create(NAME, 2 * PAGE)
        await backend.write(NAME, 0, pages(2))
        reader = await backend.open(NAME)
        await backend.delete(NAME)
        await backend.delete(NAME)
        assert await backend.list("") == []
        into = bytearray(2 * PAGE)
        await reader.read(0, memoryview(into))
        assert into == pages(2)
        reader.close()
        with pytest.raises(Missing):
            await backend.write(NAME, 0, pages(1))
        await backend.create(NAME, PAGE)
        assert await read_back(backend, NAME, 0, PAGE) == bytes(PAGE)

    run_on(kind, body)


def test_b10_list_is_sorted_by_name_and_follows_the_prefix(kind: str) -> None:
    async def body(backend: Backend) -> None:
        names = ["a-b", "a.b/c", "a/b", "a/c/d", "ab", "segments/1/1-1", "segments/10/2-1", "segments/2/3-1"]
        for name in reversed(names):
            await backend.put(name, name.encode())

        async def listed(prefix: str) -> list[str]:
            return [entry.name for entry in await backend.list(prefix)]

        assert await listed("") == names
        for prefix in ("a", "a/", "a/b", "segments/1", "segments/1/", "segments/3", "none/at/all"):
            assert await listed(prefix) == [name for name in names if name.startswith(prefix)]
        assert (await backend.list("ab"))[0].size_bytes == 2

    run_on(kind, body)


NO_NAMES = ["", "/a", "a/", "a//b", "..", "a/../b", ".hidden", "A", "a b", "a\0b", "x" * 200]


@pytest.mark.parametrize("name", NO_NAMES)
def test_b11_names_that_are_none_are_refused_everywhere(kind: str, name: str) -> None:
    async def body(backend: Backend) -> None:
        for operation in (
            lambda: backend.create(name, PAGE),
            lambda: backend.write(name, 0, pages(1)),
            lambda: backend.sync(name),
            lambda: backend.seal(name, 0),
            lambda: backend.open(name),
            lambda: backend.put(name, b""),
            lambda: backend.get(name, 1),
            lambda: backend.delete(name),
        ):
            with pytest.raises(BadInput):
                await operation()

    run_on(kind, body)


def test_usage_tells_the_room(kind: str) -> None:
    async def body(backend: Backend) -> None:
        usage = backend.usage()
        assert 0 < usage.free_bytes <= usage.total_bytes

    run_on(kind, body)


def test_a_cancelled_operation_either_did_not_begin_or_is_complete(kind: str) -> None:
    async def body(backend: Backend) -> None:
        await backend.create(NAME, 16 * PAGE)
        with trio.CancelScope() as scope:
            scope.cancel()
            await backend.write(NAME, 0, pages(16), True)
        assert await read_back(backend, NAME, 0, 16 * PAGE) in (bytes(16 * PAGE), bytes(pages(16)))

    run_on(kind, body)
