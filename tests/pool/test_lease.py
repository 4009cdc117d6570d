"""Leases: one holder, known by name; kill -9 frees at once; shared holds keep only exclusive ones out."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sds.core.errors import BadInput, Busy
from sds.pool.lease import Holder, Lease, holders

ME = Holder.me("sds serve tank/vm1", "/run/x.sock")
OTHER_PROCESS = """
import sys
from pathlib import Path
from sds.pool.lease import Holder, Lease
holder = Holder.me("sds serve tank/vm1")
lease = Lease.take(Path(sys.argv[1]), "tank/vm1", holder, shared=sys.argv[2] == "shared")
print("held", flush=True)
sys.stdin.read()
"""


def other_process(path: Path, mode: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", OTHER_PROCESS, str(path), mode]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_holder_is_told_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with other_process(path, "exclusive") as process:
        with pytest.raises(Busy, match=rf"tank/vm1.*process {process.pid} \(sds serve tank/vm1\)"):
            Lease.take(path, "tank/vm1", ME)
        assert [process.pid] == [holder.pid for holder in holders(path)]
        process.kill()


def test_kill_9_frees_the_lease_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with other_process(path, "exclusive") as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert holders(path) == []

    with Lease.take(path, "tank/vm1", ME):
        assert holders(path) == [ME]
    assert holders(path) == []


def test_a_lease_excludes_within_one_process_too(tmp_path: Path) -> None:
    first = Lease.take(tmp_path / "a.lock", "tank/vm1", ME)
    with pytest.raises(Busy):
        Lease.take(tmp_path / "a.lock", "tank/vm1", ME)
    first.release()
    first.release()
    Lease.take(tmp_path / "a.lock", "tank/vm1", ME).release()


def test_shared_holders_go_together_and_keep_an_exclusive_one_out(tmp_path: Path) -> None:
    path = tmp_path / "s.lock"
    with other_process(path, "shared") as process:
        mine = Lease.take(path, "tank/vm1@s", ME, shared=True)
        assert {process.pid, ME.pid} == {holder.pid for holder in holders(path)}
        with pytest.raises(Busy, match=rf"{process.pid}.* and .*{ME.pid}"):
            Lease.take(path, "tank/vm1@s", ME)
        process.kill()
        process.wait()
        with pytest.raises(Busy):
            Lease.take(path, "tank/vm1@s", ME)
        mine.release()

    with Lease.take(path, "tank/vm1@s", ME), pytest.raises(Busy):
        Lease.take(path, "tank/vm1@s", ME, shared=True)


def test_a_removed_lock_file_protects_nobody_but_a_new_one_does(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    first = Lease.take(path, "tank/vm1", ME)
    first.release(remove=True)
    assert not path.exists()
    with Lease.take(path, "tank/vm1", ME), pytest.raises(Busy):
        Lease.take(path, "tank/vm1", ME)


@pytest.mark.parametrize(
    "junk", [b"", b"junk\n", b"{}\n", b"[1]\n", b'{"pid": "x", "what": 1}\n', b"\xff" * 99]
)
def test_junk_in_the_file_does_not_matter(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "a.lock"
    path.write_bytes(junk)
    lease = Lease.take(path, "tank/vm1", ME)
    path.write_bytes(junk)

    with pytest.raises(Busy, match="another process"):
        Lease.take(path, "tank/vm1", ME)
    lease.release()


def test_a_lock_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot lock"):
        Lease.take(tmp_path / "none" / "a.lock", "tank/vm1", ME)
