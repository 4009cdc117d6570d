"""`make demo`: a pool over three directories, volumes and a filesystem in it, and other people's programs as judges.
Then a pool of a directory, a raw disk and an object store, in which one after the other breaks.

Every step ends with a proof (a comparison, a checksum, a model of what was acknowledged); the first that
fails ends the demo with exit code 1. Everything lives in a temporary directory, removed at the end.
"""

import random
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from demo import filesystems, stores, volumes
from demo.mounted import lacking
from demo.report import Report, Unproven
from demo.stage import ROOT, Stage
from tests.guest import guest
from tools.sds import CommandFailed, Sds
from tools.servers import ServerFailed

PROGRAMS = ("qemu-img", "qemu-io", "fio", "nbdcopy", "mkfs.ext4", "e2fsck", "tar", "diff", "sha256sum")


def play(stage: Stage, seed: int) -> None:
    volumes.make_pool(stage)
    volumes.real_image(stage)
    volumes.verified_load(stage)
    volumes.snapshots(stage)
    volumes.kills(stage, seed)
    volumes.guests(stage)
    why_not = lacking()
    if why_not:
        stage.report.skip("a filesystem, mounted", why_not)
    else:
        filesystems.play(stage)
    why_not = stores.lacking()
    if why_not:
        stage.report.skip("object stores", why_not)
    else:
        stores.play(stage, seed)
    print(f"\n{stage.sds('list')}\n{stage.sds('pool', 'status', 'tank')}")


def main() -> int:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        print(f"demo: not installed: {', '.join(missing)}; run make setup as root", file=sys.stderr)
        return 1
    # An interrupt from outside must unwind too: servers are ended and files removed on the way out.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    report = Report()
    (ROOT / ".cache").mkdir(exist_ok=True)
    with ExitStack() as places:
        directory = Path(places.enter_context(tempfile.TemporaryDirectory(dir=ROOT / ".cache")))
        sockets = Path(places.enter_context(tempfile.TemporaryDirectory()))
        stage = Stage(directory, sockets, Sds(directory / "home"), report)
        try:
            play(stage, seed=random.randrange(1 << 32))
        except (Unproven, CommandFailed, ServerFailed, guest.GuestFailed) as error:
            print(f"\ndemo FAILED: {error}", file=sys.stderr)
            return 1
    print(report.summary())
    return 0


if __name__ == "__main__":
    sys.exit(main())
