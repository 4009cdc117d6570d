"""`python -m bench amplification`: bytes written to disks per byte of the user, for 4k random writes.

The volume is written once from end to end first, so that every write replaces something. A checkpoint before and
one after bound the measurement, so the later cost in metadata is inside.
The number is the kernel's count for the server's process, catalog included.
"""

from pathlib import Path

from bench.fio import FILL, SCATTERED_FILL, run_job
from bench.process import written_bytes
from bench.report import save, size_bytes, table
from bench.world import settle, versions, world
from tools.servers import SdsServer


def bench_amplification(size: str, written: str, directory: Path | None, json_path: Path | None) -> None:
    with world(directory) as place, place.sds_volume(size) as volume:
        run_job(volume.uri, FILL, size_bytes(size))
        _checkpoint(volume, "before")
        settle()
        before = written_bytes(volume.pid)
        result = run_job(volume.uri, SCATTERED_FILL, size_bytes(size), io_bytes=size_bytes(written))
        _checkpoint(volume, "after")
        disk_bytes = written_bytes(volume.pid) - before
        found = versions(place.directory)
    factor = disk_bytes / result.data_bytes
    rows = [["user, MB", f"{result.data_bytes / 1e6:.0f}"], ["disks, MB", f"{disk_bytes / 1e6:.0f}"]]
    print(table([f"4k random writes, {size}", ""], [*rows, ["disks / user", f"{factor:.3f}"]]))
    counts = {"user_bytes": result.data_bytes, "disk_bytes": disk_bytes, "factor": factor}
    save(json_path, {"size": size, **counts, "versions": found})


def _checkpoint(volume: SdsServer, name: str) -> None:
    """Have everything written so far merged into the tree: a clone waits for the checkpoint of its snapshot."""
    volume.sds("snapshot", f"{volume.dataset}@{name}")
    volume.sds("clone", f"{volume.dataset}@{name}", f"bench/{name}")
