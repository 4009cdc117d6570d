"""A filesystem to be read: a snapshot of one, or the reading half of the one that is mounted.

  FV1  Every method is one section: what it returns was true at one point in time. Only `read` of data that is not in
       memory waits in between, and looks again afterwards.
  FV2  POSIX errors are OSError; an inode that does not exist (any more) is ESTALE. What is damaged is Corrupt, for that
       inode only.
  FV3  Memory is bounded by the caches below (nodes, map pages), not by the size of the filesystem.
"""

import errno
from functools import partial
from typing import Final

from sds.core.address import BLOCK_SIZE
from sds.core.errors import Corrupt
from sds.core.frame import Buffer
from sds.core.keys import DIRENT, XATTR, kind_range
from sds.dataset.blockmap import BlockMap
from sds.dataset.blockreader import BlockReader, trimmed
from sds.dataset.items import Items
from sds.dataset.readahead import ReadAhead
from sds.dataset.section import Wait, run
from sds.filesystem.attributes import DAMAGED, INLINE, INODE_BYTES, XATTRS, Attr, Entry, Statfs
from sds.filesystem.entries import COOKIE_MIN, Link, check_name, decode_links, entry_key, find, hash_in
from sds.filesystem.inodes import (
    SEED_KEY,
    error,
    inline_key,
    load_attr,
    load_chunks,
    load_counters,
    symlink_prefix,
    xattr_prefix,
)
from sds.filesystem.paths import path_of
from sds.log.reader import FrameReader

ENTRIES_MAX: Final = 256
"""Of one listing: their attributes may lie in as many nodes."""
STREAMS_MAX: Final = 64
"""Files whose reading is watched for read-ahead."""


