"""Owner records: who may use a pool, and how another one takes it over."""

import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace

import pytest
import trio

from backends.base import Backend
from backends.memory import MemoryBackend
from sds.core.errors import BackendError, Busy, Corrupt, Fenced, SdsError
from sds.pool import owner
from sds.pool.owner import (
    IDLE,
    IN_USE,
    LEASE_S,
    OWNER,
    TAKEN,
    Identity,
    OwnerRecord,
    claim,
    decode_owner,
    encode_owner,
    read_owner,
    renew,
)  # fmt: skip
from sds.pool.takeover import take_over
from tests.pool.owning import A, B, C, Link, machine, record_on
from tests.sim.objects import Rates, SimObjects
from tests.sim.schedule import run_seeded

RECORD = OwnerRecord(A.owner, A.host, 3, 17, IN_USE, 1000)


def clock() -> float:
    return 1000.0


def run(work: Callable[[], Awaitable[None]], seed: int = 0) -> None:
    run_seeded(work, seed)


class Said:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        self.lines.append(line)


async def take(backends: list[Backend], me: Identity, force: bool = False, said: Said | None = None) -> int:
    return await take_over("tank", backends, me, force, said or Said(), clock)


async def owned_by(backends: list[Backend], me: Identity, state: str) -> int:
    return await claim("tank", dict(enumerate(backends)), me, 0, state, clock)


# -- the record --------------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was_written() -> None:
    assert decode_owner(encode_owner(RECORD), "memory:") == RECORD


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff", b"[]", b"{}", b"[" * 2000,
        *(encode_owner(replace(RECORD, **wrong)) for wrong in (
            {"owner": "A" * 32}, {"owner": ""}, {"generation": 0}, {"generation": 1 << 63}, {"beat": -1},
            {"state": "dead"}, {"written_at": 1 << 60}, {"host": "h" * 300}, {"format": 0},
        )),
        json.dumps(asdict(RECORD) | {"more": 1}).encode(), json.dumps(asdict(RECORD) | {"beat": True}).encode(),
    ],
)  # fmt: skip
def test_a_damaged_record_is_told_as_such(data: bytes) -> None:
    with pytest.raises(Corrupt, match="sds-owner is damaged"):
        decode_owner(data, "memory:")


def test_the_record_of_a_newer_release_keeps_this_one_out() -> None:
    async def work() -> None:
        backend = MemoryBackend()
        await backend.put(OWNER, json.dumps({"format": 2}).encode())
        with pytest.raises(Fenced, match="upgrade sds"):
            await owned_by([backend], A, IN_USE)

    run(work)


def test_what_a_host_calls_itself_cannot_write_on_the_terminal() -> None:
    assert "\x1b" not in decode_owner(encode_owner(replace(RECORD, host="\x1b[2J")), "memory:").host


# -- who has it ------------------------------------------------------------------------------------------------------


def test_a_pool_without_records_belongs_to_the_first_who_opens_it() -> None:
    async def work() -> None:
        backends: list[Backend] = [MemoryBackend(), MemoryBackend()]
        assert await owned_by(backends, A, IN_USE) == 1
        assert [(await record_on(one)).owner for one in backends] == [A.owner, A.owner]
        with pytest.raises(Fenced, match="taken over by host-a"):
            await owned_by(backends, B, IN_USE)

    run(work)


def test_a_backend_that_was_away_during_a_takeover_neither_fences_nor_stays_behind() -> None:
    async def work() -> None:
        away, there = MemoryBackend(), MemoryBackend()
        await owned_by([away, there], A, IDLE)
        generation = await take([there], B)
        assert await claim("tank", {1: away, 2: there}, B, generation, IN_USE, clock) == 2
        assert (await record_on(away)).owner == B.owner
        with pytest.raises(Fenced):
            await claim("tank", {1: away, 2: there}, A, 1, IN_USE, clock)

    run(work)


def test_a_stale_record_does_not_lock_out_the_home_that_knows_better() -> None:
    """Of the backends with its own records none is left."""

    async def work() -> None:
        stale = MemoryBackend()
        await owned_by([stale], A, IN_USE)
        assert await claim("tank", {1: stale}, B, 2, IN_USE, clock) == 2
        assert (await record_on(stale)).owner == B.owner

    run(work)


