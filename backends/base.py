"""The contract of a backend: where segments and small objects are kept.

A backend holds *files* in a flat namespace of names like `segments/000001/0000000012-00000003`
(lower-case letters, digits, `-`, `.`, one `/` between parts). Each sentence below is a test of the
conformance suite (tests/backends/) and holds for every backend, the simulated ones too.

  B1  create: on return the room for `size_bytes` is taken, so writes inside cannot meet NoSpace; unwritten
      bytes are zeros or those of a deleted file. Name and size become durable with the first sync or seal; until
      then a power cut may leave the file out, or shorter. NoSpace leaves nothing behind. A name that exists
      already raises Exists and changes nothing.
  B2  write: offset and length are multiples of 4096 and inside the created size. Data may be lost, kept or
      torn (by 512-byte sectors) by a power cut until a later sync of that file returned. Writes that overlap
      are never under way together; a reader sees a write that returned.
  B3  sync, or write with sync=True: everything written to this file before is durable on return.
  B4  A write or sync that raised is final for that file: the caller never trusts it again.
  B5  seal: cuts the file to `size_bytes` (a multiple of 4096, at most its size); that and everything written
      before is durable on return. Sealing again is fine.
  B6  read fills the whole buffer or raises: Missing (no such file), Corrupt (file too short), BackendError.
  B7  read_nowait fills the buffer and returns True, or returns False at once (it would have to wait, or any
      error).
  B8  put: all or nothing, durable on return, replaces. If it raises, either version may be there.
  B9  delete: durable at some later time (a file may come back after a power cut); deleting nothing is fine.
  B10 list: every file whose name starts with the prefix, with its size, sorted by name; temporary files do
      not show.
  B11 Errors are SdsErrors that name backend and file. Nothing else is raised (cancellation aside).
  B12 settle: every file whose name starts with the prefix, and that was sealed before the call, is where it stays: of
      an object store, uploaded. Where files never move it returns at once. May wait long; BackendError: not now.
  B13 Every operation ends, if need be with BackendError after HANG_S: a device that hangs holds up nobody for ever.
      Only settle, and create where it waits for the room of files that are being uploaded, may take longer.
"""

from dataclasses import dataclass
from typing import Protocol

PAGE = 4096
HANG_S = 30.0
"""B13. Below the patience of clients: the kernel's NBD client gives up after 30 s unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Usage:
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Stat:
    name: str
    size_bytes: int


class Reader(Protocol):
    """An open file for reading.

    After the name was deleted it may still be read until close, without an error; but the bytes may be others by then.
    """

    def read_nowait(self, offset: int, into: memoryview) -> bool:
        """B7. Must not block; the caller loops over it."""

    async def read(self, offset: int, into: memoryview) -> None:
        """B6."""

    def will_need(self, offset: int, length: int) -> bool:
        """A hint that this range is read soon: may start to fetch it, never waits, never raises.

        False: so many hints are under way that this one was dropped.
        """

    def close(self) -> None: ...


class Backend(Protocol):
    @property
    def url(self) -> str:
        """How the user named it, in canonical form; without secrets."""

    async def create(self, name: str, size_bytes: int) -> None:
        """B1."""

    async def write(self, name: str, offset: int, data: memoryview, sync: bool = False) -> None:
        """B2, B3, B4."""

    async def sync(self, name: str) -> None:
        """B3, B4."""

    async def seal(self, name: str, size_bytes: int) -> None:
        """B5; the last operation on a file but for reads and delete."""

    async def open(self, name: str) -> Reader:
        """Missing if there is no such file."""

    async def put(self, name: str, data: bytes) -> None:
        """B8."""

    async def get(self, name: str, size_limit_bytes: int) -> bytes:
        """The whole file. Missing; Corrupt if it is larger than the limit."""

    async def delete(self, name: str) -> None:
        """B9."""

    async def list(self, prefix: str) -> list[Stat]:
        """B10."""

    async def settle(self, prefix: str) -> None:
        """B12."""

    def usage(self) -> Usage:
        """Room of the whole backend. Quick (may block for a system call)."""

    async def close(self) -> None:
        """Let go of descriptors and threads. Nothing is lost, nothing more is durable than before."""
