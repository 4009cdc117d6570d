"""Loop devices as raw disks: one of three fails under load, comes back, and is replaced.

A device fails when its size is limited to next to nothing: the kernel answers every request beyond with EIO, as with a
disk that was pulled out. Without the limit it is back, with what it had.
"""

import os
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest

from sds.nbd import wire
from tests.backends.loops import loop_device
from tests.cli.load import Model, one_batch
from tests.nbd.client import Client
from tests.real.stores import Machine, remove_stages
from tools.servers import SdsServer

pytestmark = pytest.mark.real("losetup")
SIZE_BYTES = 16 << 20
DEVICE_BYTES = 192 << 20
LOOP_SET_STATUS64, LOOP_GET_STATUS64 = 0x4C04, 0x4C05
INFO_BYTES, SIZELIMIT_AT = 232, 32
STORED_BYTES = 4 << 20
PATIENCE_S = 40.0


class Load:
    """Batches all the time, in a thread of its own; each flushed."""

    def __init__(self, worker: SdsServer, seed: int) -> None:
        self.model = Model(SIZE_BYTES, seed)
        self.error: BaseException | None = None
        self._address = str(worker.socket_path)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with Client(self._address) as client:
                while not self._stop.is_set():
                    one_batch(self.model, client, 8)
                    assert not client.call(wire.FLUSH).error
                    time.sleep(0.01)
                self.model.verify(client, "at the end of the load")
        except BaseException as error:
            self.error = error

    def goes_on(self) -> None:
        before, end = self.model.answered, time.monotonic() + 10
        while self.model.answered < before + 50:
            assert self.error is None and time.monotonic() < end, f"the load stands still: {self.error}"
            time.sleep(0.05)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        if self.error is not None:
            raise self.error


def wait_for(true: Callable[[], bool], what: str, load: Load) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert load.error is None, f"the load had an error: {load.error}"
        assert time.monotonic() < end, what
        time.sleep(0.2)


def risk(machine: Machine) -> dict[str, Any]:
    found: dict[str, Any] = machine.cli.json("pool", "status", "tank")["at_risk"]
    return found


def stored_bytes(machine: Machine, disk: str) -> int:
    backends = machine.cli.json("pool", "status", "tank")["backends"]
    return next(int(one["stored_bytes"]) for one in backends if disk in one["url"])


@contextmanager
def disks_of(root: Path) -> Iterator[list[str]]:
    with ExitStack() as stack:
        yield [stack.enter_context(loop_device(root / f"image{number}", DEVICE_BYTES)) for number in range(4)]


def limit(device: str, size_bytes: int) -> None:
    """What there is of the device from now on; 0: all. As struct loop_info64 has it."""
    with open(device, "rb", buffering=0) as file:
        info = bytearray(INFO_BYTES)
        ioctl(file, LOOP_GET_STATUS64, info)
        struct.pack_into("=Q", info, SIZELIMIT_AT, size_bytes)
        ioctl(file, LOOP_SET_STATUS64, info)


def test_a_disk_fails_under_load_comes_back_is_resilvered_and_another_one_is_replaced(
    tmp_path: Path, socket_dir: Path
) -> None:
    machine = Machine(tmp_path / "home")
    with disks_of(tmp_path) as (one, two, three, new):
        disks = [f"disk:{name}" for name in (one, two, three)]
        machine.cli("pool", "create", "tank", *disks, "--copies", "2", "--segment-size", "256K")
        machine.cli("volume", "create", "tank/vm", str(SIZE_BYTES), "--compress", "off")
        uuid = machine.uuid
        try:
            with machine.serve(socket_dir / "s") as worker:
                load = Load(worker, 7)
                try:
                    fails_and_returns(machine, load, three)
                finally:
                    load.stop()
            is_replaced(machine, three, new, load.model, socket_dir)
        finally:
            remove_stages(uuid)


def fails_and_returns(machine: Machine, load: Load, disk: str) -> None:
    wait_for(lambda: stored_bytes(machine, disk) > STORED_BYTES, "nothing is placed on this disk", load)
    limit(disk, 512)
    wait_for(lambda: risk(machine)["degraded_files"] > 0, "the failure does not show in the status", load)
    load.goes_on()
    assert "have fewer copies than asked" in machine.cli("pool", "status", "tank")
    limit(disk, 0)
    wait_for(lambda: risk(machine)["degraded_files"] == 0, "the disk that came back is not resilvered", load)
    before = stored_bytes(machine, disk)
    wait_for(lambda: stored_bytes(machine, disk) > before + STORED_BYTES, "nothing new is placed there again", load)
    assert {one["state"] for one in machine.cli.json("pool", "status", "tank")["backends"]} == {"online"}


def is_replaced(machine: Machine, lost: str, new: str, model: Model, socket_dir: Path) -> None:
    """The disk is gone for good: its superblock is wiped, as if another one had its name."""
    (url,) = [one["url"] for one in machine.cli.json("pool", "status", "tank")["backends"] if lost in one["url"]]
    subprocess.run(["dd", "if=/dev/zero", f"of={lost}", "bs=1M", "count=8", "conv=notrunc", "status=none"], check=False)
    wipe_end(lost)
    status = machine.cli.json("pool", "status", "tank")
    assert {one["state"] for one in status["backends"]} == {"online", "missing"}
    assert status["at_risk"]["degraded_files"] > 0 and status["at_risk"]["unreachable_files"] == 0
    machine.cli("pool", "add", "tank", f"disk:{new}")
    machine.cli("pool", "remove", "tank", url, "--lost")
    assert risk(machine)["degraded_files"] == 0
    assert machine.cli.json("pool", "scrub", "tank", "--rate", "0")["findings"] == []
    with machine.serve(socket_dir / "t") as worker, Client(str(worker.socket_path)) as client:
        model.verify(client, "after the disk was replaced")


def wipe_end(device: str) -> None:
    """The second superblock."""
    with open(device, "r+b", buffering=0) as file:
        file.seek(-(8 << 20), os.SEEK_END)
        file.write(bytes(8 << 20))
