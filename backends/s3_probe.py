"""What a store really does, found out before a pool relies on it (`pool create`, `pool add`).

  PR1  What the object backend cannot do without is tried: put, read, ranges, listing, overwriting, deleting. If it
       fails, one line says what to do.
  PR2  What it can do without (conditional puts, a clock that agrees) becomes a warning.
  PR3  Leaves nothing behind, also when it fails.
"""

import secrets
from dataclasses import dataclass

import trio

from sds.core.errors import BackendError, Corrupt, Missing, SdsError

from .s3 import S3Store
from .s3_conditions import conditions_work, probe_key, removed

SKEW_WARN_S = 60.0
ANSWER_S = 8.0
"""For the first answer: a wrong address is said soon."""


@dataclass(frozen=True, slots=True)
class Probed:
    conditional: bool
    warnings: tuple[str, ...]


async def probe(store: S3Store) -> Probed:
    """BadInput or BackendError if the store will not do."""
    place = store.s3_url.place
    await store.request("list", lambda requests, _: requests.list_page("", None), trio.current_time() + ANSWER_S)
    key, name = probe_key(), f"probe-{secrets.token_hex(8)}"
    async with removed(store, key, name):
        await _objects(store, key)
        await _listing(store, name)
    warnings = []
    conditional = False
    if store.s3_url.conditional == "no":
        warnings.append(f"{place}: conditional puts are off (conditional=no): two machines cannot be kept apart here")
    else:
        conditional = await conditions_work(store)
        if not conditional:
            warnings.append(f"{place}: conditional puts are ignored or refused: two machines cannot be kept apart here")
    if store.skew_s is not None and abs(store.skew_s) > SKEW_WARN_S:
        warnings.append(f"{place}: the store's clock and this machine's differ by {abs(store.skew_s):.0f} s: set them")
    store.learned(conditional)
    return Probed(conditional, tuple(warnings))


async def _objects(store: S3Store, key: str) -> None:
    content = secrets.token_bytes(9000)
    await store.put_always(key, content)
    if (await store.fetch_any(key, len(content))).content != content:
        raise _unfit(store, "an object reads back as something else")
    for offset, count in ((0, 1), (0, 4096), (4096, 512), (len(content) - 1, 1)):
        into = bytearray(count)
        await _read(store, key, offset, into)
        if into != content[offset : offset + count]:
            raise _unfit(store, f"a range of an object ({count} bytes at {offset}) reads as something else")
    try:
        await _read(store, key, len(content) - 1, bytearray(2))
    except Corrupt:
        pass
    else:
        raise _unfit(store, "it gives bytes beyond the end of an object")
    await store.put_always(key, b"overwritten")
    if (await store.fetch_any(key, len(content))).content != b"overwritten":
        raise _unfit(store, "an object that was overwritten still reads as before")
    await store.delete_any(key)
    try:
        await store.fetch_any(key, len(content))
    except Missing:
        return
    raise _unfit(store, "an object that was deleted is still there")


async def _listing(store: S3Store, name: str) -> None:
    if name in await _names(store, name):
        raise _unfit(store, "it lists what was never put")
    await store.put_always(name, b"listed")
    if await _names(store, name) != [name]:
        raise _unfit(store, "the listing does not show what was just put")
    await store.delete_any(name)
    if await _names(store, name):
        raise _unfit(store, "the listing still shows what was just deleted")


async def _names(store: S3Store, prefix: str) -> list[str]:
    return [stat.name for stat in await store.list(prefix)]


async def _read(store: S3Store, key: str, offset: int, into: bytearray) -> None:
    await store.request(
        key, lambda requests, deadline: requests.get(key, offset, memoryview(into), deadline), store.soon()
    )


def _unfit(store: S3Store, why: str) -> SdsError:
    return BackendError(f"{store.s3_url.place}: {why}: this store cannot be used, or is broken")
