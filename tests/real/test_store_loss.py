"""Volumes and filesystems on an object store alone, against real servers: workers, servers and machines are lost."""

import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from sds.nbd import wire
from tests.cli.load import Model, one_batch, write_until_closed
from tests.nbd.client import Client
from tests.real.stores import Machine, two_machines
from tests.servers import rgw
from tests.servers.moto import moto_server
from tests.servers.rgw import Rgw, rgw_server
from tests.servers.running import S3Server
from tools.servers import SdsServer

SIZE_BYTES = 16 << 20
KILLS = 3
BUCKET = "bucket"
_prefixes = count(1)


@pytest.fixture(scope="module")
def ceph() -> Iterator[Rgw]:
    if rgw.missing():
        pytest.skip(f"not installed: {rgw.missing()} (make setup)")
    with rgw_server() as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture(scope="module")
def moto() -> Iterator[S3Server]:
    with moto_server() as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture(params=["rgw", "moto"])
def server(request: pytest.FixtureRequest) -> S3Server:
    found: S3Server = request.getfixturevalue("ceph" if request.param == "rgw" else "moto")
    return found


def place(server: S3Server, *options: str) -> str:
    """One of its own for each test."""
    return server.url(f"{BUCKET}/p{next(_prefixes)}", *options)


def kill_after(worker: SdsServer, delay_s: float) -> threading.Thread:
    def kill() -> None:
        time.sleep(delay_s)
        worker.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def verify_elsewhere(second: Machine, url: str, model: Model, socket: Path, where: str) -> None:
    second.cli("pool", "import", "tank", url)
    with second.serve(socket) as worker, Client(str(worker.socket_path)) as client:
        model.verify(client, where)


def test_kill_9_of_a_worker_amid_uploads_loses_nothing_and_a_closed_volume_goes_elsewhere(
    server: S3Server, tmp_path: Path, socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = place(server)
    with two_machines(tmp_path, url, monkeypatch) as (first, second):
        first.cli("volume", "create", "tank/vm", str(SIZE_BYTES))
        model, delays = Model(SIZE_BYTES, 1), random.Random(1)
        worker = first.serve(socket_dir / "s")
        for number in range(KILLS):
            worker.start()
            with Client(str(worker.socket_path)) as client:
                model.verify(client, f"round {number}")
            killer = kill_after(worker, delays.uniform(0.2, 0.8))
            write_until_closed(model, str(worker.socket_path), requests=32)
            killer.join()
        assert model.answered > 20 * KILLS, "there was no load to speak of"
        with worker, Client(str(worker.socket_path)) as client:
            model.verify(client, "at the end")
            one_batch(model, client, 32)
        first.is_lost()
        verify_elsewhere(second, url, model, socket_dir / "t", "elsewhere, after it was closed")


def test_kill_9_of_the_server_amid_uploads_holds_up_nobody_and_all_is_uploaded_in_the_end(
    ceph: Rgw, tmp_path: Path, socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = place(ceph)
    with two_machines(tmp_path, url, monkeypatch) as (first, second):
        first.cli("volume", "create", "tank/vm", str(SIZE_BYTES))
        model = Model(SIZE_BYTES, 2)
        with first.serve(socket_dir / "s") as worker, Client(str(worker.socket_path)) as client:
            for _ in range(2):
                _load(model, client, 0.5)
                ceph.kill_gateway()
                answered = model.answered
                _load(model, client, 1.0)
                assert not client.call(wire.FLUSH).error, "flush=journal needs no server"
                assert model.answered > answered + 20, "the worker did not go on"
                ceph.start_gateway()
            model.verify(client, "beside the restarted server")
        first.is_lost()
        verify_elsewhere(second, url, model, socket_dir / "t", "elsewhere")


def _load(model: Model, client: Client, duration_s: float) -> None:
    end = time.monotonic() + duration_s
    while time.monotonic() < end:
        one_batch(model, client, 16)


@pytest.mark.parametrize("seed", [3])
def test_a_lost_machine_takes_nothing_along_that_was_flushed_with_flush_backend(
    server: S3Server, tmp_path: Path, socket_dir: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    url = place(server)
    with two_machines(tmp_path, url, monkeypatch) as (first, second):
        first.cli("volume", "create", "tank/vm", str(SIZE_BYTES))
        first.cli("set", "tank/vm", "flush=backend")
        model, later = Model(SIZE_BYTES, seed), Model(SIZE_BYTES, seed + 100)
        worker = first.serve(socket_dir / "s")
        worker.start()
        with Client(str(worker.socket_path)) as client:
            for _ in range(6):
                one_batch(model, client, 24)
                assert not client.call(wire.FLUSH).error
            later.blocks = list(model.blocks)
            for _ in range(random.Random(seed).randrange(1, 20)):
                for command, change in later.batch(8):
                    if command == wire.WRITE:
                        data = b"".join(change.blocks)
                        assert not client.call(command, change.first * 4096, payload=data).error
                        model.put_in_doubt(change)  # not flushed: the old content will do
        worker.kill()
        first.is_lost()
        verify_elsewhere(second, url, model, socket_dir / "t", "on another machine")


@contextmanager
def mounted(machine: Machine, where: Path) -> Iterator[None]:
    machine.sds("mount", "tank/fs", where)
    try:
        yield
    finally:
        machine.sds("unmount", where)


@pytest.mark.real("fusermount3", "tar", "diff")
def test_a_filesystem_on_a_store_alone_is_the_same_elsewhere_after_it_was_unmounted(
    server: S3Server, tmp_path: Path, socket_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, source, where = place(server), Path(__file__).parents[2] / "sds", socket_dir / "m"
    where.mkdir()
    with two_machines(tmp_path, url, monkeypatch) as (first, second):
        first.cli("fs", "create", "tank/fs")
        with mounted(first, where):
            copy = f"tar -C {source.parent} --exclude=__pycache__ -cf - sds | tar -C {where} -xf -"
            subprocess.run(copy, shell=True, check=True)
        first.is_lost()
        second.cli("pool", "import", "tank", url)
        with mounted(second, where):
            command = ["diff", "-r", "--exclude=__pycache__", "--no-dereference", str(source), str(where / "sds")]
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (found.returncode, found.stdout) == (0, "")
