"""Homes that share object stores, without anything else of a pool: for the tests of owner records."""

import trio

from backends.base import Backend
from backends.memory import MemoryBackend
from backends.objects import Object
from sds.core.errors import BackendError
from sds.pool.owner import Identity, OwnerRecord, read_owner
from tests.sim.objects import SimObjects

A = Identity("a" * 32, "host-a")
B = Identity("b" * 32, "host-b")
C = Identity("c" * 32, "host-c")
CUT_S = 1.0


class Link:
    """The way of one machine to a store; `cut`: nothing gets through. As much of an ObjectStore as records need."""

    def __init__(self, store: SimObjects) -> None:
        self.store = store
        self.cut = False
        self.hangs = False

    @property
    def url(self) -> str:
        return self.store.url

    @property
    def conditional(self) -> bool:
        return self.store.conditional

    async def _pass(self) -> None:
        if self.hangs:
            await trio.sleep_forever()
        if self.cut:
            await trio.sleep(CUT_S)
            raise BackendError(f"{self.url}: no connection")

    async def put(self, key: str, content: bytes | memoryview, only_new: bool = False) -> None:
        await self._pass()
        await self.store.put(key, content, only_new)

    async def replace(self, key: str, content: bytes, tag: str | None) -> str:
        await self._pass()
        return await self.store.replace(key, content, tag)

    async def fetch(self, key: str, size_limit_bytes: int) -> Object:
        await self._pass()
        return await self.store.fetch(key, size_limit_bytes)

    async def delete(self, key: str) -> None:
        await self._pass()
        await self.store.delete(key)


class StoreBackend(MemoryBackend):
    """What one machine has of a store: small files only."""

    def __init__(self, store: SimObjects) -> None:
        super().__init__(url=store.url)
        self.store = Link(store)

    async def put(self, name: str, data: bytes) -> None:
        await self.store.put(name, data)

    async def get(self, name: str, size_limit_bytes: int) -> bytes:
        return (await self.store.fetch(name, size_limit_bytes)).content

    async def delete(self, name: str) -> None:
        await self.store.delete(name)


def machine(stores: list[SimObjects]) -> list[StoreBackend]:
    return [StoreBackend(store) for store in stores]


async def record_on(backend: Backend) -> OwnerRecord:
    record = (await read_owner(backend)).record
    assert record is not None
    return record
