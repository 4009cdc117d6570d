"""Reads that hang: they end with an error, others go on, nothing is left behind."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

import backends.reader_threads as reader_threads
from backends.directory import DirectoryBackend
from backends.directory_reader import DirectoryReader
from backends.reader_threads import HUNG_MAX, THREADS_IN_ALL_MAX, THREADS_MAX, ReaderThreads
from sds.core.errors import Hung
from tests.backends.places import PAGE, pages
from tests.backends.test_bounded import until

LIMIT_S = 0.2


class Device:
    """Reads at offset 0 hang until the gate opens; others are answered."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.gate = threading.Event()
        real = os.preadv

        def slow(fd: int, into: list[memoryview], offset: int) -> int:
            if offset == 0:
                self.gate.wait()
            return real(fd, into, offset)

        patch.setattr(os, "preadv", slow)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    device = Device(monkeypatch)
    yield device
    device.gate.set()


async def hang(reader: DirectoryReader) -> None:
    with pytest.raises(Hung, match="file: read: no answer"):
        await reader.read(0, memoryview(bytearray(PAGE)))


async def two_pages(path: Path) -> tuple[DirectoryBackend, DirectoryReader]:
    backend = DirectoryBackend(str(path), LIMIT_S)
    await backend.put("file", bytes(pages(2)))
    return backend, await backend.open("file")


def test_reads_that_hang_end_with_an_error_and_others_go_on(tmp_path: Path, device: Device) -> None:
    async def main() -> None:
        backend, reader = await two_pages(tmp_path)
        into = bytearray(PAGE)
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for _ in range(THREADS_MAX):
                    nursery.start_soon(hang, reader)
            with trio.fail_after(10):
                await reader.read(PAGE, memoryview(into))
            assert into == pages(2)[PAGE:]
        threads = backend._reader_threads
        assert (len(threads._hung), len(threads._under_way)) == (2 * THREADS_MAX, 0)
        device.gate.set()
        await until(lambda: not threads._hung)
        assert threads._threads <= THREADS_MAX
        await reader.read(0, memoryview(into))
        assert into == pages(2)[:PAGE]
        reader.close()
        await backend.close()

    trio.run(main)


def test_threads_and_queue_are_bounded_however_many_hang(tmp_path: Path, device: Device) -> None:
    async def main() -> None:
        backend, reader = await two_pages(tmp_path)
        threads = backend._reader_threads
        async with trio.open_nursery() as nursery:
            for _ in range(3 * THREADS_MAX):
                nursery.start_soon(hang, reader)
        while len(threads._hung) < HUNG_MAX:
            async with trio.open_nursery() as nursery:
                for _ in range(THREADS_MAX):
                    nursery.start_soon(hang, reader)
        assert threads._threads <= THREADS_IN_ALL_MAX
        queued = threads._jobs.qsize()
        start = trio.current_time()
        for _ in range(20):
            await hang(reader)
        assert trio.current_time() - start < LIMIT_S
        assert threads._jobs.qsize() == queued
        device.gate.set()
        await until(lambda: not threads._hung)
        into = bytearray(PAGE)
        await reader.read(0, memoryview(into))
        assert into == pages(2)[:PAGE]
        reader.close()
        await backend.close()

    trio.run(main)


def test_o1_the_descriptor_of_a_read_that_hangs_stays_open_until_it_ended(tmp_path: Path, device: Device) -> None:
    async def main() -> None:
        backend, reader = await two_pages(tmp_path)
        fd = reader._fd
        await hang(reader)
        reader.close()
        os.fstat(fd)
        device.gate.set()

        def is_closed() -> bool:
            try:
                return os.fstat(fd).st_size != 2 * PAGE
            except OSError:
                return True

        await until(is_closed)
        await backend.close()

    trio.run(main)


def test_cancelling_waits_for_the_thread(tmp_path: Path, device: Device) -> None:
    async def main() -> None:
        backend, reader = await two_pages(tmp_path)
        into = bytearray(PAGE)
        threading.Timer(LIMIT_S / 4, device.gate.set).start()
        with trio.CancelScope() as scope:
            scope.cancel()
            with trio.CancelScope(shield=True) as inner:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(reader.read, 0, memoryview(into))
                    await trio.testing.wait_all_tasks_blocked()
                    inner.shield = False
        assert into == pages(2)[:PAGE]
        reader.close()
        await backend.close()

    trio.run(main)


def test_the_timer_runs_only_while_reads_are_under_way(tmp_path: Path) -> None:
    async def main() -> None:
        backend, reader = await two_pages(tmp_path)
        for _ in range(3):
            await reader.read(0, memoryview(bytearray(PAGE)))
            await until(lambda: not backend._reader_threads._watching)
        reader.close()
        await backend.close()

    trio.run(main)


def test_o3_a_file_without_a_name_is_closed_by_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed_by: list[str] = []
    real = os.close

    def close(fd: int) -> None:
        closed_by.append(threading.current_thread().name)
        real(fd)

    async def main() -> None:
        backend, reader = await two_pages(tmp_path)
        await backend.delete("file")
        monkeypatch.setattr(os, "close", close)
        reader.close()
        await until(lambda: closed_by)
        monkeypatch.undo()
        await backend.close()

    trio.run(main)
    assert closed_by == ["sds-reader"]


def test_the_process_ends_with_a_read_that_hangs_and_one_that_returns_late_is_silent(tmp_path: Path) -> None:
    """Opening a pipe's end without the other one hangs as a dead disk does."""
    os.mkfifo(tmp_path / "pipe")
    program = f"""
import os, threading, time, trio
import backends.reader_threads as r
gate = threading.Event()
def slow(fd, into, offset):
    if offset: open({str(tmp_path / "pipe")!r}).read()
    gate.wait()
    return 0
r.os.preadv = slow
async def main():
    threads = r.ReaderThreads(limit_s=0.1)
    async with trio.open_nursery() as nursery:
        for offset in (0, 1):
            nursery.start_soon(threads.read, 0, offset, memoryview(bytearray(1)), lambda fd: None)
    threads.close()
trio.run(main)
gate.set()
time.sleep(0.1)
print("end")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_a_read_without_answer_fails_within_the_limit(device: Device) -> None:
    async def main() -> None:
        threads = ReaderThreads(limit_s=LIMIT_S)
        start = trio.current_time()
        error, count = await threads.read(0, 0, memoryview(bytearray(1)), lambda fd: None)
        assert isinstance(error, reader_threads.NoAnswer)
        assert count == 0
        assert LIMIT_S / 2 < trio.current_time() - start < 10
        threads.close()

    trio.run(main)
