"""Reading frames by address: from the stage, from the page cache at once, or from the backends with waiting.

  R1  Whatever comes from a backend is verified (checksum over content and address) before it is handed out.
      What is in the stage has never left memory and is not verified again.
  R2  *_nowait never waits: None means "would wait, or is damaged"; the method without the suffix tells which.
  R3  Copies are tried in turn: an error or a bad checksum of one is an error only if no other copy can answer.
  R4  Bounded: open files, known checksum tables and decoded frames are caches with a limit.

How a frame is read is written once, as a generator that yields the ranges it needs (`_blocks`, `_payload`) and does
not care whether they are got with or without waiting.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Mapping
from typing import Final, TypeVar

from xxhash import xxh3_64_intdigest

from backends.base import Reader
from sds.core.address import BLOCK_SIZE, BLOCKS_PER_FRAME, FRAME_MASK, offset_of, segment_of
from sds.core.errors import BackendError, Corrupt, Missing
from sds.core.frame import (
    BLOCKS,
    DATA,
    HEADER_SIZE,
    RAW,
    Buffer,
    FrameHeader,
    blocks_are_valid,
    decode_header,
    header_is_valid,
    pool_key,
)
from sds.core.names import segment_name
from sds.log.codec import decompress
from sds.log.env import Env
from sds.pool.pool import Pool
from sds.pool.rows import SegmentRow

T = TypeVar("T")
Ranges = Generator[tuple[int, int], memoryview, T]
"""Yields (offset, length) within a segment, is sent the bytes (or Corrupt if they are not there), returns what it
was after."""
Plan = Callable[[], Ranges[T]]

FRAME_SIZE: Final = HEADER_SIZE + BLOCK_SIZE
FILES_MAX: Final = 512
TABLES_MAX: Final = 1 << 15
DECODED_MAX: Final = 256
_LONE_BLOCK: Final = bytes((DATA, RAW))


class FrameReader:
    """`staged`: the log's map of segments in memory (sds.log.log.Log.staged), or empty for a read-only opening."""

    def __init__(self, pool: Pool, env: Env, staged: Mapping[int, memoryview]) -> None:
        self._pool = pool
        self._env = env
        self._key = pool_key(pool.uuid)
        self._staged = staged
        self._files: OrderedDict[int, Reader] = OrderedDict()
        self._users: Counter[Reader] = Counter()
        self._retired: set[Reader] = set()
        self._tables: dict[int, tuple[int, memoryview]] = {}
        self._decoded: OrderedDict[int, Buffer] = OrderedDict()

    # -- data blocks -----------------------------------------------------------------------------------------------

    def block_nowait(self, address: int) -> Buffer | None:
        """One block, the shortest way there is: plain blocks without a generator, the rest as blocks_nowait."""
        segment = address >> 24
        offset = (address >> 5 & 0x7FFFF) << 6
        view = self._staged.get(segment)
        if view is not None:
            codec = view[offset + 13]
            if codec == RAW:
                return view[offset + HEADER_SIZE : offset + FRAME_SIZE]
            if codec == BLOCKS:
                start = offset + HEADER_SIZE + 8 * view[offset + 15] + ((address & 31) << 12)
                return view[start : start + BLOCK_SIZE]
            return self._blocks_in_memory(view, address, 1)
        file = self._files.get(segment)
        if file is None:
            return None
        known = self._tables.get(address & FRAME_MASK)
        if known is not None:
            block = address & 31
            data = memoryview(bytearray(BLOCK_SIZE))
            if not file.read_nowait(known[0] + (block << 12), data):
                return None
            return data if xxh3_64_intdigest(data, address ^ self._key) == known[1][block] else None
        if address & 31:
            return self.blocks_nowait(address, 1)
        frame = bytearray(FRAME_SIZE)
        data = memoryview(frame)
        if not file.read_nowait(offset, data):
            return None
        if frame[12:14] != _LONE_BLOCK or frame[15] != 1:
            return self.blocks_nowait(address, 1)
        if xxh3_64_intdigest(data[8:], address ^ self._key) != int.from_bytes(frame[:8], "little"):
            return None
        return data[HEADER_SIZE:]

    def blocks_nowait(self, address: int, count: int) -> Buffer | None:
        """`count` consecutive blocks of one frame."""
        view = self._staged.get(segment_of(address))
        if view is not None:
            return self._blocks_in_memory(view, address, count)
        file = self._files.get(segment_of(address))
        if file is None:
            return None
        try:
            return _drive_nowait(self._blocks(address, count), file)
        except Corrupt:
            return None

    async def blocks(self, address: int, count: int) -> Buffer:
        """As blocks_nowait, waiting. Corrupt, BackendError; Missing: the segment is gone (look up the map again).

        The bytes are the caller's own: a slot of the stage may get another tenant while he waits for others.
        """
        view = self._staged.get(segment_of(address))
        if view is not None:
            return bytes(self._blocks_in_memory(view, address, count))
        return await self._read(segment_of(address), lambda: self._blocks(address, count))

    def _blocks_in_memory(self, view: memoryview, address: int, count: int) -> Buffer:
        offset = offset_of(address)
        header = decode_header(view, offset)
        assert header is not None, "the map leads to no frame in the stage"
        assert header.kind == DATA
        start = (address & 31) * BLOCK_SIZE
        payload = offset + HEADER_SIZE
        if header.codec in (RAW, BLOCKS):
            start += payload + header.stored_bytes - header.raw_bytes
            return view[start : start + count * BLOCK_SIZE]
        plain = self._decode(address & FRAME_MASK, header, view[payload : payload + header.stored_bytes])
        return memoryview(plain)[start : start + count * BLOCK_SIZE]

    def _blocks(self, address: int, count: int) -> Ranges[Buffer]:
        frame, first = address & FRAME_MASK, address & 31
        start, size = first * BLOCK_SIZE, count * BLOCK_SIZE
        known = self._tables.get(frame)
        if known is not None:
            data_at, table = known
            data = yield data_at + start, size
            return self._verified_blocks(address, table[first : first + count], data)
        decoded = self._decoded.get(frame)
        if decoded is not None:
            return memoryview(decoded)[start : start + size]
        # The size of the frame is not known yet: ask for what is enough if its blocks are plain. For a block deep
        # inside, one read of more costs less than a small one for the table and, when that is there, one for the block.
        offset = offset_of(frame)
        guess = HEADER_SIZE + (8 * BLOCKS_PER_FRAME + start if first or count > 1 else 0) + size
        try:
            data = yield offset, guess
        except Corrupt:  # the segment ends there
            data = yield offset, HEADER_SIZE
        header = self._header(data, frame, DATA)
        if first + count > header.blocks:
            raise Corrupt(f"{_where(frame)} has {header.blocks} blocks, the map wants {first}+{count}")
        covered = HEADER_SIZE + header.covered_bytes
        if covered > len(data):
            data = yield offset, covered
        if not header_is_valid(data, 0, header, frame ^ self._key):
            raise Corrupt(f"{_where(frame)} fails its checksum")
        if header.codec != BLOCKS:
            plain = self._decode(frame, header, data[HEADER_SIZE:covered])
            return memoryview(plain)[start : start + size]
        table = memoryview(bytes(data[HEADER_SIZE:covered])).cast("Q")
        if len(self._tables) >= TABLES_MAX:
            self._tables.clear()
        self._tables[frame] = offset + covered, table
        blocks = data[covered + start : covered + start + size]
        if len(blocks) < size:
            blocks = yield offset + covered + start, size
        return self._verified_blocks(address, table[first : first + count], blocks)

    def _verified_blocks(self, address: int, table: memoryview, data: memoryview) -> memoryview:
        if not blocks_are_valid(table, data, address, self._key):
            raise Corrupt(f"{_where(address)} fails its checksum")
        return data

    def _decode(self, frame: int, header: FrameHeader, payload: memoryview) -> Buffer:
        plain = self._decoded.get(frame)
        if plain is None:
            plain = decompress(header.codec, payload, header.raw_bytes, _where(frame))
            if len(self._decoded) >= DECODED_MAX:
                self._decoded.popitem(last=False)
            self._decoded[frame] = plain
        return plain

    # -- metadata frames ---------------------------------------------------------------------------------------------

    async def payload(self, address: int, kind: int) -> Buffer:
        """The decoded payload of a NODE, MAP or CHECKPOINT frame."""
        segment = segment_of(address)
        view = self._staged.get(segment)
        if view is None:
            return await self._read(segment, lambda: self._payload(address, kind))
        offset = offset_of(address)
        header = decode_header(view, offset)
        assert header is not None, "the tree leads to no frame in the stage"
        assert header.kind == kind
        start = offset + HEADER_SIZE
        stored = bytes(view[start : start + header.stored_bytes])
        return decompress(header.codec, stored, header.raw_bytes, _where(address))

    def _payload(self, address: int, kind: int) -> Ranges[Buffer]:
        offset = offset_of(address)
        head = yield offset, HEADER_SIZE
        header = self._header(head, address, kind)
        frame = yield offset, HEADER_SIZE + header.stored_bytes
        if not header_is_valid(frame, 0, header, address ^ self._key):
            raise Corrupt(f"{_where(address)} fails its checksum")
        return decompress(header.codec, frame[HEADER_SIZE:], header.raw_bytes, _where(address))

    def _header(self, head: memoryview, address: int, kind: int) -> FrameHeader:
        header = decode_header(head)
        if header is None or header.kind != kind:
            raise Corrupt(f"{_where(address)} is not the frame that should be there")
        return header

    # -- files -------------------------------------------------------------------------------------------------------

    def prefetch(self, segment: int, offset: int, length: int) -> bool:
        """Hint; False if nothing was done: the segment's file is not open, or there are too many hints under way."""
        file = self._files.get(segment)
        return file is not None and file.will_need(offset, length)

    async def _read(self, segment: int, plan: Plan[T]) -> T:
        """R3: carry out a plan on the first copy that can."""
        error: Exception | None = None
        file = self._files.get(segment)
        tried: set[Reader] = set()
        if file is not None:
            try:
                return await self._drive(plan(), file)
            except (Corrupt, BackendError) as first:
                error = first
                tried.add(file)
        row = await self._env.run_blocking(self._pool.catalog.segment, segment)
        for copy in row.copies:
            try:
                file = await self._open_copy(row, copy, tried)
                tried.add(file)
                return await self._drive(plan(), file)
            except (Corrupt, BackendError, Missing) as problem:
                error = problem
        if isinstance(error, Missing):
            raise Corrupt(f"segment {segment:#x} is lost: {error}")
        raise error or Corrupt(f"segment {segment:#x} has no copy: restore it from a backup")

    async def _drive(self, plan: Ranges[T], file: Reader) -> T:
        """Carry out a plan; the file stays open meanwhile."""
        self._users[file] += 1
        try:
            offset, length = next(plan)
            while True:
                data = memoryview(bytearray(length))
                if not file.read_nowait(offset, data):
                    try:
                        await file.read(offset, data)
                    except Corrupt as too_short:
                        offset, length = plan.throw(too_short)
                        continue
                offset, length = plan.send(data)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            self._users[file] -= 1
            if not self._users[file]:
                del self._users[file]
                if file in self._retired:
                    self._retired.remove(file)
                    file.close()

    async def _open_copy(self, row: SegmentRow, copy: int, tried: set[Reader]) -> Reader:
        """The file of this copy; or another one that a task has opened meanwhile and that we have not tried."""
        backend = self._pool.backends.get(copy)
        if backend is None:
            raise BackendError(f"backend {copy}, which holds segment {row.id:#x}, is not there")
        known = self._files.get(row.id)
        if known is not None and known not in tried:
            return known
        file = await backend.open(segment_name(row.dataset, row.id, row.epoch))
        if len(self._files) >= FILES_MAX:
            self._retire(next(iter(self._files)))
        self._retire(row.id)
        self._files[row.id] = file
        return file

    def _retire(self, segment: int) -> None:
        """Close a file as soon as nobody reads it."""
        file = self._files.pop(segment, None)
        if file is not None and self._users[file]:
            self._retired.add(file)
        elif file is not None:
            del self._users[file]
            file.close()

    def forget(self, segments: set[int]) -> None:
        """These segments are gone (swept)."""
        for segment in segments & self._files.keys():
            self._retire(segment)

    def close(self) -> None:
        for segment in list(self._files):
            self._retire(segment)


def _drive_nowait(plan: Ranges[T], file: Reader) -> T | None:
    try:
        offset, length = next(plan)
        while True:
            data = memoryview(bytearray(length))
            if not file.read_nowait(offset, data):
                return None
            offset, length = plan.send(data)
    except StopIteration as done:
        result: T = done.value
        return result


def _where(address: int) -> str:
    return f"segment {segment_of(address):#x} at {offset_of(address)}"
