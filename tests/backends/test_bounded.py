"""A thread that hangs holds up nobody: neither its caller, nor other calls, nor the end of the process."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from backends.bounded import THREADS_MAX, in_thread
from backends.directory import DirectoryBackend
from sds.core.errors import BackendError, Hung
from tests.backends.places import PAGE, pages

LIMIT_S = 0.15
NAME = "segments/000001/1-1"


async def until(condition: Callable[[], object]) -> None:
    """The late end of a thread has reached the event loop."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - threads set no trio.Event
            await trio.sleep(0.001)


def test_a_call_that_hangs_ends_with_an_error_that_names_it_and_tells_its_late_end() -> None:
    async def main() -> None:
        limiter, gate, late = trio.CapacityLimiter(2), threading.Event(), list[int | None]()

        def work() -> int:
            gate.wait()
            return 7

        with pytest.raises(Hung, match="the disk: no answer"):
            await in_thread(work, limiter, "the disk", LIMIT_S, late.append)
        assert late == []
        gate.set()
        await until(lambda: late)
        assert (late, limiter.total_tokens, limiter.borrowed_tokens) == ([7], 2, 0)

    trio.run(main)


def test_threads_that_hang_do_not_take_the_place_of_others() -> None:
    async def main() -> None:
        limiter, gate = trio.CapacityLimiter(1), threading.Event()
        for _ in range(3):
            with pytest.raises(Hung):
                await in_thread(gate.wait, limiter, "the disk", 0.01)
            assert await in_thread(lambda: 1, limiter, "the disk", 10) == 1
        gate.set()
        await until(lambda: not limiter.borrowed_tokens)
        assert limiter.total_tokens == 1

    trio.run(main)


def test_the_number_of_threads_is_bounded_and_the_wait_for_one_counts() -> None:
    async def main() -> None:
        limiter, gate, late = trio.CapacityLimiter(THREADS_MAX), threading.Event(), list[object]()

        async def hang() -> None:
            with pytest.raises(Hung, match="no answer"):
                await in_thread(gate.wait, limiter, "the disk", LIMIT_S)

        async with trio.open_nursery() as nursery:
            for _ in range(THREADS_MAX):
                nursery.start_soon(hang)
        assert limiter.total_tokens == THREADS_MAX
        with pytest.raises(Hung, match="busy"):
            await in_thread(lambda: pytest.fail("no thread is free"), limiter, "the disk", LIMIT_S, late.append)
        assert late == [None]
        gate.set()
        await until(lambda: not limiter.borrowed_tokens)

    trio.run(main)


def test_cancellation_waits_for_a_thread_that_began_but_not_for_a_place() -> None:
    async def main() -> None:
        limiter, gate, ended = trio.CapacityLimiter(1), threading.Event(), list[object]()

        async def first() -> None:
            await in_thread(lambda: ended.append(gate.wait()), limiter, "the disk", 10)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0.01) as scope:
                await in_thread(lambda: ended.append("second"), limiter, "the disk", 10)
            assert scope.cancelled_caught
            nursery.cancel_scope.cancel()
            await trio.lowlevel.cancel_shielded_checkpoint()
            assert ended == []
            gate.set()
        assert ended == [True]

    trio.run(main)


def test_the_process_ends_with_a_thread_that_hangs() -> None:
    program = """
import threading, trio
from backends.bounded import in_thread
from sds.core.errors import Hung
async def main():
    try:
        await in_thread(threading.Event().wait, trio.CapacityLimiter(1), "the disk", 0.05)
    except Hung:
        print("hung")
trio.run(main)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hung\n", "")


@contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch, function: str) -> Iterator[threading.Event]:
    """A system call of the directory backend waits until the event is set."""
    gate, real = threading.Event(), getattr(os, function)

    def slow(*args: object, **options: object) -> object:
        gate.wait()
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, function, slow)
        try:
            yield gate
        finally:
            gate.set()


def test_d7_a_late_put_never_overwrites_a_newer_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        backend = DirectoryBackend(str(tmp_path), LIMIT_S)
        with hanging(monkeypatch, "rename") as gate:
            with pytest.raises(Hung, match="owner"):
                await backend.put("owner", b"old")
            for refused in (backend.put("owner", b"new"), backend.delete("owner")):
                with pytest.raises(BackendError, match="still hangs"):
                    await refused
            gate.set()
            await until(lambda: not backend._hanging)
        assert await backend.get("owner", 10) == b"old"
        await backend.put("owner", b"new")
        assert await backend.get("owner", 10) == b"new"
        await backend.close()

    trio.run(main)


def test_d7_a_file_whose_write_hangs_is_final_and_its_blocks_are_not_used_again_before_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 1 << 20

    async def main() -> None:
        backend = DirectoryBackend(str(tmp_path), LIMIT_S)
        await backend.create(NAME, size)
        await backend.write(NAME, 0, pages(256), sync=True)
        with hanging(monkeypatch, "pwritev") as gate:
            with pytest.raises(Hung):
                await backend.write(NAME, 0, pages(1, fill=9))
            for later in (backend.write(NAME, 0, pages(1)), backend.sync(NAME), backend.seal(NAME, size)):
                with pytest.raises(BackendError, match="failed earlier"):
                    await later
            with pytest.raises(BackendError, match="still hangs"):
                await backend.delete(NAME)
            gate.set()
            await until(lambda: not backend._hanging)
        with pytest.raises(BackendError, match="failed earlier"):
            await backend.write(NAME, 0, pages(1))
        await backend.delete(NAME)
        await backend.create(NAME, size)
        await backend.write(NAME, 0, pages(1), sync=True)
        await backend.close()

    trio.run(main)


def test_a_file_that_opens_late_is_closed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        backend = DirectoryBackend(str(tmp_path), LIMIT_S)
        await backend.put("owner", b"x")
        before = len(os.listdir("/proc/self/fd"))
        with hanging(monkeypatch, "fstat") as gate:
            with pytest.raises(Hung):
                await backend.open("owner")
            gate.set()
        await until(lambda: len(os.listdir("/proc/self/fd")) == before)
        await backend.close()

    trio.run(main)


def test_closing_does_not_wait_for_what_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        backend = DirectoryBackend(str(tmp_path), LIMIT_S)
        await backend.create(NAME, PAGE)
        with hanging(monkeypatch, "fdatasync"):
            with pytest.raises(Hung):
                await backend.sync(NAME)
            with trio.fail_after(LIMIT_S):
                await backend.close()

    trio.run(main)
