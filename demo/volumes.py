"""The first part of the demo: volumes, judged by qemu, fio, nbdcopy and a Linux guest."""

import random
import sysconfig
from pathlib import Path

from demo.ledger import Ledger
from demo.report import prove
from demo.stage import Stage, content, sha256
from tests.guest import guest
from tools.sds import run

IMAGE_SIZE = "1G"
LEDGER_BLOCKS = 4096
KILL_ROUNDS = 3
ACKS_PER_ROUND = 20_000
GUEST_ACKS = 24


def make_pool(stage: Stage) -> None:
    with stage.report.step("a pool over three directories, three thin volumes in it"):
        disks = [stage.directory / f"disk-{number}" for number in (1, 2, 3)]
        for disk in disks:
            disk.mkdir()
        stage.sds("pool", "create", "tank", *disks)
        for name, size in (("disk", IMAGE_SIZE), ("scratch", "512M"), ("ledger", "64M")):
            stage.sds("volume", "create", f"tank/{name}", size)
        prove(len(stage.sds.json("list", "-t", "volume")) == 3, "sds list does not show three volumes")


def real_image(stage: Stage) -> None:
    tree = Path(sysconfig.get_path("stdlib"))
    with stage.report.step("qemu-img writes a real ext4 image and reads it back identical") as details:
        run("mkfs.ext4", "-q", "-F", "-d", tree, stage.image, IMAGE_SIZE)
        with stage.server("tank/disk") as server:
            run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", stage.image, server.uri)
            run("qemu-img", "compare", "-f", "raw", "-F", "raw", stage.image, server.uri)
        details.append(f"{tree}, {stage.image.stat().st_blocks * 512 >> 20} MiB")
    with stage.report.step("after a restart of the server nbdcopy and cmp find the same bytes"):
        with stage.server("tank/disk") as server:
            content(stage, server)
        run("cmp", stage.image, stage.directory / "copy.img")


def verified_load(stage: Stage) -> None:
    with stage.report.step("fio writes 4k to 64k at random and verifies each crc32c") as details:
        with stage.server("tank/scratch") as server:
            run(
                "fio", "--name=verify", "--ioengine=nbd", f"--uri={server.uri}", "--rw=randwrite",
                "--size=512M", "--bsrange=4k-64k", "--iodepth=16", "--verify=crc32c", "--verify_fatal=1",
                "--do_verify=1", "--verify_state_save=0",
            )  # fmt: skip
        details.append("512 MiB")


def snapshots(stage: Stage) -> None:
    original = sha256(stage.image)
    with stage.server("tank/disk") as server:
        with stage.report.step("a snapshot of the open volume, then changes: it differs"):
            stage.sds("snapshot", "tank/disk@before")
            run("qemu-io", "-f", "raw", "-c", "write -P 0x5a 100M 8M", "-c", "discard 300M 50M", server.uri)
            prove(content(stage, server) != original, "the volume did not change")
        with stage.report.step("the snapshot and a clone of it hold the original checksum"):
            stage.sds("clone", "tank/disk@before", "tank/clone")
            with stage.server("tank/clone") as clone:
                prove(content(stage, clone) == original, "the clone differs from the original")
            with stage.server("tank/disk@before") as snapshot:
                prove(content(stage, snapshot) == original, "the snapshot differs from the original")
    with stage.report.step("rollback: the volume holds the original checksum again") as details:
        stage.sds("rollback", "tank/disk@before")
        with stage.server("tank/disk") as server:
            prove(content(stage, server) == original, "the volume differs from the original")
        details.append(f"sha256 {original[:16]}...")


def kills(stage: Stage, seed: int) -> None:
    ledger = Ledger(LEDGER_BLOCKS, random.Random(seed))
    what = "kill -9 in the middle of writing, no flush: every acknowledged write is there"
    with stage.report.step(what) as details, stage.server("tank/ledger") as server:
        back_s = []
        for _ in range(KILL_ROUNDS):
            ledger.write_until_gone(server.uri, ACKS_PER_ROUND, server.kill)
            back_s.append(server.start())
            losses = ledger.losses(server.uri)
            prove(not losses, f"{len(losses)} blocks lost: {'; '.join(losses[:3])} (seed {seed})")
        details += [f"{KILL_ROUNDS} kills", f"{ledger.acks} acknowledged writes checked"]
        details.append(f"back in at most {max(back_s):.1f} s")


def guests(stage: Stage) -> None:
    what = "a Linux guest on the clone"
    if guest.missing():
        stage.report.skip(what, f"not installed: {guest.missing()}")
        return
    with stage.report.step(f"{what} mounts ext4, writes, syncs; a second boot finds all of it"):
        with stage.server("tank/clone") as server:
            guest.boot(stage.sockets, server.socket_path, "write")
        with stage.server("tank/clone") as server:
            guest.boot(stage.sockets, server.socket_path, "verify")
    with stage.report.step(f"{what} works on through kill -9 of the server, without an I/O error"):
        with stage.server("tank/clone") as server:

            def kill_and_restart(line: str) -> None:
                if line == f"ACK {GUEST_ACKS // 2}":
                    server.kill()
                    server.start()

            guest.boot(stage.sockets, server.socket_path, "load", GUEST_ACKS, kill_and_restart)
            content(stage, server)
        run("e2fsck", "-fn", stage.directory / "copy.img")
    before = stage.server("tank/disk@before")
    with stage.report.step("the snapshot below the clone is what it was"), before:
        prove(content(stage, before) == sha256(stage.image), "writes to the clone reached the snapshot")
