"""Whether a store's conditional puts work, found out by trying: some stores ignore the condition and overwrite.

  SC1  Works means: a second put of what must be new is refused, a replacement with a wrong tag is refused, and one
       with the right tag is carried out. One of them wrong, and none is used.
  SC2  Leaves nothing behind, also when cancelled. The key has a random part, and no listing shows it.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from sds.core.errors import Exists, SdsError

from .s3_errors import Unsupported

if TYPE_CHECKING:
    from .s3 import S3Store

PROBE_PREFIX = ".probe/"
"""No name of ours (names.py), so it never shows."""
WRONG_TAG = '"00000000000000000000000000000000"'


def probe_key() -> str:
    return PROBE_PREFIX + secrets.token_hex(8)


@asynccontextmanager
async def removed(store: "S3Store", *keys: str) -> AsyncIterator[None]:
    """SC2. What stays because it cannot be deleted is an error, or a note to the error that is under way."""
    try:
        yield
    except BaseException as error:
        try:
            await _remove(store, keys)
        except SdsError as also:
            error.add_note(f"not cleaned up: {also}")
        raise
    await _remove(store, keys)


async def conditions_work(store: "S3Store") -> bool:
    key = probe_key()
    async with removed(store, key):
        try:
            tag = await store.put_if(key, b"first", None)
            if not await _is_refused(store, key, None) or not await _is_refused(store, key, WRONG_TAG):
                return False
            await store.put_if(key, b"replaced", tag)
        except (Exists, Unsupported):
            return False
        return (await store.fetch_any(key, 64)).content == b"replaced"


async def _is_refused(store: "S3Store", key: str, tag: str | None) -> bool:
    try:
        await store.put_if(key, b"must not be there", tag)
    except Exists:
        return True
    return False


async def _remove(store: "S3Store", keys: tuple[str, ...]) -> None:
    with trio.CancelScope(shield=True):
        for key in keys:
            await store.delete_any(key)
