"""Boots a small Linux machine whose only disk is an NBD export, and reads what it says on its console.

  U1  The guest is Debian's cloud kernel (unpacked by tools/setup.sh) with a busybox initramfs built here;
      `init.sh` is its only program. Emulated (tcg): it needs no virtualisation of the host.
  U2  The disk is attached with a reconnect delay: while the server is away requests wait, and the guest sees
      a pause.
  U3  The host learns of progress from console lines marked "GUEST "; the caller may act on each.
  U4  A boot ends by power-off, or is ended after a deadline and fails; no emulator is left behind.
"""

import gzip
import io
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

KERNEL_DIR = Path(__file__).resolve().parents[2] / ".cache" / "guest"
INIT = Path(__file__).with_name("init.sh")
PROGRAMS = ("qemu-system-x86_64", "busybox")
MARK = "GUEST "
RECONNECT_DELAY_S = 30
BOOT_TIMEOUT_S = 120.0

# insmod does not resolve dependencies, so the order is part of the image; newer kernels have some built in.
MODULE_ORDER = (
    "virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk"
)  # fmt: skip


class GuestFailed(Exception):
    """The guest did not end with OK; the message holds the end of its console."""


@dataclass(frozen=True, slots=True)
class Boot:
    """What one boot said."""

    lines: tuple[str, ...]

    @property
    def acknowledged(self) -> int:
        return sum(line.startswith("ACK ") for line in self.lines)


def missing() -> str:
    """What a boot needs and this machine lacks; empty if nothing."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if not (KERNEL_DIR / "vmlinuz").exists():
        lacking.append("the guest's kernel (make setup)")
    return ", ".join(lacking)


def boot(
    directory: Path,
    socket_path: Path,
    mode: str,
    count: int = 0,
    on_line: Callable[[str], None] = lambda line: None,
) -> Boot:
    """Boot on the export behind `socket_path` and return what the guest said; an error if it was not OK."""
    initramfs = directory / "initramfs.gz"
    initramfs.write_bytes(build_initramfs())
    process = subprocess.Popen(
        _command(initramfs, socket_path, mode, count),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    deadline = threading.Timer(BOOT_TIMEOUT_S, process.kill)
    deadline.start()
    console: list[str] = []
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            console.append(line.strip())
            # The firmware's last escape codes may stand before the first line of the guest.
            _, mark, said = line.strip().partition(MARK)
            if mark:
                lines.append(said)
                on_line(said)
        process.wait()
    finally:
        deadline.cancel()
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if not lines or lines[-1] != f"OK {mode}":
        raise GuestFailed(f"guest in mode {mode} did not end with OK: " + " | ".join(console[-25:]))
    return Boot(tuple(lines))


def _command(initramfs: Path, socket_path: Path, mode: str, count: int) -> list[str]:
    blockdev = (
        f"driver=nbd,node-name=disk,server.type=unix,server.path={socket_path},"
        f"reconnect-delay={RECONNECT_DELAY_S},discard=unmap,cache.direct=on"
    )
    return [
        "qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-m", "256", "-nographic",
        "-no-reboot", "-net", "none", "-kernel", str(KERNEL_DIR / "vmlinuz"), "-initrd", str(initramfs),
        "-append", f"console=ttyS0 panic=-1 quiet sds.mode={mode} sds.count={count}",
        "-blockdev", blockdev, "-device", "virtio-blk-pci,drive=disk",
    ]  # fmt: skip


def build_initramfs() -> bytes:
    """The guest's whole user space as a gzipped cpio archive: busybox, the virtio modules and init.sh."""
    busybox = shutil.which("busybox")
    assert busybox is not None, "busybox is missing: make setup"
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    modules = [name for name in MODULE_ORDER if (KERNEL_DIR / "modules" / f"{name}.ko").exists()]
    archive = Archive()
    for name in ("bin", "dev", "mnt", "modules", "proc", "sys", "tmp"):
        archive.directory(name)
    archive.file("bin/busybox", Path(busybox).read_bytes())
    for applet in applets:
        if applet != "busybox":
            archive.link(f"bin/{applet}", "busybox")
    for name in modules:
        archive.file(f"modules/{name}.ko", (KERNEL_DIR / "modules" / f"{name}.ko").read_bytes())
    archive.file("modules/order", "".join(f"{name}.ko\n" for name in modules).encode())
    archive.file("init", INIT.read_bytes())
    return gzip.compress(archive.finish(), compresslevel=1)


class Archive:
    """A cpio archive in the "newc" form: ASCII header, name and data, each padded to a multiple of 4."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._inode = 1

    def directory(self, name: str) -> None:
        self._entry(name, 0o040755, b"")

    def file(self, name: str, data: bytes) -> None:
        self._entry(name, 0o100755, data)

    def link(self, name: str, target: str) -> None:
        self._entry(name, 0o120777, target.encode())

    def finish(self) -> bytes:
        self._entry("TRAILER!!!", 0, b"")
        return self._out.getvalue()

    def _entry(self, name: str, mode: int, data: bytes) -> None:
        raw_name = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name length, checksum
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw_name), 0)
        self._inode += 1
        self._out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + raw_name)
        self._pad()
        self._out.write(data)
        self._pad()

    def _pad(self) -> None:
        self._out.write(b"\0" * (-self._out.tell() % 4))