def test_without_a_backend_that_answers_nothing_is_claimed() -> None:
    async def work() -> None:
        (backend,) = machine([SimObjects()])
        backend.store.cut = True
        with pytest.raises(BackendError, match="no backend says"):
            await owned_by([backend], A, IN_USE)

    run(work)


def test_a_damaged_record_counts_beside_an_own_one_only() -> None:
    async def work() -> None:
        good, bad = MemoryBackend(), MemoryBackend()
        await owned_by([good], A, IDLE)
        await bad.put(OWNER, b"x")
        await owned_by([good, bad], A, IN_USE)
        assert (await record_on(bad)).owner == A.owner
        await bad.put(OWNER, b"x")
        with pytest.raises(Corrupt, match="damaged"):
            await owned_by([bad], A, IN_USE)
        with pytest.raises(Corrupt, match="--force"):
            await take([bad], B)
        before_s = trio.current_time()
        await take([bad], B, force=True)
        assert trio.current_time() >= before_s + LEASE_S
        assert (await record_on(bad)).owner == B.owner

    run(work)


def test_a_renewal_that_was_sent_twice_is_no_conflict() -> None:
    """The first request arrived, only its answer did not."""

    class Twice(Link):
        async def replace(self, key: str, content: bytes, tag: str | None) -> str:
            await super().replace(key, content, tag)
            return await super().replace(key, content, tag)

    async def work() -> None:
        (backend,) = machine([store := SimObjects()])
        backend.store = Twice(store)
        for beat in (1, 2):
            record = await renew("tank", backend, A, 1, IN_USE, clock)
            assert record.beat == beat
            assert await record_on(backend) == record

    run(work)


# -- taking over -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [IDLE, "absent", "own"])
def test_what_nobody_uses_is_taken_at_once(state: str) -> None:
    async def work() -> None:
        backends = machine([SimObjects(seed=n, url=f"sim:{n}") for n in range(3)])
        if state != "absent":
            await owned_by([*backends], B if state == "own" else A, IN_USE if state == "own" else IDLE)
        before_s = trio.current_time()
        said = Said()
        generation = await take([*backends], B, said=said)
        assert trio.current_time() < before_s + 5
        assert generation == (1 if state == "absent" else 2)
        assert said.lines == []
        for backend in backends:
            record = await record_on(backend)
            assert (record.owner, record.generation, record.state) == (B.owner, generation, TAKEN)

    run(work)


def test_a_dead_owner_is_taken_over_after_its_lease_and_not_before() -> None:
    async def work() -> None:
        backends = machine([SimObjects()])
        await owned_by([*backends], A, IN_USE)
        before_s = trio.current_time()
        said = Said()
        assert await take([*backends], B, said=said) == 2
        assert LEASE_S <= trio.current_time() - before_s < LEASE_S + 10
        assert "in use by host-a" in said.lines[0]

    run(work)


@pytest.mark.parametrize("conditional", [True, False])
def test_a_live_owner_keeps_its_pool(conditional: bool) -> None:
    async def work() -> None:
        (mine,), (theirs,) = machine([store := SimObjects(conditional=conditional)]), machine([store])
        await owned_by([mine], A, IN_USE)

        async def beat() -> None:
            while True:
                await trio.sleep(owner.BEAT_S)
                await renew("tank", mine, A, 1, IN_USE, clock)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(beat)
            with pytest.raises(Busy, match="in use by host-a, last heartbeat just now"):
                await take([theirs], B)
            nursery.cancel_scope.cancel()
        assert (await record_on(mine)).owner == A.owner

    run(work)


def test_an_owner_that_closes_while_it_is_watched_need_not_be_waited_for() -> None:
    async def work() -> None:
        (mine,), (theirs,) = machine([store := SimObjects()]), machine([store])
        await owned_by([mine], A, IN_USE)

        async def leave() -> None:
            await trio.sleep(5)
            await owner.release("tank", {1: mine}, A, 1, clock)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            before_s = trio.current_time()
            assert await take([theirs], B) == 2
            assert trio.current_time() < before_s + 10

    run(work)


