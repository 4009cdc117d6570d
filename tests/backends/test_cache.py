"""The cache in a directory, and the way from it to the store: cache.py, cache_files.py, object_fetch.py."""

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from backends.base import PAGE
from backends.cache import MemoryCache
from backends.cache_directory import DirectoryCache
from backends.cache_files import REUSE_S, CacheFiles
from backends.object_backend import object_backend
from backends.object_fetch import FLIGHT_BYTES, HINTS_MAX, Fetcher
from tests.backends.places import pages, read_back
from tests.sim.objects import SimObjects
from tests.sim.schedule import run_seeded

CHUNK = 64 << 10
ROOT = Path(__file__).resolve().parents[2]


def content_of(chunks: int, fill: int = 1) -> bytes:
    return bytes(pages(chunks * CHUNK // PAGE, fill))


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def put_file(files: CacheFiles, name: str, chunks: int) -> None:
    entry = files.open(name, chunks * CHUNK)
    files.write(entry, 0, memoryview(content_of(chunks)))
    files.close(entry)


def use(files: CacheFiles, name: str, chunks: int) -> None:
    files.close(files.open(name, chunks * CHUNK))


def test_chunks_are_there_as_a_whole_or_not_and_another_object_finds_them(tmp_path: Path) -> None:
    async def body() -> None:
        cache = DirectoryCache(str(tmp_path), 1 << 30, CHUNK)
        file = await cache.open("segments/1", 4 * CHUNK)
        data, into = content_of(4), bytearray(CHUNK)
        await file.write(1, memoryview(data)[CHUNK : 3 * CHUNK])
        other = DirectoryCache(str(tmp_path), 1 << 30, CHUNK)
        assert await other.find("segments/1") == 4 * CHUNK
        again = await other.open("segments/1", 4 * CHUNK)
        for seen in (file, again):
            assert [seen.has(chunk) for chunk in range(4)] == [False, True, True, False]
            assert await seen.read(CHUNK + 100, memoryview(into))
            assert into == data[CHUNK + 100 : 2 * CHUNK + 100]
            assert not await seen.read(CHUNK - 1, memoryview(into))
            assert not seen.read_nowait(3 * CHUNK - 1, memoryview(into))
            seen.close()
            assert not seen.read_nowait(CHUNK, memoryview(into))
        await cache.close()
        await other.close()

    trio.run(body)


def test_a_half_written_chunk_is_not_there(tmp_path: Path) -> None:
    files = CacheFiles(str(tmp_path), 1 << 30, CHUNK)
    put_file(files, "segments/1", 1)
    with open(files.path("segments/2"), "wb") as file:
        file.truncate(2 * CHUNK)
        os.pwrite(file.fileno(), content_of(2)[: CHUNK + CHUNK // 2], 0)
    entry = files.open("segments/2", 2 * CHUNK)
    assert entry.copy.present == b"\1\0"
    files.close(entry)


def test_eviction_takes_the_longest_unused_first_and_open_files_last(tmp_path: Path) -> None:
    clock = Clock()
    files = CacheFiles(str(tmp_path), 3 * CHUNK, CHUNK, clock)
    reading = files.open("segments/1", CHUNK)
    files.write(reading, 0, memoryview(content_of(1)))
    for index in range(2, 6):
        clock.now += 1
        put_file(files, f"segments/{index}", 1)
    files.evict(at_once=True)
    assert sorted(os.listdir(tmp_path)) == [".lock", "segments_1", "segments_4", "segments_5"]
    assert files.used_bytes == 3 * CHUNK
    files.close(reading)


def test_a_scan_does_not_evict_what_was_used_again_later(tmp_path: Path) -> None:
    clock = Clock()
    files = CacheFiles(str(tmp_path), 10 * CHUNK, CHUNK, clock)
    for index in range(4):
        put_file(files, f"hot/{index}", 1)
    clock.now += REUSE_S + 1
    for index in range(4):
        use(files, f"hot/{index}", 1)
    for index in range(30):
        clock.now += 1
        put_file(files, f"scan/{index:02}", 1)
        use(files, f"scan/{index:02}", 1)
    files.evict(at_once=True)
    left = os.listdir(tmp_path)
    assert {f"hot_{index}" for index in range(4)} <= set(left)
    assert {f"scan_{index}" for index in range(24, 30)} <= set(left)
    assert len(left) == 1 + 10


def test_what_is_protected_takes_no_more_than_its_share(tmp_path: Path) -> None:
    clock = Clock()
    files = CacheFiles(str(tmp_path), 10 * CHUNK, CHUNK, clock)
    for index in range(12):
        put_file(files, f"hot/{index:02}", 1)
        clock.now += REUSE_S + 1
        use(files, f"hot/{index:02}", 1)
    for index in range(2):
        clock.now += 1
        put_file(files, f"new/{index}", 1)
    files.evict(at_once=True)
    assert set(os.listdir(tmp_path)) == {".lock", "new_0", "new_1", *(f"hot_{index:02}" for index in range(4, 12))}


def test_an_evicted_file_is_readable_to_the_end_and_made_anew_by_the_next_write(tmp_path: Path) -> None:
    async def body() -> None:
        cache = DirectoryCache(str(tmp_path), 1 << 30, CHUNK)
        file = await cache.open("segments/1", 2 * CHUNK)
        data, into = content_of(2), bytearray(CHUNK)
        await file.write(0, memoryview(data)[:CHUNK])
        os.unlink(tmp_path / "segments_1")  # Safe to delete at any time.
        assert await file.read(0, memoryview(into))
        assert into == data[:CHUNK]
        await file.write(1, memoryview(data)[CHUNK:])
        assert (tmp_path / "segments_1").exists()
        assert not await file.read(0, memoryview(into))
        assert await file.read(CHUNK, memoryview(into))
        assert into == data[CHUNK:]
        file.forget()
        assert not await file.read(CHUNK, memoryview(into))
        await file.write(0, memoryview(data))
        await cache.drop("segments/1")
        await file.write(0, memoryview(data))
        assert not (tmp_path / "segments_1").exists(), "dropped files are not kept again"
        file.close()
        await cache.close()

    trio.run(body)


def test_a_cache_that_cannot_keep_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(28, "No space left on device")

    async def body() -> None:
        store = SimObjects(latency_s=0.0)
        data = content_of(4)
        store.plant("segments/1", data)
        cache = DirectoryCache(str(tmp_path), 1 << 30, CHUNK)
        monkeypatch.setattr("backends.cache_files.os.pwrite", full)
        fetcher = Fetcher(store, CHUNK)
        file = await cache.open("segments/1", len(data))
        into = bytearray(len(data))
        await fetcher.read("segments/1", file, 0, memoryview(into))
        assert into == data
        assert not file.has(0)
        file.close()
        await fetcher.close()
        await cache.close()

    trio.run(body)


def on_fetcher(body: Callable[[SimObjects, Fetcher, MemoryCache], Awaitable[None]], parallelism: int = 8) -> None:
    async def main() -> None:
        store = SimObjects(seed=1, parallelism=parallelism)
        cache = MemoryCache(1 << 30)
        fetcher = Fetcher(store, cache.chunk_bytes)
        await body(store, fetcher, cache)
        await fetcher.close()

    run_seeded(main, seed=1)


def test_neighbouring_chunks_come_in_one_get_and_only_once() -> None:
    async def body(store: SimObjects, fetcher: Fetcher, cache: MemoryCache) -> None:
        data = content_of(64)
        store.plant("segments/1", data)
        file = await cache.open("segments/1", len(data))

        async def read() -> None:
            into = bytearray(len(data) - 200)
            await fetcher.read("segments/1", file, 100, memoryview(into))
            assert into == data[100:-100]

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(read)
        assert len(data) == FLIGHT_BYTES
        assert [kind for kind, *_ in store.log] == ["get"]
        await read()
        assert store.count("get") == 1

    on_fetcher(body)


def test_a_reader_that_is_cancelled_takes_nothing_from_those_who_wait_for_the_same() -> None:
    async def body(store: SimObjects, fetcher: Fetcher, cache: MemoryCache) -> None:
        data = content_of(4)
        store.plant("segments/1", data)
        file = await cache.open("segments/1", len(data))
        into = bytearray(len(data))
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope(deadline=trio.current_time() + 0.01)

            async def hasty() -> None:
                with scope:
                    await fetcher.read("segments/1", file, 0, memoryview(bytearray(PAGE)))

            nursery.start_soon(hasty)
            await fetcher.read("segments/1", file, 0, memoryview(into))
        assert into == data
        assert store.count("get") == 1

    on_fetcher(body)


def test_hints_keep_many_large_gets_under_way_and_are_bounded() -> None:
    async def body(store: SimObjects, fetcher: Fetcher, cache: MemoryCache) -> None:
        size = 128 << 20
        store.plant("segments/1", bytes(size))
        file = await cache.open("segments/1", size)
        assert fetcher.will_need("segments/1", file, 0, 8 * FLIGHT_BYTES)
        await trio.testing.wait_all_tasks_blocked()
        assert store.under_way == 8
        assert {length for *_, length in store.log} == {FLIGHT_BYTES}
        assert not fetcher.will_need("segments/1", file, 0, size)
        await trio.sleep(10)
        assert store.count("get") == HINTS_MAX
        await fetcher.read("segments/1", file, 0, memoryview(bytearray(8 * FLIGHT_BYTES)))
        assert store.count("get") == HINTS_MAX

    on_fetcher(body)


def test_an_uploaded_file_goes_from_the_journal_to_the_cache_under_its_readers(tmp_path: Path) -> None:
    async def body() -> None:
        store = SimObjects(latency_s=0.001)
        backend = object_backend(store, tmp_path, 1 << 30, 1 << 30, 1 << 40)
        name, data = "segments/00000001/1-1", content_of(4)
        await backend.create(name, len(data))
        await backend.write(name, 0, memoryview(pages(4 * CHUNK // PAGE)))
        reader = await backend.open(name)
        await backend.seal(name, len(data))
        await backend.settle("")
        assert store.peek(name) == data
        assert (tmp_path / "cache" / name.replace("/", "_")).read_bytes() == data
        assert not (tmp_path / "journal" / name).exists()
        into = bytearray(len(data))
        await reader.read(0, memoryview(into))
        assert into == data
        reader.close()
        again = object_backend(store, tmp_path, 1 << 30, 1 << 30, 1 << 40)
        assert await read_back(again, name, 0, len(data)) == data
        assert store.count("get") + store.count("list") == 0
        await again.delete(name)
        assert list((tmp_path / "cache").glob("segments*")) == []
        await again.close()
        await backend.close()

    trio.run(body)


WORKER = """
import os
import sys
from backends.cache_files import CacheFiles
directory, seed = sys.argv[1], int(sys.argv[2])
chunk = 65536
files = CacheFiles(directory, 20 * chunk, chunk)
for turn in range(150):
    index = (turn * 7 + seed) % 40
    entry = files.open(f"segments/{index}", 2 * chunk)
    for at in range(2):
        if entry.copy.present[at]:
            assert os.pread(entry.copy.fd, chunk, at * chunk) == bytes([index + 1]) * chunk
        else:
            files.write(entry, at, memoryview(bytes([index + 1]) * chunk))
    files.evict(at_once=True)
    files.close(entry)
"""


def test_processes_share_a_directory(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(seed)], cwd=ROOT) for seed in range(2)
    ]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    files = CacheFiles(str(tmp_path), 20 * CHUNK, CHUNK)
    files.evict(at_once=True)
    used = sum(path.stat().st_blocks * 512 for path in tmp_path.glob("segments*"))
    assert 0 < used <= 20 * CHUNK
