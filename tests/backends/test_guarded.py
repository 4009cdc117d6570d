"""A backend that fails or hangs is asked no more, tells so, and comes back when a probe finds it well."""

import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from backends.directory import DirectoryBackend
from backends.faulty import FaultPlan, Faulty
from backends.guarded import CALM_S, ERRORS_MAX, PATIENCE_S, Guarded, Health
from backends.memory import MemoryBackend
from sds.core.errors import BackendError, BadInput, Corrupt, Exists, Hung, Missing, NoSpace, SdsError
from tests.backends.places import PAGE, pages, read_back
from tests.sim.schedule import run_seeded

Body = Callable[[Guarded, Faulty], Awaitable[None]]
LABEL = "sds-pool"


def run_guarded(body: Body) -> list[str]:
    """The changes of state that the body saw."""
    changes: list[str] = []

    def note(before: Health, after: Health) -> None:
        changes.append(f"{before.state}-{after.state}")

    async def main() -> None:
        inner = MemoryBackend()
        await inner.put(LABEL, bytes(pages(1)))
        faulty = Faulty(inner, FaultPlan())
        await body(Guarded(faulty, note, clock=trio.current_time), faulty)

    run_seeded(main, 0)
    return changes


def failing(error: type[SdsError] = BackendError) -> FaultPlan:
    return FaultPlan(at=1, lasting=True, error=error)


async def fail(guard: Guarded, times: int) -> None:
    for _ in range(times):
        with pytest.raises(BackendError, match="injected"):
            await guard.put("a", b"")


def test_errors_in_a_row_end_in_faulted_and_nothing_more_reaches_the_backend() -> None:
    async def body(guard: Guarded, faulty: Faulty) -> None:
        assert guard.health == Health("online", 0.0, 0, "")
        faulty.plan = failing()
        await fail(guard, ERRORS_MAX - 1)
        assert (guard.health.state, guard.health.errors) == ("degraded", ERRORS_MAX - 1)
        await trio.sleep(3)
        await fail(guard, 1)
        assert (guard.health.state, guard.health.since_s, guard.health.errors) == ("faulted", 3.0, ERRORS_MAX)
        assert "injected fault in put" in guard.health.last_error
        faulty.plan = FaultPlan()
        operations = [
            guard.create("b", PAGE), guard.write("b", 0, pages(1)), guard.sync("b"), guard.seal("b", 0),
            guard.put("b", b""), guard.delete("b"), guard.list(""),
        ]  # fmt: skip
        await trio.sleep(4)
        for operation in operations:
            with pytest.raises(BackendError, match=r"since 4 s ago: .*injected.*; it is tried again every 10 s"):
                await operation
        assert faulty.plan.seen == 0

    assert run_guarded(body) == ["online-degraded", "degraded-faulted"]


def test_a_success_in_between_keeps_it_out_of_faulted_and_calm_makes_it_online() -> None:
    async def body(guard: Guarded, faulty: Faulty) -> None:
        for _ in range(3):
            faulty.plan = failing()
            await fail(guard, ERRORS_MAX - 1)
            faulty.plan = FaultPlan()
            await guard.put("a", b"")
            assert (guard.health.state, guard.health.errors) == ("degraded", 0)
        await trio.sleep(CALM_S)
        await guard.put("a", b"")
        assert guard.health.state == "online"

    assert run_guarded(body) == ["online-degraded", "degraded-online"]


def test_one_hang_is_enough() -> None:
    async def body(guard: Guarded, faulty: Faulty) -> None:
        faulty.plan = failing(Hung)
        await fail(guard, 1)
        assert guard.health.state == "faulted"

    assert run_guarded(body) == ["online-faulted"]


@pytest.mark.parametrize("error", [Missing, Exists, NoSpace, Corrupt])
def test_answers_are_no_errors_of_the_backend(error: type[SdsError]) -> None:
    async def body(guard: Guarded, faulty: Faulty) -> None:
        faulty.plan = failing(error)
        for _ in range(2 * ERRORS_MAX):
            with pytest.raises(error):
                await guard.put("a", b"")

    assert run_guarded(body) == []


def test_a_store_that_refuses_our_credentials_counts_and_another_copy_may_do() -> None:
    async def body(guard: Guarded, faulty: Faulty) -> None:
        reader = await guard.open(LABEL)
        faulty.plan = failing(BadInput)
        for operation in (guard.put("a", b""), guard.get("a", 1), reader.read(0, memoryview(bytearray(PAGE)))):
            with pytest.raises(BackendError, match="injected"):
                await operation
        assert guard.health.errors == 3

    assert run_guarded(body) == ["online-degraded"]


def test_errors_of_open_files_count() -> None:
    async def body(guard: Guarded, faulty: Faulty) -> None:
        reader = await guard.open(LABEL)
        faulty.plan = failing()
        for _ in range(ERRORS_MAX):
            with pytest.raises(BackendError, match="injected fault in read"):
                await reader.read(0, memoryview(bytearray(PAGE)))
        assert not reader.will_need(0, PAGE)

    assert run_guarded(body) == ["online-degraded", "degraded-faulted"]


