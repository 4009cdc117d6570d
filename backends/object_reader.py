"""Open files of the object backend.

  OR1  An ObjectReader answers from the cache, and from the store what is not there.
  OR2  A JournalReader reads the journal until the file has been uploaded and has left it; from then on it is an
       ObjectReader. A read that was under way when the file left is done again: its bytes may be another file's (B9).
  OR3  A WholeReader has all of a small file that may be replaced (put): the version that was there when it was opened.
  OR4  An object that was deleted cannot be read on: what of it is not in the cache is Missing.
  OR5  A StoreReader asks the store for every byte: for those who want to know what is there.
"""

from collections.abc import Awaitable, Callable

import trio

from sds.core.errors import BackendError, Missing, SdsError

from .base import Reader
from .cache import CacheFile
from .names import check_read
from .object_fetch import Fetcher
from .object_stats import CountedStore
from .objects import ObjectStore


class ObjectReader:
    def __init__(self, url: str, name: str, file: CacheFile, fetcher: Fetcher) -> None:
        self._url = url
        self._name = name
        self._file = file
        self._fetcher = fetcher
        self._users = 0
        self._closed = False

    def read_nowait(self, offset: int, into: memoryview) -> bool:
        if self._closed or offset < 0 or offset + len(into) > self._file.size_bytes:
            return False
        return self._file.read_nowait(offset, into)

    async def read(self, offset: int, into: memoryview) -> None:
        if self._closed:
            raise closed(self._url, self._name)
        check_read(self._url, self._name, offset, len(into), self._file.size_bytes)
        self._users += 1
        try:
            await self._fetcher.read(self._name, self._file, offset, into)
        finally:
            self._users -= 1
            self._close_if_unused()

    def will_need(self, offset: int, length: int) -> bool:
        return self._closed or self._fetcher.will_need(self._name, self._file, offset, length)

    def distrust(self) -> bool:
        self._file.forget()
        return True

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._closed and not self._users:
            self._file.close()


class StoreReader:
    def __init__(self, url: str, name: str, size_bytes: int, store: ObjectStore) -> None:
        self._url = url
        self._name = name
        self._size_bytes = size_bytes
        self._store = store
        self._closed = False

    def read_nowait(self, offset: int, into: memoryview) -> bool:
        return False

    async def read(self, offset: int, into: memoryview) -> None:
        if self._closed:
            raise closed(self._url, self._name)
        check_read(self._url, self._name, offset, len(into), self._size_bytes)
        await self._store.get(self._name, offset, into)

    def will_need(self, offset: int, length: int) -> bool:
        return True

    def close(self) -> None:
        self._closed = True


async def open_in_store(store: CountedStore, name: str) -> StoreReader:
    size = await store.size_of(name)
    if size is None:
        raise Missing(f"{store.url}: {name}: no such file")
    return StoreReader(store.url, name, size, store)


class WholeReader:
    def __init__(self, url: str, name: str, content: bytes) -> None:
        self._url = url
        self._name = name
        self._content: memoryview | None = memoryview(content)

    def read_nowait(self, offset: int, into: memoryview) -> bool:
        content = self._content
        if content is None or offset < 0 or offset + len(into) > len(content):
            return False
        into[:] = content[offset : offset + len(into)]
        return True

    async def read(self, offset: int, into: memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self._content is None:
            raise closed(self._url, self._name)
        check_read(self._url, self._name, offset, len(into), len(self._content))
        self.read_nowait(offset, into)

    def will_need(self, offset: int, length: int) -> bool:
        return True

    def close(self) -> None:
        self._content = None


class JournalReader:
    """`reopen` opens the object (Missing if there is none), `released` is told of the close."""

    def __init__(
        self,
        url: str,
        name: str,
        journal: Reader,
        reopen: Callable[[], Awaitable[Reader]],
        released: Callable[["JournalReader"], None],
    ) -> None:
        self.name = name
        self._url = url
        self._journal = journal
        self._reopen = reopen
        self._released = released
        self._object: Reader | None = None
        self._moved = False
        self._doubted = False
        self._alone = False
        self._closed = False

    def moved(self) -> None:
        """The file is in the store and leaves the journal now (OR2)."""
        self._moved = True

    def read_nowait(self, offset: int, into: memoryview) -> bool:
        if self._closed:
            return False
        if self._object is not None:
            return self._object.read_nowait(offset, into)
        return not self._moved and self._journal.read_nowait(offset, into)

    async def read(self, offset: int, into: memoryview) -> None:
        if self._closed:
            raise closed(self._url, self.name)
        if self._doubted and not self._alone:
            await self._look_for_object()
        if not self._moved and self._object is None:
            try:
                await self._journal.read(offset, into)
            except SdsError:
                if not self._moved:
                    raise
            if not self._moved:
                return
        await (await self._object_reader()).read(offset, into)

    def will_need(self, offset: int, length: int) -> bool:
        if self._closed:
            return True
        if self._object is not None:
            return self._object.will_need(offset, length)
        return self._moved or self._journal.will_need(offset, length)

    def distrust(self) -> bool:
        """A file in the journal may be one that came back after a power cut (B9): the object is then the sound one."""
        if self._object is None:
            self._doubted = True
            return self._moved or not self._alone
        distrust = getattr(self._object, "distrust", None)
        return distrust is not None and distrust()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._released(self)
        self._journal.close()
        if self._object is not None:
            self._object.close()

    async def _look_for_object(self) -> None:
        try:
            await self._object_reader()
        except Missing:
            self._alone = True

    def _is_closed(self) -> bool:
        return self._closed

    async def _object_reader(self) -> Reader:
        if self._object is None:
            made = await self._reopen()
            if self._is_closed():
                made.close()
                raise closed(self._url, self.name)
            self._adopt(made)
            return self._object or made
        return self._object

    def _adopt(self, made: Reader) -> None:
        if self._object is None:
            self._object = made
        else:  # Somebody was quicker.
            made.close()


def closed(url: str, name: str) -> BackendError:
    return BackendError(f"{url}: {name}: the reader is closed; open it again")
