"""Making a raw device ours, and giving it back. Blocking.

  DS1  Nothing is written before every check is done. A device that is mounted, held by another driver, or in use by a
       pool is never touched, forced or not.
  DS2  The superblock is written last, when the tables are empty and durable: a device is formatted or it is not.
"""

import os
import secrets
import shutil
import stat
import subprocess
from pathlib import Path

from sds.core.errors import BadInput, Busy, Missing

from .device_errors import errors
from .device_find import BLOCK_DEVICES, open_device, parse, probe, url_of
from .device_format import (
    BLOCK,
    GENERATION_AT,
    MIN_BYTES,
    RECENT,
    SUPERBLOCK_MAGIC,
    UNIT,
    encode_generation,
    encode_superblock,
    layout,
)  # fmt: skip
from .device_io import LOCK_USE, Disk
from .device_sync import Flusher
from .device_table import Table

_BLKID_S = 20
_MAGICS = (
    (0, b"XFSB", "an xfs file system"),
    (0, b"LUKS\xba\xbe", "a LUKS volume"),
    (0, SUPERBLOCK_MAGIC, "a device that belongs to a pool of sds"),
    (512, b"EFI PART", "a GPT partition table"),
    (512, b"LABELONE", "an LVM volume"),
    (1080, b"\x53\xef", "an ext file system"),
    (4086, b"SWAPSPACE2", "a swap area"),
    (0x10040, b"_BHRfS_M", "a btrfs file system"),
    (510, b"\x55\xaa", "an MBR partition table or boot sector"),
)
_ZFS_UBERBLOCKS = (0x00BAB10C).to_bytes(8, "little"), (0x00BAB10C).to_bytes(8, "big")


def format_device(path: str, force: bool) -> str:
    """Writes superblock and empty tables; hands back the canonical URL. BadInput or Busy: nothing was written."""
    url = f"disk:{path}"
    parse(url)
    disk, claim = _open(url, path)
    try:
        with errors(url, ""):
            found = _found_on(disk, path)
            if found and not force:
                raise BadInput(f"{url}: holds {found}; choose another device, or --force to lose what is on it")
            superblock = layout(disk.size_bytes, secrets.token_bytes(16))
            _clear(disk)
            for table in superblock.tables_at:
                for at in range(table, table + superblock.table_units * UNIT, UNIT):
                    disk.write(at, memoryview(bytes(UNIT)))
            generation = encode_generation(superblock, 0, [0] * RECENT)
            disk.write(GENERATION_AT, memoryview(generation.ljust(BLOCK, b"\0")))
            disk.flush()
            for at in (superblock.copy_at, 0):
                disk.write(at, memoryview(encode_superblock(superblock).ljust(BLOCK, b"\0")))
            disk.flush()
            return url_of(path, superblock.uuid)
    finally:
        _close(disk, claim)


def wipe_device(url: str) -> None:
    """The device is nobody's again: superblocks and tables are gone. Busy: somebody uses it."""
    _, disk, superblock = open_device(url)
    path = disk.path
    disk.close()
    disk, claim = _open(url, path)
    try:
        with errors(url, ""):
            found, _ = probe(disk)
            if found is None or found.uuid != superblock.uuid:
                raise BadInput(f"{url}: was exchanged meanwhile; look again")
            _clear(disk)
            for table in superblock.tables_at:
                for at in range(table, table + superblock.table_units * UNIT, UNIT):
                    disk.write(at, memoryview(bytes(UNIT)))
            disk.flush()
    finally:
        _close(disk, claim)


def accept_damage(url: str) -> int:
    """Gives up the files whose entries cannot be read, so that the device can be written again: how many there were."""
    canonical, disk, superblock = open_device(url)
    try:
        with errors(canonical, ""):
            table = Table(canonical, disk, superblock, Flusher(disk.flush))
            with table.changing():
                return table.clear_damaged()
    finally:
        disk.close()


