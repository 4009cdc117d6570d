"""An object store that counts: requests and bytes by kind for metrics, and what fails since when for health.

  OT1  A kind of request (put, get, list, delete) fails from its first BackendError or BadInput until one succeeds.
       That an object is missing, exists or is too short is an answer.
  OT2  NoSpace makes the store full until a put succeeds.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import trio

from sds.core.errors import BackendError, BadInput, NoSpace, SdsError

from .base import Stat
from .objects import Object, ObjectStore

KINDS = ("put", "get", "list", "delete")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ObjectStats:
    error: str
    """What fails now; empty: nothing."""
    failing_s: float
    """For how long."""
    full: bool
    pending_files: int
    """Sealed, not uploaded yet."""
    pending_bytes: int
    journal_bytes: int
    """Room taken in the journal by files that this process knows, open ones too."""
    cache_bytes: int
    requests: dict[str, int]
    bytes: dict[str, int]


class CountedStore:
    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self.full = False
        self.requests = dict.fromkeys(KINDS, 0)
        self.bytes = dict.fromkeys(KINDS, 0)
        self._failing: dict[str, tuple[float, str]] = {}

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def conditional(self) -> bool:
        return self.inner.conditional

    @property
    def parallelism(self) -> int:
        return self.inner.parallelism

    async def put(self, key: str, content: bytes | memoryview, only_new: bool = False) -> None:
        await self._count("put", len(content), lambda: self.inner.put(key, content, only_new))
        self.full = False

    async def replace(self, key: str, content: bytes, tag: str | None) -> str:
        out = await self._count("put", len(content), lambda: self.inner.replace(key, content, tag))
        self.full = False
        return out

    async def fetch(self, key: str, size_limit_bytes: int) -> Object:
        found = await self._count("get", 0, lambda: self.inner.fetch(key, size_limit_bytes))
        self.bytes["get"] += len(found.content)
        return found

    async def get(self, key: str, offset: int, into: memoryview) -> None:
        await self._count("get", len(into), lambda: self.inner.get(key, offset, into))

    async def delete(self, key: str) -> None:
        await self._count("delete", 0, lambda: self.inner.delete(key))

    async def list(self, prefix: str) -> list[Stat]:
        return await self._count("list", 0, lambda: self.inner.list(prefix))

    async def close(self) -> None:
        await self.inner.close()

    def failing_s(self, kind: str | None = None) -> float:
        """For how long requests of this kind (or of any) have failed; 0: they do not."""
        since = [at for failing, (at, _) in self._failing.items() if kind in (None, failing)]
        return trio.current_time() - min(since) if since else 0.0

    def error(self, kind: str | None = None) -> str:
        return next((text for failing, (_, text) in self._failing.items() if kind in (None, failing)), "")

    async def size_of(self, key: str) -> int | None:
        """The size of an object; None: there is none."""
        return next((stat.size_bytes for stat in await self.list(key) if stat.name == key), None)

    async def _count(self, kind: str, size_bytes: int, request: Callable[[], Awaitable[Result]]) -> Result:
        self.requests[kind] += 1
        try:
            result = await request()
        except NoSpace:
            self.full = True
            raise
        except (BackendError, BadInput) as error:
            since, _ = self._failing.get(kind, (trio.current_time(), ""))
            self._failing[kind] = (since, str(error))
            raise
        except SdsError:
            self._failing.pop(kind, None)
            raise
        self._failing.pop(kind, None)
        self.bytes[kind] += size_bytes
        return result
