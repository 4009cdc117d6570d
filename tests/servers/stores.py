"""Runs a test's coroutine on an S3Store, and closes it."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from backends.s3 import Limits, S3Store

Result = TypeVar("Result")
USUAL = Limits()
QUICK = Limits(connect_s=1.0, read_s=0.3, call_s=1.2, put_s=1.2)
"""For servers that hang on purpose."""


def run_store(
    url: str,
    body: Callable[[S3Store], Awaitable[Result]],
    conditional: bool | None = None,
    limits: Limits = USUAL,
) -> Result:
    async def main() -> Result:
        store = S3Store(url, conditional, limits, seed=1)
        try:
            return await body(store)
        finally:
            await store.close()

    return trio.run(main)


async def read(store: S3Store, key: str, offset: int, count: int) -> bytes:
    into = bytearray(count)
    await store.get(key, offset, memoryview(into))
    return bytes(into)
