"""Making a place ready to become a backend of a pool, and taking that back. Directories need nothing.

    disk:/dev/sdX      formatted: from then on it is known by a UUID, not by its name
    s3://...           asked what it really does, with objects that go again

  PR1  `prepare` refuses what cannot work with one line that says what to do, and has changed nothing then.
  PR2  `undo` may be called for whatever `prepare` returned, as long as nothing of value was put there.
"""

from dataclasses import dataclass, replace

import trio

DISK = "disk:"
S3 = "s3:"


@dataclass(frozen=True, slots=True)
class Prepared:
    url: str
    """What the catalog keeps."""
    warnings: tuple[str, ...] = ()


async def prepare(url: str, force: bool = False) -> Prepared:
    """PR1. `force`: also a device on which there is something already."""
    if url.startswith(DISK):
        from .device import format_device

        return Prepared(await trio.to_thread.run_sync(format_device, url.removeprefix(DISK), force))
    if url.startswith(S3):
        return await _prepare_store(url)
    return Prepared(url)


async def _prepare_store(url: str) -> Prepared:
    from .s3 import S3Store
    from .s3_probe import probe
    from .s3_url import S3Url

    place = S3Url.parse(url)
    store = S3Store(place)
    try:
        found = await probe(store)
    finally:
        await store.close()
    return Prepared(str(place if found.conditional else replace(place, conditional="no")), found.warnings)


async def undo(url: str) -> None:
    """PR2."""
    if url.startswith(DISK):
        from .device import wipe_device

        await trio.to_thread.run_sync(wipe_device, url)
