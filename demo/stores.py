"""The third part of the demo: a pool of a directory, a raw disk and an object store, two copies of everything.

Under load one of them does not answer for a while, another is lost for good, copies are damaged, and in the end the
machine is lost: what is left is the backends.
"""

import importlib.util
import os
import random
import shutil
import textwrap
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from demo.load import Load
from demo.mounted import Mounted
from demo.mounted import lacking as lacking_mounts
from demo.objects import ObjectServer
from demo.original import Original
from demo.report import prove
from demo.stage import Stage, content
from tools.sds import Sds, run
from tools.servers import SdsServer

PACKAGES = ("pygments", "sqlalchemy")
SEGMENT_BYTES = 8 << 20
DEVICE_BYTES = 4 << 30
LOAD_BLOCKS = 4096
WRITES = 1500
WAIT_S = 60.0
POLL_S = 0.2
DAMAGED_BYTES = 16
Facts = dict[str, Any]


def lacking() -> str:
    """Why there can be no object store here; empty if there can."""
    missing = [name for name in ("boto3", "moto", "flask") if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(missing)} (make setup)" if missing else ""


def play(stage: Stage, seed: int) -> None:
    """In a home and a directory of its own."""
    directory = stage.directory / "stores"
    directory.mkdir()
    here = Stage(directory, stage.sockets, Sds(directory / "home"), stage.report)
    with ObjectServer(directory) as objects:
        Stores(here, objects, seed).play()


