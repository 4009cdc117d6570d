"""A file, directory or symlink of bench/nullfs.py, in memory; data in pieces of 1 MiB, as long as what was written."""

import os
import stat
import time

from pyfuse3 import EntryAttributes, RequestContext

PIECE_BYTES = 1 << 20
TIMEOUT_S = 3600.0


class Node:
    """The reply with its attributes is kept ready."""

    __slots__ = ("children", "entry", "handles", "parent", "pieces", "target", "xattrs")

    def __init__(self, inode: int, mode: int, parent: int, ctx: RequestContext | None) -> None:
        now_ns = time.time_ns()
        entry = self.entry = EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = mode
        entry.st_uid, entry.st_gid = (ctx.uid, ctx.gid) if ctx else (os.getuid(), os.getgid())
        entry.st_nlink = 2 if stat.S_ISDIR(mode) else 1
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = now_ns
        entry.attr_timeout = entry.entry_timeout = TIMEOUT_S
        self.parent = parent
        self.handles = 0
        self.target = b""
        self.children: dict[bytes, Node] = {}
        self.pieces: dict[int, bytearray] = {}
        self.xattrs: dict[bytes, bytes] = {}

    def write(self, offset: int, data: bytes) -> None:
        view, length, at = memoryview(data), len(data), 0
        while at < length:
            number, start = divmod(offset + at, PIECE_BYTES)
            count = min(PIECE_BYTES - start, length - at)
            piece = self.pieces.get(number)
            if piece is None:
                piece = self.pieces[number] = bytearray()
            if start > len(piece):
                piece.extend(bytes(start - len(piece)))
            piece[start : start + count] = view[at : at + count]
            at += count
        if offset + length > self.entry.st_size:
            self.resize(offset + length)

    def read(self, offset: int, length: int) -> bytes | memoryview:
        length = min(length, self.entry.st_size - offset)
        if length <= 0:
            return b""
        number, start = divmod(offset, PIECE_BYTES)
        if start + length <= PIECE_BYTES:
            return self._part(number, start, length)
        parts: list[bytes | memoryview] = []
        while length > 0:
            count = min(PIECE_BYTES - start, length)
            parts.append(self._part(number, start, count))
            number, start, length = number + 1, 0, length - count
        return b"".join(parts)

    def _part(self, number: int, start: int, count: int) -> bytes | memoryview:
        piece = self.pieces.get(number)
        if piece is None:
            return bytes(count)
        if start + count <= len(piece):
            return memoryview(piece)[start : start + count]
        return bytes(piece[start : start + count]).ljust(count, b"\0")

    def resize(self, size_bytes: int) -> None:
        last, rest = divmod(size_bytes, PIECE_BYTES)
        if size_bytes < self.entry.st_size:
            for number in [number for number in self.pieces if number > last or (number == last and rest == 0)]:
                del self.pieces[number]
            if last in self.pieces:
                del self.pieces[last][rest:]
        self.entry.st_size = size_bytes
        self.entry.st_blocks = -(-size_bytes // 512)