def test_force_takes_from_a_live_owner_warns_and_then_waits() -> None:
    async def work() -> None:
        (mine,), (theirs,) = machine([store := SimObjects()]), machine([store])
        await owned_by([mine], A, IN_USE)
        fenced_s: list[float] = []

        async def beat() -> None:
            try:
                while True:
                    await trio.sleep(0.3)
                    await renew("tank", mine, A, 1, IN_USE, clock)
            except Fenced:
                fenced_s.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(beat)
            said = Said()
            assert await take([theirs], B, force=True, said=said) == 2
            assert said.lines[0].startswith("WARNING: pool tank is in use by host-a")
        assert trio.current_time() - fenced_s[0] > LEASE_S - 1

    run(work)


def test_a_takeover_by_force_that_was_cut_off_waits_again() -> None:
    async def work() -> None:
        (mine,), (theirs,) = machine([store := SimObjects()]), machine([store])
        await owned_by([mine], A, IN_USE)
        with trio.move_on_after(LEASE_S / 2):
            await take([theirs], B, force=True)
        assert (await record_on(theirs)).state == TAKEN
        before_s = trio.current_time()
        await take([theirs], B)
        assert trio.current_time() >= before_s + LEASE_S

    run(work)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("before", ["absent", IDLE, IN_USE])
@pytest.mark.parametrize("seeds", [range(0, 12), range(12, 24)], ids=str)
def test_of_importers_at_the_same_time_one_wins(seeds: range, before: str, force: bool) -> None:
    """By force the last one may win, after the other: then that one finds out before it may open anything."""
    for seed in seeds:
        winners = race(seed, before, force, Rates())
        assert len(winners) == 1, f"seed {seed}: {winners}"


@pytest.mark.parametrize("before", ["absent", IDLE, IN_USE])
def test_of_importers_over_a_bad_network_at_most_one_wins(before: str) -> None:
    won = 0
    for seed in range(30):
        rates = Rates(error_before=0.05, error_after=0.1, zombie=0.1, slow=0.1)
        winners = race(seed, before, False, rates)
        assert len(winners) <= 1, f"seed {seed}: {winners}"
        won += len(winners)
    assert won, "the rates are so bad that nothing was tried"


def race(seed: int, before: str, force: bool, rates: Rates) -> list[str]:
    """Who believes in the end that the pool is his: what an import checks before its pool exists."""
    rng = random.Random(seed)
    stores = [SimObjects(seed=seed * 10 + n, url=f"sim:{n}") for n in range(rng.randint(1, 3))]

    async def prepare() -> None:
        if before != "absent":
            await owned_by([*machine(stores)], A, before)

    run(prepare, seed)
    for store in stores:
        store.rates = rates
    return race_on(stores, rng, force, seed, Said())


def race_on(stores: list[SimObjects], rng: random.Random, force: bool, seed: int, said: Said) -> list[str]:
    winners: list[str] = []

    async def importer(me: Identity, delay_s: float) -> None:
        backends = machine(stores)
        await trio.sleep(delay_s)
        try:
            generation = await take([*backends], me, force, said)
            await trio.sleep(60)  # until what was under way has landed
            await owner.check_owner("tank", dict(enumerate(backends)), me, generation)
        except SdsError as error:
            assert isinstance(error, Busy | Fenced | BackendError), error  # noqa: PT017
        else:
            winners.append(me.host)

    async def work() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(importer, B, rng.random() * 0.3)
            nursery.start_soon(importer, C, rng.random() * 0.3)

    run(work, seed)
    return winners


def test_a_store_that_ignores_conditions_is_told_about_and_a_race_is_noticed_afterwards() -> None:
    said = Said()
    for seed in range(20):
        store = SimObjects(seed=seed, conditional=False)
        assert len(race_on([store], random.Random(seed), False, seed, said)) <= 1
    assert any("ignores conditional puts" in line for line in said.lines)


def test_two_homes_over_directories_do_not_both_win() -> None:
    async def work() -> None:
        backend = MemoryBackend()
        results: list[str] = []

        async def importer(me: Identity) -> None:
            try:
                await take([backend], me)
            except Busy:
                return
            results.append(me.host)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(importer, B)
            nursery.start_soon(importer, C)
        assert len(results) == 1
        assert (await read_owner(backend)).record is not None

    for seed in range(20):
        run(work, seed)
