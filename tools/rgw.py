"""Ceph RGW from Debian: monitor, one OSD and the gateway, in a temporary directory, without authentication inside.

  RG1  tcp_nodelay=1: without it each small GET waits 40 ms for a delayed acknowledgement. Who runs RGW for sds sets it
       too.
  RG2  The short Paxos intervals bring the start from 15 s to 2 s.
  RG3  Daemons write their pid where `stop` finds it; nothing else is signalled.
  RG4  If the start fails, it is tried again with other ports.

Keeps If-None-Match and If-Match on puts, but the latter only without quotes (RGW 16), and ignores conditions at the end
of an upload in parts.
"""

import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.s3_running import (
    ACCESS_KEY,
    SECRET_KEY,
    S3Server,
    answers,
    end_by_pid,
    free_port,
    wait_until,
    write_credentials,
)

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin")
GATEWAY, OSD, MONITOR = "client.admin", "osd.0", "mon.a"
COMMAND_S = 60
START_ATTEMPTS = 3

CONFIG = """
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon_port}
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd pool default pg num = 8
osd pool default pgp num = 8
mon max pg per osd = 2000
mon allow pool size one = true
mon warn on pool no redundancy = false
run dir = {directory}/run
admin socket = {directory}/run/$name.$pid.asok
pid file = {directory}/run/$name.pid
log file = {directory}/log/$name.log
ms bind ipv6 = false
ms bind msgr2 = false
public network = 127.0.0.0/8
paxos propose interval = 0.02
paxos min wait = 0.01
osd mon report interval = 1
[mon]
mon data = {directory}/mon
mon initial members = a
mon data avail crit = 1
mon data avail warn = 2
[mon.a]
public addr = v1:127.0.0.1:{mon_port}
[osd]
osd data = {directory}/osd
osd objectstore = {store}
memstore device bytes = 4294967296
bluestore block size = 4294967296
bluestore fsck on mount = false
osd memory target = 939524096
[client]
rgw data = {directory}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw dns name =
rgw enable usage log = false
rgw enable ops log = false
"""


def missing() -> str:
    """The programs that are not installed."""
    return ", ".join(name for name in PROGRAMS if shutil.which(name) is None)


@dataclass(frozen=True, slots=True)
class Rgw(S3Server):
    directory: Path
    port: int

    def start_gateway(self) -> None:
        self.ceph("radosgw", "-n", GATEWAY)
        wait_until(lambda: answers(self.port), "radosgw", self.directory / f"log/{GATEWAY}.log")

    def kill_gateway(self) -> None:
        """kill -9. For the next half minute radosgw-admin waits for the dead one to confirm its changes."""
        self._end(GATEWAY, signal.SIGKILL)

    def set_quota(self, size_bytes: int | None) -> None:
        """Of the whole user. The gateway is started anew, for it remembers quotas."""
        user = ("--quota-scope=user", "--uid=sds")
        if size_bytes is None:
            self.ceph("radosgw-admin", "quota", "disable", *user)
        else:
            self.ceph("radosgw-admin", "quota", "set", *user, f"--max-size={size_bytes}")
            self.ceph("radosgw-admin", "quota", "enable", *user)
        self._end(GATEWAY, signal.SIGTERM)
        self.start_gateway()

    def start(self) -> None:
        self.ceph("ceph-mon", "-i", "a", "--mkfs")
        self.ceph("ceph-mon", "-i", "a")
        self.ceph("ceph", "osd", "create")
        self.ceph("ceph-osd", "-i", "0", "--mkfs")
        self.ceph("ceph", "osd", "crush", "add", "0", "1", "root=default", "host=h")
        self.ceph("ceph-osd", "-i", "0")
        self.start_gateway()
        self.ceph(
            "radosgw-admin", "user", "create", "--uid=sds", "--display-name=sds",
            f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}",
        )  # fmt: skip

    def stop(self) -> None:
        for name in (GATEWAY, OSD, MONITOR):
            self._end(name, signal.SIGKILL)

    def ceph(self, program: str, *arguments: str) -> None:
        command = [program, "--conf", str(self.directory / "ceph.conf"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-1000:]}"

    def _end(self, name: str, number: int) -> None:
        pid = self.directory / f"run/{name}.pid"
        if pid.exists() and pid.read_text().strip():
            end_by_pid(int(pid.read_text()), number)
            pid.unlink(missing_ok=True)


@contextmanager
def rgw_server(store: str = "memstore") -> Iterator[Rgw]:
    """`store` bluestore survives the end of its OSD."""
    with tempfile.TemporaryDirectory(prefix="sds-rgw-") as name:
        server = _start(Path(name), store)
        try:
            yield server
        finally:
            server.stop()


def _start(parent: Path, store: str) -> Rgw:
    """RG4: another server may have taken a port meanwhile."""
    for attempt in range(START_ATTEMPTS):
        server = _prepare(parent / f"attempt-{attempt}", store)
        try:
            server.start()
        except BaseException as error:
            server.stop()
            if attempt == START_ATTEMPTS - 1 or not isinstance(error, AssertionError):
                raise
        else:
            return server
    raise AssertionError("the last attempt returns or raises")


def _prepare(directory: Path, store: str) -> Rgw:
    for part in ("mon", "osd", "rgw", "log", "run"):
        (directory / part).mkdir(parents=True)
    port, mon_port = free_port(), free_port()
    config = CONFIG.format(fsid=uuid.uuid4(), mon_port=mon_port, port=port, directory=directory, store=store)
    (directory / "ceph.conf").write_text(config)
    credentials = write_credentials(directory / "credentials")
    return Rgw(f"http://127.0.0.1:{port}", credentials, directory, port)
