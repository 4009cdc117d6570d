"""The fault injector hits exactly the operation that it was told to."""

import pytest
import trio

from backends.base import Backend, Stat
from backends.faulty import FaultPlan, Faulty
from backends.memory import MemoryBackend
from sds.core.errors import BackendError, NoSpace, SdsError
from tests.backends.places import PAGE, pages, read_back
from tests.sim.schedule import run_seeded

NAME = "segments/1"


async def work(backend: Backend) -> None:
    await backend.create(NAME, 2 * PAGE)
    await backend.write(NAME, 0, pages(1))
    await backend.sync(NAME)
    await backend.seal(NAME, PAGE)
    assert await read_back(backend, NAME, 0, PAGE) == pages(1)
    await backend.put("a", b"1")
    await backend.get("a", 1)
    await backend.list("")
    await backend.delete("a")


def test_a_loop_over_i_fails_every_operation_once_and_then_ends() -> None:
    messages = []
    for index in range(1, 100):
        plan = FaultPlan(at=index, error=NoSpace)
        backend = Faulty(MemoryBackend(), plan)
        try:
            run_seeded(lambda backend=backend: work(backend), 0)  # type: ignore[misc]
        except NoSpace as error:
            messages.append(str(error))
        if not plan.fired:
            break
    kinds = [message.split("injected fault in ")[1].split()[0] for message in messages]
    assert kinds == ["create", "write", "sync", "seal", "open", "read", "put", "get", "list", "delete"]


def test_a_plan_of_one_kind_counts_only_that_kind() -> None:
    plan = FaultPlan(at=2, kind="put")

    async def body() -> None:
        backend = Faulty(MemoryBackend(), plan)
        await work(backend)
        with pytest.raises(BackendError, match="put"):
            await backend.put("b", b"")
        await backend.put("b", b"")

    run_seeded(body, 0)
    assert (plan.seen, plan.fired) == (3, 1)


@pytest.mark.parametrize("when", ["before", "after"])
def test_before_leaves_no_trace_and_after_leaves_the_effect(when: str) -> None:
    async def body() -> None:
        inner = MemoryBackend()
        backend = Faulty(inner, FaultPlan(at=1, kind="put", when="after" if when == "after" else "before"))
        with pytest.raises(BackendError):
            await backend.put("a", b"")
        assert len(await inner.list("")) == (when == "after")

    run_seeded(body, 0)


def test_b4_a_fault_in_write_or_sync_is_final_for_the_file() -> None:
    async def body() -> None:
        backend = Faulty(MemoryBackend(), FaultPlan(at=1, kind="sync"))
        await backend.create(NAME, PAGE)
        with pytest.raises(BackendError, match="injected"):
            await backend.sync(NAME)
        for later in (backend.sync(NAME), backend.write(NAME, 0, pages(1)), backend.seal(NAME, 0)):
            with pytest.raises(BackendError, match="failed earlier"):
                await later
        await backend.delete(NAME)
        await backend.create(NAME, PAGE)
        await backend.sync(NAME)

    run_seeded(body, 0)


def test_a_lasting_fault_never_heals_and_no_read_escapes_it() -> None:
    async def body() -> None:
        backend = Faulty(MemoryBackend(), FaultPlan())
        await backend.put("a", b"12345")
        reader = await backend.open("a")
        into = memoryview(bytearray(5))
        assert reader.read_nowait(0, into)
        backend.plan = FaultPlan(at=2, kind="read", lasting=True)
        assert not reader.read_nowait(0, into)
        await reader.read(0, into)
        for _ in range(3):
            with pytest.raises(SdsError):
                await reader.read(0, into)

    run_seeded(body, 0)


def test_operations_can_be_held_and_let_go() -> None:
    async def body() -> None:
        gate = trio.Event()
        backend = Faulty(MemoryBackend(), FaultPlan(), delay_s=5, gate=gate)
        begin = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.put, "a", b"")
            await trio.sleep(60)
            assert backend.usage().free_bytes
            assert not await _inner_list(backend)
            gate.set()
        assert trio.current_time() - begin == pytest.approx(60)
        assert [entry.name for entry in await _inner_list(backend)] == ["a"]

    async def _inner_list(backend: Faulty) -> list[Stat]:
        return list(await backend._inner.list(""))

    run_seeded(body, 0)
