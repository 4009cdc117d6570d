"""Large objects, sent in parts side by side.

  MU1  The object appears whole with the last request, or not at all.
  MU2  If anything fails, the parts are given up; if that fails too, the error says so, and abort_uploads finds them.
  MU3  The whole is confirmed as a single object is (s3.py, ST3): its ETag is the MD5 of the MD5s of the parts, or it is
       read back once. So a part that was stored as something else is noticed before put returns.
  MU4  Nothing conditional is sent in parts: some stores ignore the condition of the last request (Ceph RGW 16).
"""

import hashlib
from typing import TYPE_CHECKING

import trio

from sds.core.errors import SdsError

from .s3_requests import Content

if TYPE_CHECKING:
    from .s3 import S3Store

PARTS_MAX = 10000


async def put_in_parts(store: "S3Store", key: str, content: Content, part_bytes: int, deadline: float) -> None:
    """`part_bytes` grows if there would be more parts than S3 allows."""
    size_bytes = len(content.data)
    part_bytes = max(part_bytes, -(-size_bytes // PARTS_MAX))
    parts = [Content(content.data[start : start + part_bytes]) for start in range(0, size_bytes, part_bytes)]
    upload = await store.request(f"{key} (begin)", lambda requests, _: requests.begin_parts(key), deadline)
    try:
        tags = await _put_parts(store, key, upload, parts, deadline)
        await _finish(store, key, upload, content, parts, tags, deadline)
    except BaseException as error:
        await _give_up(store, key, upload, error)
        raise


async def _put_parts(
    store: "S3Store", key: str, upload: str, parts: list[Content], deadline: float
) -> list[str]:
    tags = [""] * len(parts)
    first: list[SdsError] = []

    async def one(number: int, part: Content) -> None:
        what = f"{key} (part {number})"
        try:
            async with store.uploading(what, deadline):
                stored = await store.request(
                    what, lambda requests, _: requests.put_part(key, upload, number, part), deadline
                )
            tags[number - 1] = stored.tag
        except SdsError as error:
            first.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for number, part in enumerate(parts, 1):
            nursery.start_soon(one, number, part)
    if first:
        raise first[0]
    return tags


async def _finish(
    store: "S3Store", key: str, upload: str, content: Content, parts: list[Content], tags: list[str], deadline: float
) -> None:
    whole = hashlib.md5(b"".join(part.digest for part in parts), usedforsecurity=False).hexdigest()
    expected = f"{whole}-{len(parts)}"
    try:
        stored = await store.request(
            f"{key} (end)", lambda requests, _: requests.end_parts(key, upload, tags, expected), deadline
        )
    except SdsError:
        # The end may have been carried out and its answer lost: then the upload is gone, and the object there.
        if await store.holds(key, content, deadline) is None:
            raise
    else:
        await store.confirm(key, content, stored, deadline)


async def _give_up(store: "S3Store", key: str, upload: str, error: BaseException) -> None:
    with trio.CancelScope(shield=True):
        try:
            await store.give_up(key, upload)
        except SdsError as also:
            error.add_note(f"the parts of {key} could not be given up and use room ({also})")