class Stores:
    def __init__(self, stage: Stage, objects: ObjectServer, seed: int) -> None:
        self.stage, self.sds, self.report = stage, stage.sds, stage.report
        self.objects = objects
        self.seed = seed
        self.first, self.second = stage.directory / "disk-1", stage.directory / "disk-2"
        self.device_file = stage.directory / "device.img"
        self.device = f"disk:{self.device_file}"
        self.bucket = objects.url("tank", "capacity=4G")
        self.original = Original(stage.directory, PACKAGES)
        self.servers: dict[str, SdsServer] = {}
        self.mount: Mounted | None = None

    def play(self) -> None:
        with ExitStack() as used:
            self.make_pool()
            self.fill(used)
            with Load(self.servers["tank/load"].uri, LOAD_BLOCKS, self.seed) as load:
                self.outage(load)
                self.loss(load)
                self.damage()
                self.cleaning()
                load.stop()
            kept = self.contents(self.stage)
            uuid = self.status()["uuid"]
            for server in self.servers.values():
                server.kill()
            if self.mount is not None:
                self.mount.kill()
        self.new_machine(kept, load, uuid)

    def make_pool(self) -> None:
        with self.report.step("a pool of a directory, a raw disk and an S3 bucket, two copies of all") as details:
            self.first.mkdir()
            self.device_file.touch()
            os.truncate(self.device_file, DEVICE_BYTES)
            how = ("--copies", "2", "--segment-size", str(SEGMENT_BYTES))
            self.sds("pool", "create", "tank", self.first, self.device, self.bucket, *how)
            states = [backend["state"] for backend in self.status()["backends"]]
            prove(states == ["online"] * 3, f"the backends are {states}")
            details.append("moto's server")

    def fill(self, used: ExitStack) -> None:
        """A volume with a real image, one that is written to all the time, one to overwrite, and a filesystem."""
        what = "a volume with a real ext4 image and a filesystem with the source tree in it; a snapshot of each"
        with self.report.step(what) as details:
            run("mkfs.ext4", "-q", "-F", "-d", self.original.path, self.stage.image, "96M")
            for name, size in (("vm", "96M"), ("load", "16M"), ("scratch", "32M")):
                self.sds("volume", "create", f"tank/{name}", size)
                self.servers[f"tank/{name}"] = used.enter_context(self.stage.server(f"tank/{name}"))
            run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", self.stage.image, self.servers["tank/vm"].uri)
            self.sds("snapshot", "tank/vm@kept")
            why_not = lacking_mounts()
            if why_not:
                self.report.skip("the filesystem", why_not)
            else:
                self.sds("fs", "create", "tank/files")
                self.mount = used.enter_context(Mounted(self.stage, "tank/files"))
                self.original.unpack(self.mount.path)
                run("sync", self.mount.path)
                self.sds("snapshot", "tank/files@kept")
            details.append(f"{self.original.files} files")
            self.check()

    def outage(self, load: Load) -> None:
        what = "the object store hangs: reads and writes go on; it answers again, and its copies are made up for"
        with self.report.step(what) as details:
            self.objects.pause()
            try:
                load.reach(WRITES)
                self.check()
                load.reach(WRITES)
            finally:
                self.objects.go_on()
            self.wait(lambda: not self.at_risk(), "the pool does not come back to two copies")
            details.append(f"a write waited {load.worst_s:.1f} s at most")

    def loss(self, load: Load) -> None:
        with self.report.step("a disk is lost for good under load: reads and writes go on, status says it") as details:
            load.worst_s = 0.0
            shutil.rmtree(self.first)
            load.reach(WRITES)
            self.check()
            load.reach(WRITES)
            states = {backend["url"]: backend["state"] for backend in self.status()["backends"]}
            prove(states[str(self.first)] != "online", f"pool status says {states}")
            prove(self.at_risk() > 0, "pool status does not say what is at risk")
            details += [f"{self.at_risk()} files with one copy", f"a write waited {load.worst_s:.1f} s at most"]
        print(textwrap.indent(self.sds("pool", "status", "tank"), " " * 10), end="", flush=True)
        with self.report.step("another disk in its place: all copies are made anew, nothing is at risk") as details:
            self.second.mkdir()
            self.sds("pool", "add", "tank", self.second)
            done = self.sds.json("pool", "remove", "tank", self.first, "--lost", "--rate", "0")
            self.wait(lambda: not self.at_risk(), "files are still at risk")
            details.append(f"{done['files']} files, {done['written_bytes'] >> 20} MiB written")

    def damage(self) -> None:
        with self.report.step("scrub reads every copy: nothing wrong") as details:
            scrubbed = self.scrub()
            prove(not scrubbed["findings"], f"scrub finds {scrubbed['findings'][:3]}")
            details += [f"{scrubbed['copies']} copies of {scrubbed['files']} files"]
        with self.report.step("bytes of one copy are changed: scrub finds that file and heals it") as details:
            sealed = [path for path in (self.second / "segments").rglob("*-*") if path.stat().st_size < SEGMENT_BYTES]
            victim = max(sealed, key=lambda path: path.stat().st_size)
            with victim.open("r+b") as file:
                file.seek(victim.stat().st_size // 2)
                file.write(random.Random(self.seed).randbytes(DAMAGED_BYTES))
            scrubbed = self.scrub()
            found = scrubbed["findings"]
            prove(scrubbed["healed"] == 1 and len(found) == 1, f"scrub says {found}")
            prove(victim.name in found[0]["name"], f"scrub names {found[0]}")
            prove(not self.scrub()["findings"], "scrub finds it again")
            details.append(f"{victim.relative_to(self.second)}: {found[0]['problem'].rpartition(': ')[2]}")

    def cleaning(self) -> None:
        what = "random overwrites leave half-dead files; sds pool clean packs what is alive and deletes them"
        with self.report.step(what) as details:
            uri = self.servers["tank/scratch"].uri
            fio = ("fio", "--name=fill", "--ioengine=nbd", f"--uri={uri}", "--iodepth=16", "--bs=4k", "--size=32M")
            run(*fio, "--rw=write", "--refill_buffers=1")
            run(*fio, "--rw=randwrite", "--refill_buffers=1", "--norandommap=1", "--io_size=32M", "--end_fsync=1")
            before = content(self.stage, self.servers["tank/scratch"])
            stored = self.stored("tank/scratch")
            # What the object store does not have yet is spared: it may take more than one.
            self.wait(lambda: self.clean() < 0.9 * stored, f"of {stored} bytes stored cleaning gives nothing back")
            left = self.stored("tank/scratch")
            prove(content(self.stage, self.servers["tank/scratch"]) == before, "cleaning changed the volume")
            packs = sum(1 for _ in (self.second / "packs").rglob("*") if _.is_file())
            details += [f"{stored >> 20} MiB before, {left >> 20} after, all copies", f"{packs} packs on disk-2"]

    def new_machine(self, kept: dict[str, str], load: Load, uuid: str) -> None:
        what = "the machine is lost (kill -9, its home, journal and cache deleted): imported from the backends alone"
        with self.report.step(what) as details:
            shutil.rmtree(self.sds.home)
            for path in Path("/dev/shm").glob(f"sds-{uuid}-*.stage"):
                path.unlink()
            there = Stage(
                self.stage.directory, self.stage.sockets, Sds(self.stage.directory / "home-2"), self.report
            )
            begin_s = time.monotonic()
            there.sds("pool", "import", "tank", self.bucket, self.device, self.second)
            details.append(f"import {time.monotonic() - begin_s:.1f} s")
        with self.report.step("there all is as it was: sha256 of each volume, snapshot and tree"):
            found = self.contents(there)
            wrong = [name for name in kept if kept[name] != found[name]]
            prove(not wrong, f"not as they were: {wrong}")
            with there.server("tank/load") as server:
                load.check(server.uri)
            if self.mount is not None:
                with Mounted(there, "tank/files") as mount:
                    self.original.check(mount.path)
                    self.original.check(mount.path / ".snapshots/kept")

    def check(self) -> None:
        """What is read now is what was written in the beginning."""
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", self.stage.image, self.servers["tank/vm"].uri)
        if self.mount is not None:
            self.original.check(self.mount.path)

    def contents(self, stage: Stage) -> dict[str, str]:
        """Checksums of what is there in all, read over NBD."""
        found: dict[str, str] = {}
        for name in ("tank/vm", "tank/vm@kept", "tank/scratch"):
            if stage is self.stage and name in self.servers:
                found[name] = content(stage, self.servers[name])
            else:
                with stage.server(name) as server:
                    found[name] = content(stage, server)
        return found

    def status(self) -> Facts:
        found: Facts = self.sds.json("pool", "status", "tank")
        return found

    def at_risk(self) -> int:
        return int(self.status()["at_risk"]["degraded_files"])

    def clean(self) -> int:
        """What scratch takes after it."""
        self.sds("pool", "clean", "tank")
        return self.stored("tank/scratch")

    def stored(self, name: str) -> int:
        return next(int(facts["stored_bytes"]) for facts in self.sds.json("list") if facts["name"] == name)

    def scrub(self) -> Facts:
        found: Facts = self.sds.json("pool", "scrub", "tank", "--all", "--rate", "0")
        return found

    def wait(self, true: Callable[[], bool], otherwise: str) -> None:
        end_s = time.monotonic() + WAIT_S
        while not true():
            prove(time.monotonic() < end_s, otherwise)
            time.sleep(POLL_S)
