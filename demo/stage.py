"""Where the demo plays: its directory, its sds, its report; and what several parts of it use."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from demo.report import Report
from tools.sds import Sds, run
from tools.servers import SdsServer

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Stage:
    """`directory` is on a disk; `sockets` has a short path."""

    directory: Path
    sockets: Path
    sds: Sds
    report: Report

    def server(self, dataset: str) -> SdsServer:
        name = dataset.replace("/", "-").replace("@", "-")
        return SdsServer(self.sds, dataset, self.sockets / name)

    @property
    def image(self) -> Path:
        return self.directory / "ext4.img"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content(stage: Stage, server: SdsServer) -> str:
    """The checksum of a whole export, read by nbdcopy."""
    copy = stage.directory / "copy.img"
    copy.unlink(missing_ok=True)
    run("nbdcopy", server.uri, copy)
    return sha256(copy)
