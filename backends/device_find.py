"""Where a raw device is: by the UUID in its superblock, whatever its name is today.

    disk:/dev/sdb                     as the user says it
    disk:/dev/sdb?uuid=<32 hex>       as it is kept: the path is a hint, the UUID counts
"""

import os
import re
from contextlib import suppress
from pathlib import Path

from sds.core.errors import BadInput, Corrupt, Missing

from .device_errors import error_of
from .device_format import BLOCK, SECTOR, SUPERBLOCK_MAGIC, UNIT, Damaged, Superblock, decode_superblock
from .device_io import Disk

_URL = re.compile(r"disk:(?P<path>/[^?#\0]+)(?:\?uuid=(?P<uuid>[0-9a-f]{32}))?")
BLOCK_DEVICES = Path("/sys/class/block")


def parse(url: str) -> tuple[str, bytes | None]:
    """Path and UUID."""
    match = _URL.fullmatch(url)
    if match is None:
        raise BadInput(f"{url}: not a device; use disk:/dev/NAME")
    return match["path"], bytes.fromhex(match["uuid"]) if match["uuid"] else None


def url_of(path: str, uuid: bytes) -> str:
    return f"disk:{path}?uuid={uuid.hex()}"


def open_device(url: str) -> tuple[str, Disk, Superblock]:
    """The canonical URL, and the open device. Missing: it is nowhere. Corrupt: it is there, and damaged."""
    path, uuid = parse(url)
    complaint: Corrupt | None = None
    for place in [path, *_other_places(path)] if uuid is not None else [path]:
        try:
            disk = Disk(place)
        except OSError as error:
            if uuid is None:
                raise _not_opened(url, error) from error
            continue
        try:
            superblock, why = probe(disk)
        except OSError as error:
            disk.close()
            if place == path:
                raise error_of(url, "", error) from error
            continue
        if superblock is not None and uuid in (None, superblock.uuid):
            try:
                check_length(url, disk, superblock)
            except Corrupt:
                disk.close()
                raise
            return url_of(path if uuid is not None else place, superblock.uuid), disk, superblock
        if superblock is None and place == path:
            complaint = Corrupt(f"{url}: {why}; is it the right device? Take it out of the pool, or restore it")
        disk.close()
    if complaint is not None:
        raise complaint
    raise Missing(f"{url}: no device with this UUID is attached; attach it, or take it out of the pool")


def probe(disk: Disk) -> tuple[Superblock | None, str]:
    """The superblock: either copy. None, and why."""
    why = "has no superblock of sds"
    for at in (0, (disk.size_bytes // UNIT - 1) * UNIT):
        if at < 0 or at + BLOCK > disk.size_bytes:
            continue
        sector = disk.read(at, BLOCK)[:SECTOR]
        try:
            return decode_superblock(sector), ""
        except Damaged as error:
            if sector.startswith(SUPERBLOCK_MAGIC):
                why = f"{error} at byte {at}"
    return None, why


def check_length(url: str, disk: Disk, superblock: Superblock) -> None:
    if disk.size_bytes < superblock.units * UNIT:
        raise Corrupt(
            f"{url}: {disk.size_bytes} bytes, but {superblock.units * UNIT} when it was formatted;"
            " it was cut: restore its size, or take it out of the pool"
        )


def _other_places(path: str) -> list[str]:
    """Every other block device; for a path outside of /dev none: a file does not change its name by itself."""
    if not path.startswith("/dev/"):
        return []
    found = []
    with suppress(OSError):
        for name in sorted(os.listdir(BLOCK_DEVICES)):
            with suppress(OSError, ValueError):
                if int((BLOCK_DEVICES / name / "size").read_text()) > 0:
                    found.append("/dev/" + name.replace("!", "/"))
    return [place for place in found if place != path]


def _not_opened(url: str, error: OSError) -> Exception:
    if isinstance(error, FileNotFoundError):
        return Missing(f"{url}: no such device; see lsblk")
    return BadInput(f"{url}: cannot be opened as a device: {error.strerror}")