def test_only_a_probe_ends_a_fault() -> None:
    async def body(guard: Guarded, faulty: Faulty) -> None:
        faulty.plan = failing(Hung)
        await fail(guard, 1)
        assert not await guard.probe(LABEL)
        faulty.plan = FaultPlan()
        assert not await guard.probe("another-label")  # Another disk is mounted there, or none.
        assert "no such file" in guard.health.last_error
        await read_back(guard, LABEL, 0, PAGE)
        assert guard.health.state == "faulted"
        assert await guard.probe(LABEL)
        assert (guard.health.state, guard.health.errors) == ("online", 0)
        await guard.put("a", b"")

    assert run_guarded(body) == ["online-faulted", "faulted-online"]


def test_a_probe_that_gets_no_answer_ends_and_counts_as_a_hang() -> None:
    async def body(guard: Guarded, faulty: Faulty) -> None:
        faulty.gate = trio.Event()
        assert not await guard.probe(LABEL, limit_s=2)
        assert trio.current_time() == 2
        assert guard.health.state == "faulted"

    assert run_guarded(body) == ["online-faulted"]


def test_probing_a_healthy_backend_changes_nothing() -> None:
    async def body(guard: Guarded, faulty: Faulty) -> None:
        assert await guard.probe(LABEL)

    assert run_guarded(body) == []


def test_what_lies_only_here_is_read_one_at_a_time_while_it_is_faulted() -> None:
    at_once: list[int] = []

    class Counting(MemoryBackend):
        under_way = 0

        async def get(self, name: str, size_limit_bytes: int) -> bytes:
            self.under_way += 1
            at_once.append(self.under_way)
            await trio.sleep(PATIENCE_S / 10)
            self.under_way -= 1
            return await super().get(name, size_limit_bytes)

    async def main() -> None:
        inner = Counting()
        await inner.put(LABEL, b"x")
        guard = Guarded(inner, clock=trio.current_time)
        guard.failed(Hung("hung"))
        got: list[bytes] = []

        async def get() -> None:
            got.append(await guard.get(LABEL, 1))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(get)
        assert (got, at_once) == ([b"x"] * 5, [1] * 5)

    run_seeded(main, 0)


def test_while_one_read_hangs_the_others_fail_soon_and_then_at_once() -> None:
    async def body(guard: Guarded, faulty: Faulty) -> None:
        guard.failed(Hung("hung"))
        faulty.gate = trio.Event()
        took_s: list[float] = []

        async def refused() -> None:
            start = trio.current_time()
            with pytest.raises(BackendError, match="faulted"):
                await guard.get(LABEL, PAGE)
            took_s.append(trio.current_time() - start)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(guard.get, LABEL, PAGE)
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as impatient:
                impatient.start_soon(refused)
                impatient.start_soon(refused)
            await refused()
            faulty.gate.set()
        assert took_s == [PATIENCE_S, PATIENCE_S, 0.0]
        assert await guard.get(LABEL, PAGE) == pages(1)

    run_guarded(body)


def test_a_cancelled_operation_says_nothing_about_the_backend() -> None:
    async def body(guard: Guarded, faulty: Faulty) -> None:
        faulty.gate = trio.Event()
        with trio.move_on_after(1):
            await guard.put("a", b"")
        assert guard.health == Health("online", 0.0, 0, "")

    assert run_guarded(body) == []


def test_read_nowait_is_the_inner_one_and_the_rest_passes() -> None:
    async def main() -> None:
        inner = MemoryBackend(url="memory:one")
        guard = Guarded(inner)
        await guard.put("a", b"1234")
        reader = await guard.open("a")
        into = bytearray(4)
        assert reader.read_nowait(0, memoryview(into))
        assert into == b"1234"
        assert reader.read_nowait.__self__ is not reader  # type: ignore[attr-defined]
        reader.close()
        assert not reader.read_nowait(0, memoryview(into))
        guard.failed(Hung("hung"))
        await guard.settle("")
        assert (guard.url, guard.usage(), guard.inner) == ("memory:one", inner.usage(), inner)
        await guard.close()

    trio.run(main)


def test_a_disk_that_hangs_holds_up_nobody_and_serves_again_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, limit_s = threading.Event(), 0.15
    real = os.preadv

    def slow(fd: int, into: list[memoryview], offset: int) -> int:
        gate.wait()
        return real(fd, into, offset)

    async def main() -> None:
        backend = DirectoryBackend(str(tmp_path), limit_s)
        guard = Guarded(backend)
        await guard.put(LABEL, bytes(pages(1)))
        reader = await guard.open(LABEL)
        with monkeypatch.context() as patch:
            patch.setattr(os, "preadv", slow)
            with pytest.raises(Hung):
                await reader.read(0, memoryview(bytearray(PAGE)))
            with pytest.raises(BackendError, match="faulted"):
                await guard.put("a", b"")
            gate.set()
        assert await guard.probe(LABEL)
        into = bytearray(PAGE)
        await reader.read(0, memoryview(into))
        assert into == pages(1)
        reader.close()
        await guard.close()

    trio.run(main)
