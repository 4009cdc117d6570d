"""What the kernel knows about a running server and its children: bytes written to disks, memory held."""

from pathlib import Path

MIB = 1 << 20


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += [int(word) for word in (task / "children").read_text().split()]
    return [pid, *(member for child in children for member in family(child))]


def written_bytes(pid: int) -> int:
    """Bytes sent to block devices, page cache included; memory files such as the stage do not count."""
    return sum(_field(Path(f"/proc/{member}/io"), "write_bytes") for member in family(pid))


def memory_mib(pid: int) -> dict[str, float]:
    """Resident memory by kind. Shared memory is the stage as far as it is mapped and touched."""
    kinds = ("VmRSS", "RssAnon", "RssFile", "RssShmem")
    files = [Path(f"/proc/{member}/status") for member in family(pid)]
    return {kind: sum(_field(file, kind) for file in files) / 1024 for kind in kinds}


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    return 0