class FilesystemView:
    read_only = True

    def __init__(self, items: Items, blocks: BlockMap, reader: FrameReader) -> None:
        self.items = items
        self.map = blocks
        self.reader = reader
        self._blocks = BlockReader(blocks, reader)
        self._streams: dict[int, ReadAhead] = {}
        self._seed: int | None = None

    # -- names ----------------------------------------------------------------------------------------------------

    def seed(self) -> int:
        """Of the hash of names. Wait."""
        if self._seed is None:
            self._seed = int.from_bytes(self.items.get(SEED_KEY) or b"", "little")
        return self._seed

    async def lookup(self, parent: int, name: bytes) -> Attr:
        """ENOENT, ENOTDIR, ENAMETOOLONG."""
        return await run(partial(self._lookup, parent, name))

    def _lookup(self, parent: int, name: bytes) -> Attr:
        check_name(name)
        link = find(self.items, self.seed(), parent, name)
        if link is None:
            if not load_attr(self.items, parent).is_directory:
                raise error(errno.ENOTDIR)
            raise error(errno.ENOENT)
        return load_attr(self.items, link.inode)

    async def getattr(self, inode: int) -> Attr:
        return await run(partial(load_attr, self.items, inode))

    async def readlink(self, inode: int) -> bytes:
        """EINVAL: not a symbolic link."""
        return await run(partial(self._readlink, inode))

    def _readlink(self, inode: int) -> bytes:
        attr = load_attr(self.items, inode)
        if not attr.is_symlink:
            raise error(errno.EINVAL)
        target = load_chunks(self.items, symlink_prefix(inode)) or b""
        self._accessed(attr)
        return target

    async def readdir(self, inode: int, cookie: int, limit: int) -> list[Entry]:
        """At most `limit` entries behind the cookie (0: from the start); [] at the end only. E2 of entries.py."""
        try:
            return await run(partial(self._readdir, inode, cookie, min(limit, ENTRIES_MAX)))
        except Corrupt:
            return await self._readdir_damaged(inode, cookie, limit)

    async def _readdir_damaged(self, inode: int, cookie: int, limit: int) -> list[Entry]:
        """FV2: one by one, for one damaged inode does not make the others of its directory unreadable."""
        entries = []
        for link, place in await run(partial(self._links, inode, cookie, min(limit, ENTRIES_MAX))):
            try:
                attr = await self.getattr(link.inode)
            except Corrupt:
                attr = Attr(link.inode, DAMAGED, link.type << 12, 1, 0, 0, 0, 0, 0, inode, 0, 0, 0, 0)
            entries.append(Entry(link.name, attr, place))
        return entries

    def _readdir(self, inode: int, cookie: int, limit: int) -> list[Entry]:
        directory = load_attr(self.items, inode)
        if not directory.is_directory:
            raise error(errno.ENOTDIR)
        entries: list[Entry] = []
        missing: list[Wait] = []
        for link, place in self._links(inode, cookie, limit):
            try:
                attr = load_attr(self.items, link.inode)
            except Wait as wait:
                missing.append(wait)
            else:
                if not missing:
                    entries.append(Entry(link.name, attr, place))
        if missing and not entries:  # else what is there will do: others may need the memory, too
            missing.reverse()  # the first is the one that has to be there
            raise Wait(partial(_all, missing))
        if not cookie:
            self._accessed(directory)
        return entries

    def _links(self, inode: int, cookie: int, limit: int) -> list[tuple[Link, int]]:
        """(link, cookie) of up to `limit` entries behind the cookie, in the order of the cookies."""
        found: list[tuple[Link, int]] = []
        low = entry_key(inode, max(cookie, COOKIE_MIN) >> 8)
        high = kind_range(inode, DIRENT)[1]
        while low < high and len(found) < limit:
            items, low = self.items.batch(low, high)
            for entry, value in items:
                base = hash_in(entry) << 8
                links = ((link, base | link.number) for link in decode_links(value, inode))
                found += (place for place in links if place[1] > cookie)
                if len(found) >= limit:
                    break
        return found[:limit]

    # -- contents -------------------------------------------------------------------------------------------------

    async def read(self, inode: int, offset: int, length: int) -> Buffer:
        """What is there of offset .. offset+length: short only at the end of the file. Use it at once: it may be a
        view of memory that is used again."""
        wanted = length
        while True:
            attr, content = await run(partial(self._opened_content, inode))
            if content is not None:
                return content[offset : offset + wanted]
            length = min(wanted, attr.size_bytes - offset)
            if length <= 0:
                return b""
            stream = self._stream(inode)
            stream.note(offset, length)
            first, last = offset >> 12, offset + length - 1 >> 12
            buffers = self._blocks.blocks_nowait(inode, first, last - first + 1)
            if buffers is None:
                await stream.missed()
                # Copies: a slot of the stage may get another tenant while the attributes are looked at again.
                buffers = [bytes(buffer) for buffer in await self._blocks.blocks(inode, first, last - first + 1)]
                now = await run(partial(load_attr, self.items, inode))
                if now.flags & INLINE or min(wanted, now.size_bytes - offset) != length:
                    continue  # its end is elsewhere now
            found = trimmed(buffers, offset & 4095, length)
            return found[0] if len(found) == 1 else b"".join(found)

    def _opened_content(self, inode: int) -> tuple[Attr, bytes | None]:
        """(attributes, contents if they are an item)."""
        attr = load_attr(self.items, inode)
        content = (self.items.get(inline_key(inode)) or b"") if attr.flags & INLINE else None
        self._accessed(attr)
        return attr, content

    def _accessed(self, attr: Attr) -> None:
        """Somebody reads this inode."""

    def _stream(self, inode: int) -> ReadAhead:
        stream = self._streams.get(inode)
        if stream is None:
            if len(self._streams) >= STREAMS_MAX:
                del self._streams[next(iter(self._streams))]
            stream = self._streams[inode] = ReadAhead(self.map, self.reader, inode)
        return stream

    # -- extended attributes ------------------------------------------------------------------------------------------

    async def getxattr(self, inode: int, name: bytes) -> bytes:
        """ENODATA."""
        return await run(partial(self._getxattr, inode, name))

    def _getxattr(self, inode: int, name: bytes) -> bytes:
        found = None
        if load_attr(self.items, inode).flags & XATTRS:
            found = load_chunks(self.items, xattr_prefix(inode, name))
        if found is None:
            raise error(errno.ENODATA)
        return found

    async def listxattr(self, inode: int) -> list[bytes]:
        return await run(partial(self._listxattr, inode))

    def _listxattr(self, inode: int) -> list[bytes]:
        if not load_attr(self.items, inode).flags & XATTRS:
            return []
        low, high = kind_range(inode, XATTR)
        suffixes = (entry[9:] for entry, _ in self.items.all(low, high))
        return [suffix[:-2] for suffix in suffixes if suffix.endswith(b"\0\0")]

    async def path_of(self, inode: int) -> str:
        """For messages."""
        return await path_of(self.items, inode)

    async def statfs(self) -> Statfs:
        """Full: nothing can be added."""
        counters = await run(partial(load_counters, self.items))
        blocks = self.map.mapped_blocks + -(-counters.inodes * INODE_BYTES // BLOCK_SIZE)
        return Statfs(BLOCK_SIZE, blocks, 0, 0, counters.inodes, 0)

    # -- open files ---------------------------------------------------------------------------------------------------

    async def open(self, inode: int) -> None:
        await self.getattr(inode)

    async def release(self, inode: int) -> None:
        self._streams.pop(inode, None)


async def _all(waits: list[Wait]) -> None:
    for wait in waits:
        await wait.until()
