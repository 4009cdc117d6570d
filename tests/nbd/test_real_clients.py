"""Programs that we did not write, as clients: libnbd, nbdinfo, nbdcopy, qemu-img, qemu-io, fio."""

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.nbd.memory_device import MemoryDevice
from tests.nbd.serving import Served, libnbd, need, run, serving, serving_process

pytestmark = pytest.mark.real
SIZE = 16 << 20


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    device = MemoryDevice(SIZE)
    device.data[0:8192] = b"a" * 8192
    device.snapshot("monday")
    device.data[4096:12288] = b"b" * 8192
    with serving(device, tmp_path) as running:
        yield running


def image(tmp_path: Path) -> tuple[Path, bytes]:
    """A file with data, holes, and an end that is not aligned to anything."""
    rng = random.Random(7)
    content = rng.randbytes(3 << 20) + bytes(5 << 20) + rng.randbytes((1 << 20) - 512)
    path = tmp_path / "image.raw"
    path.write_bytes(content)
    return path, content


def test_nbdinfo_sees_the_export_its_map_and_its_bitmap(served: Served) -> None:
    need("nbdinfo")
    told = json.loads(run("nbdinfo", "--json", served.uri()))["exports"][0]
    assert (told["export-size"], told["can_multi_conn"], told["can_df"]) == (SIZE, True, True)
    assert told["contexts"] == ["base:allocation", "qemu:dirty-bitmap:monday"]
    listed = json.loads(run("nbdinfo", "--list", "--json", served.uri()))["exports"]
    assert [export["export-name"] for export in listed] == ["memory"]
    assert map_of(served, "--map") == [(0, 12288, 0), (12288, SIZE - 12288, 3)]
    assert map_of(served, "--map=qemu:dirty-bitmap:monday")[:2] == [(0, 4096, 0), (4096, 8192, 1)]


def map_of(served: Served, option: str) -> list[tuple[int, int, int]]:
    ranges = json.loads(run("nbdinfo", option, "--json", served.uri()))
    return [(r["offset"], r["length"], r["type"]) for r in ranges]


def test_nbdcopy_copies_in_and_out(served: Served, tmp_path: Path) -> None:
    need("nbdcopy")
    path, content = image(tmp_path)
    run("nbdcopy", "--flush", str(path), served.uri())
    assert bytes(served.device.data[: len(content)]) == content
    run("nbdcopy", served.uri(), str(tmp_path / "back.raw"))
    assert (tmp_path / "back.raw").read_bytes() == bytes(served.device.data)


def test_qemu_img_converts_and_compares(served: Served, tmp_path: Path) -> None:
    need("qemu-img")
    path, content = image(tmp_path)
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(path), served.uri())
    assert bytes(served.device.data[: len(content)]) == content
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", served.uri(), str(tmp_path / "x.qcow2"))
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(tmp_path / "x.qcow2"), served.uri())


def test_qemu_io_writes_zeroes_discards_and_verifies(served: Served) -> None:
    need("qemu-io")
    commands = (
        "write -P 17 1000 5000", "read -P 17 1000 5000", "write -z 2000 100", "read -P 0 2000 100",
        "write -z -u 0 4096", "discard 65536 65536", "write -f -P 3 512 512", "flush", "read -P 3 512 512",
    )  # fmt: skip
    arguments = [part for command in commands for part in ("-c", command)]
    told = run("qemu-io", "-f", "raw", *arguments, served.uri())
    assert "fail" not in told.lower()
    assert served.device.data[512:1024] == b"\3" * 512


def test_fio_verifies_what_it_wrote(served: Served) -> None:
    need("fio")
    for depth in ("1", "16"):
        run(
            "fio", "--name=v", "--ioengine=nbd", f"--uri={served.uri()}", "--rw=randwrite",
            "--bsrange=512-128k", "--size=8m", f"--iodepth={depth}", "--verify=crc32c", "--verify_fatal=1",
            "--randseed=4",
        )  # fmt: skip


def test_libnbd_gets_the_errors_it_expects(tmp_path: Path) -> None:
    nbd = libnbd()
    with serving_process(tmp_path, "--size", str(SIZE), "--bitmap", "monday") as (path, _):
        h = nbd.NBD()
        h.add_meta_context("base:allocation")
        h.add_meta_context("qemu:dirty-bitmap:monday")
        h.set_strict_mode(0)
        h.connect_uri(f"nbd+unix:///?socket={path}")
        assert (h.get_size(), h.get_structured_replies_negotiated()) == (SIZE, True)
        check_libnbd_errors(nbd, h)
        h.pwrite(b"x" * 4096, 4096, nbd.CMD_FLAG_FUA)
        seen: dict[str, list[int]] = {}

        def extents(context: str, _offset: int, entries: list[int], _error: Any) -> int:
            seen[context] = list(entries)
            return 0

        h.block_status(SIZE, 0, extents)
        assert seen["base:allocation"] == [4096, 3, 4096, 0, SIZE - 8192, 3]
        assert seen["qemu:dirty-bitmap:monday"] == [4096, 0, 4096, 1, SIZE - 8192, 0]
        h.shutdown()


def check_libnbd_errors(nbd: Any, h: Any) -> None:
    calls: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("ENOSPC", lambda: h.pwrite(b"ab", SIZE - 1)),
        ("ENOSPC", lambda: h.zero(4096, SIZE)),
        ("EINVAL", lambda: h.pread(2, SIZE - 1)),
        ("EINVAL", lambda: h.trim(2, SIZE - 1)),
        ("EINVAL", lambda: h.pread(0, 0)),
        ("EINVAL", lambda: h.trim(0, 0)),
        ("EINVAL", lambda: h.pread(1, 0, 1 << 13)),
        ("ENOTSUP", lambda: h.zero(4096, 0, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO)),
        ("EINVAL", lambda: h.pwrite(bytes((32 << 20) + 1), 0)),
    )
    for number, (expected, call) in enumerate(calls):
        with pytest.raises(nbd.Error) as caught:
            call()
        assert caught.value.errno == expected, f"call {number}"
    assert h.pread(1, 0) == b"\0"


def test_libnbd_runs_many_requests_on_several_connections(tmp_path: Path) -> None:
    nbd = libnbd()
    with serving_process(tmp_path, "--size", str(SIZE), "--patience", "1") as (path, _):
        handles = []
        for _ in range(4):
            h = nbd.NBD()
            h.connect_unix(path)
            assert h.can_multi_conn()
            handles.append(h)
        rng = random.Random(2)
        blocks = [rng.randbytes(65536) for _ in range(SIZE // 65536)]
        for number, block in enumerate(blocks):
            handles[number % 4].aio_pwrite(nbd.Buffer.from_bytearray(bytearray(block)), number * 65536)
        for h in handles:
            while h.aio_in_flight():
                h.poll(-1)
        handles[0].flush()
        got = [bytes(handles[3].pread(1 << 20, at)) for at in range(0, SIZE, 1 << 20)]
        assert b"".join(got) == b"".join(blocks)
        for h in handles:
            h.shutdown()


def test_a_server_process_stays_within_its_memory_under_abuse(tmp_path: Path) -> None:
    from tests.nbd.fuzz import fuzz

    with serving_process(tmp_path, "--size", str(4 << 20)) as (path, pid):
        fuzz(path, seed=11, connections=50)
        before = resident_bytes(pid)
        fuzz(path, seed=12, connections=400)
        assert resident_bytes(pid) < before + (48 << 20)
        assert len(os.listdir(f"/proc/{pid}/fd")) < 20


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