def _open(url: str, path: str) -> tuple[Disk, int]:
    """The device, locked against every other use, and a descriptor that claims it (-1 for a regular file)."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise Missing(f"{url}: {error.strerror}; see lsblk") from error
    if not stat.S_ISBLK(mode) and not stat.S_ISREG(mode):
        raise BadInput(f"{url}: is not a block device; see lsblk")
    claim = -1
    if stat.S_ISBLK(mode):
        _refuse_in_use(url, path)
        try:
            claim = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        except OSError as error:
            raise Busy(f"{url}: is in use, or cannot be written: {error.strerror}; see lsblk") from error
    try:
        disk = Disk(path)
    except OSError as error:
        if claim >= 0:
            os.close(claim)
        raise BadInput(f"{url}: cannot be written: {error.strerror}") from error
    try:
        with errors(url, ""):
            if not disk.lock(LOCK_USE, exclusive=True, wait=False):
                raise Busy(f"{url}: a pool uses this device; take it out of that pool first")
        if disk.size_bytes < MIN_BYTES:
            raise BadInput(f"{url}: {disk.size_bytes} bytes are too small; use at least {MIN_BYTES >> 20} MiB")
    except BaseException:
        _close(disk, claim)
        raise
    return disk, claim


def _close(disk: Disk, claim: int) -> None:
    disk.close()
    if claim >= 0:
        os.close(claim)


def _refuse_in_use(url: str, path: str) -> None:
    number = os.stat(path).st_rdev
    numbers = {number} | {_number(part) for part in _parts(number)}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        major, _, minor = line.split()[2].partition(":")
        if os.makedev(int(major), int(minor)) in numbers:
            raise Busy(f"{url}: is mounted at {line.split()[4]}; unmount it first")
    for line in Path("/proc/swaps").read_text().splitlines()[1:]:
        used = line.split()[0]
        if os.path.exists(used) and os.stat(used).st_rdev in numbers and stat.S_ISBLK(os.stat(used).st_mode):
            raise Busy(f"{url}: is used for swapping; see swapoff")
    for place in (_sys(number), *_parts(number)):
        holders = place / "holders"
        if holders.is_dir() and any(holders.iterdir()):
            names = ", ".join(sorted(holder.name for holder in holders.iterdir()))
            raise Busy(f"{url}: is in use by {names}; see lsblk")
    if (_sys(number) / "ro").exists() and (_sys(number) / "ro").read_text().strip() != "0":
        raise BadInput(f"{url}: is read-only; choose another device")


def _sys(number: int) -> Path:
    return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")


def _parts(number: int) -> list[Path]:
    """The partitions of a device."""
    return [path.parent for path in _sys(number).glob("*/partition")] if BLOCK_DEVICES.is_dir() else []


def _number(place: Path) -> int:
    major, _, minor = (place / "dev").read_text().strip().partition(":")
    return os.makedev(int(major), int(minor))


def _found_on(disk: Disk, path: str) -> str:
    """What the device holds already; empty: nothing that anybody knows."""
    head = disk.read(0, UNIT)
    if probe(disk)[0] is not None:
        return "a device that belongs to a pool of sds"
    for offset, magic, what in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return what
    if any(head[at : at + 8] in _ZFS_UBERBLOCKS for at in range(0x20000, 0x40000, 1024)):
        return "a member of a ZFS pool"
    return _blkid(path)


def _blkid(path: str) -> str:
    program = shutil.which("blkid", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        return ""
    command = [program, "-p", "-o", "export", "--", path]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_BLKID_S)
    except (OSError, subprocess.TimeoutExpired):
        return "something that blkid cannot look at"
    fields = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if done.returncode == 8:  # More than one signature.
        return "more than one signature (see wipefs)"
    return fields.get("TYPE") or fields.get("PTTYPE") or ""


def _clear(disk: Disk) -> None:
    """First and last MiB: where signatures of others are, and superblocks of ours."""
    tail = (disk.size_bytes // UNIT - 1) * UNIT
    for at, length in ((0, UNIT), (tail, disk.size_bytes // BLOCK * BLOCK - tail)):
        disk.write(at, memoryview(bytes(length)))
    disk.flush()
