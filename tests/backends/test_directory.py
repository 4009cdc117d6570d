"""What only a directory on a real file system can get wrong. When names are durable: test_directory_names.py."""

import mmap
import os
import resource
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from backends.base import Stat
from backends.directory import DirectoryBackend
from backends.directory_files import WRITE_FILES_MAX, DirectoryFiles
from backends.directory_write import WriteFile
from backends.reader_threads import HINTS_MAX
from sds.core.errors import BackendError, BadInput, Corrupt, Exists, Missing
from tests.backends.places import PAGE, pages, read_back

NAME = "segments/000001/1-1"
Body = Callable[[DirectoryBackend], Awaitable[None]]


def run_in(path: Path, body: Body) -> None:
    async def main() -> None:
        backend = DirectoryBackend(str(path))
        try:
            await body(backend)
        finally:
            await backend.close()

    trio.run(main)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """The kernel refuses writes beyond this offset (EFBIG): a real write error on demand."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_b4_a_failed_write_is_final_for_the_file_and_only_for_it(tmp_path: Path) -> None:
    async def body(backend: DirectoryBackend) -> None:
        for name in (NAME, "segments/000001/2-1"):
            await backend.create(name, 16 * PAGE)
        with file_size_limit(8 * PAGE), pytest.raises(BackendError, match=NAME):
            await backend.write(NAME, 8 * PAGE, pages(1))
        for later in (backend.write(NAME, 0, pages(1)), backend.sync(NAME), backend.seal(NAME, 0)):
            with pytest.raises(BackendError, match="failed earlier"):
                await later
        await backend.write("segments/000001/2-1", 0, pages(1), sync=True)
        assert await read_back(backend, NAME, 0, PAGE) == bytes(PAGE)
        await backend.delete(NAME)
        await backend.create(NAME, PAGE)
        await backend.write(NAME, 0, pages(1), sync=True)

    run_in(tmp_path, body)


def test_a_write_that_the_kernel_cuts_short_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    async def body(backend: DirectoryBackend) -> None:
        await backend.create(NAME, 16 * PAGE)
        with file_size_limit(8 * PAGE), pytest.raises(BackendError, match=NAME):
            await backend.write(NAME, 4 * PAGE, pages(8))

    run_in(tmp_path, body)


def test_b4_a_sync_that_waited_behind_a_failed_one_fails_too(tmp_path: Path) -> None:
    """A pipe cannot be synced; a file in its place can, like a page cache that has told its error."""
    reading, writing = os.pipe()
    healthy = os.open(tmp_path / "healthy", os.O_RDWR | os.O_CREAT)
    file = WriteFile(writing, 0)
    with pytest.raises(OSError):
        file.sync()
    os.dup2(healthy, writing)
    os.fdatasync(writing)
    with pytest.raises(OSError):
        file.sync()
    for fd in (reading, writing, healthy):
        os.close(fd)


def test_aligned_writes_bypass_the_page_cache_and_crooked_ones_end_that(tmp_path: Path) -> None:
    try:
        os.close(os.open(tmp_path / "probe", os.O_RDWR | os.O_CREAT | os.O_DIRECT))
    except OSError:
        pytest.skip("the file system of the temporary directory refuses O_DIRECT")

    def resident_pages() -> int:
        fd = os.open(tmp_path / NAME, os.O_RDONLY)
        buffers = [bytearray(PAGE) for _ in range(16)]
        found = 0
        for index, buffer in enumerate(buffers):
            try:
                found += os.preadv(fd, [buffer], index * PAGE, os.RWF_NOWAIT) == PAGE
            except BlockingIOError:
                continue
        os.close(fd)
        return found

    async def body(backend: DirectoryBackend) -> None:
        await backend.create(NAME, 16 * PAGE)
        await backend.write(NAME, 0, pages(16), sync=True)
        assert resident_pages() == 0
        crooked = memoryview(bytearray(16 * PAGE + 1))[1:]
        await backend.write(NAME, 0, crooked, sync=True)
        assert resident_pages() == 16

    run_in(tmp_path, body)


def test_room_is_allocated_when_a_file_is_created(tmp_path: Path) -> None:
    async def body(backend: DirectoryBackend) -> None:
        await backend.create(NAME, 1 << 20)
        assert os.stat(tmp_path / NAME).st_blocks * 512 >= 1 << 20
        await backend.seal(NAME, 64 << 10)
        assert os.stat(tmp_path / NAME).st_blocks * 512 < 1 << 19

    run_in(tmp_path, body)


def test_symbolic_links_lead_nowhere(tmp_path: Path) -> None:
    outside, pool = tmp_path / "outside", tmp_path / "pool"
    outside.mkdir()
    pool.mkdir()
    (outside / "secret").write_bytes(bytes(PAGE))
    (pool / "file").symlink_to(outside / "secret")
    (pool / "segments").symlink_to(outside)
    (pool / "fifo").write_bytes(b"")
    os.unlink(pool / "fifo")
    os.mkfifo(pool / "fifo")

    async def body(backend: DirectoryBackend) -> None:
        operations: list[Callable[[], Awaitable[object]]] = []
        for name in ("file", "segments/secret"):
            operations += [
                lambda name=name: backend.open(name),  # type: ignore[misc]
                lambda name=name: backend.get(name, PAGE),  # type: ignore[misc]
                lambda name=name: backend.write(name, 0, pages(1)),  # type: ignore[misc]
                lambda name=name: backend.seal(name, 0),  # type: ignore[misc]
            ]
        operations += [lambda: backend.create("segments/new", PAGE), lambda: backend.put("segments/new", b"")]
        operations += [lambda: backend.open("fifo"), lambda: backend.delete("segments/secret")]
        for operation in operations:
            with pytest.raises(Corrupt):
                await operation()
        assert await backend.list("") == []

    run_in(pool, body)
    assert os.listdir(outside) == ["secret"]
    (tmp_path / "link").symlink_to(pool)
    with pytest.raises(BadInput, match="symbolic link"):
        DirectoryBackend(str(tmp_path / "link"))


def test_a_file_in_the_place_of_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "segments").write_bytes(b"")

    async def body(backend: DirectoryBackend) -> None:
        with pytest.raises(Corrupt, match=NAME):
            await backend.create(NAME, PAGE)
        with pytest.raises(Corrupt, match=NAME):
            await backend.open(NAME)

    run_in(tmp_path, body)


def test_bad_places_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    places = (("relative", BadInput), (str(tmp_path / "no"), Missing), (str(tmp_path / "file"), BadInput))
    for path, error in places:
        with pytest.raises(error):
            DirectoryFiles(path)


def test_no_descriptor_and_no_temporary_file_is_left(tmp_path: Path) -> None:
    async def body(backend: DirectoryBackend) -> None:
        before = open_descriptors()
        for index in range(40):
            name = f"segments/{index % 4}/{index}"
            await backend.create(name, 4 * PAGE)
            await backend.write(name, 0, pages(4), sync=index % 2 == 0)
            reader = await backend.open(name)
            into = bytearray(PAGE)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.read, 0, memoryview(into))
                await trio.testing.wait_all_tasks_blocked()
                reader.close()  # Under the thread's hands: closed when the thread is done (O1).
            assert into == pages(1)
            await backend.seal(name, PAGE)
            await backend.put("pool.json", b"x" * index)
            if index % 3:
                await backend.delete(name)
            for bad in (backend.create("pool.json", PAGE), backend.get("pool.json", -1), backend.open("x")):
                with pytest.raises((Corrupt, Exists, Missing)):
                    await bad
        assert open_descriptors() == before

    trio.run(trio.lowlevel.checkpoint)
    before = open_descriptors()
    run_in(tmp_path, body)
    assert open_descriptors() == before
    assert not [name for _, _, names in os.walk(tmp_path) for name in names if name.startswith(".")]


def test_p8_descriptors_of_files_that_are_written_are_bounded(tmp_path: Path) -> None:
    async def body(backend: DirectoryBackend) -> None:
        before = open_descriptors()
        names = [f"segments/{index:03}" for index in range(WRITE_FILES_MAX + 20)]
        for name in names:
            await backend.create(name, PAGE)
            await backend.write(name, 0, pages(1))
        assert open_descriptors() <= before + WRITE_FILES_MAX
        for name in names:
            await backend.sync(name)
            assert await read_back(backend, name, 0, PAGE) == pages(1)

    run_in(tmp_path, body)


def test_strangers_in_the_directory_do_not_show(tmp_path: Path) -> None:
    (tmp_path / ".tmp-1-1-pool.json").write_bytes(b"half")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "lost+found" / "x").write_bytes(b"")
    (tmp_path / "Upper").write_bytes(b"")

    async def body(backend: DirectoryBackend) -> None:
        await backend.put("pool.json", b"whole")
        assert await backend.list("") == [Stat("pool.json", 5)]

    run_in(tmp_path, body)


def test_another_backend_object_finds_and_goes_on_with_the_files(tmp_path: Path) -> None:
    async def first(backend: DirectoryBackend) -> None:
        await backend.create(NAME, 4 * PAGE)
        await backend.write(NAME, 0, pages(1))

    async def second(backend: DirectoryBackend) -> None:
        assert await read_back(backend, NAME, 0, PAGE) == pages(1)
        await backend.write(NAME, PAGE, pages(1), sync=True)
        await backend.seal(NAME, 2 * PAGE)
        assert await read_back(backend, NAME, 0, 2 * PAGE) == bytes(pages(1)) * 2

    run_in(tmp_path, first)
    run_in(tmp_path, second)


def test_a_hint_brings_a_range_into_the_page_cache(tmp_path: Path) -> None:
    size = 4 << 20

    async def body(backend: DirectoryBackend) -> None:
        await backend.create(NAME, size)
        await backend.write(NAME, 0, memoryview(mmap.mmap(-1, size)), sync=True)
        await backend.seal(NAME, size)
        reader = await backend.open(NAME)
        into = memoryview(bytearray(PAGE))
        reader.will_need(0, size)
        with trio.fail_after(10):
            while not reader.read_nowait(size - PAGE, into):
                await trio.lowlevel.checkpoint()
        before = open_descriptors()
        for _ in range(500):
            reader.will_need(0, size)
        assert open_descriptors() <= before + HINTS_MAX  # A flood of hints is dropped, not queued.
        reader.close()

    if tmp_path.stat().st_dev == os.stat("/dev/shm").st_dev:
        pytest.skip("the temporary directory is a tmpfs, where read_nowait never answers")
    run_in(tmp_path, body)
