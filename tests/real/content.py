"""What a volume must hold, block by block, while its server refuses, fails, and is killed.

  CT1  A refused write of at most WRITE_BLOCKS_MAX blocks changed nothing: it is one operation.
  CT2  Blocks are made from their number and a counter: no two are alike, and none is kept.
"""

import random
from collections.abc import Iterable

from sds.nbd import wire
from tests.nbd.client import Client, Reply

BLOCK = 4096
READ_BLOCKS = 256
WRITE_BLOCKS_MAX = 32


def block_of(number: int, version: int) -> bytes:
    """CT2. It does not compress."""
    return random.Random(number << 32 | version).randbytes(BLOCK)


class Content:
    """Block -> version; what is missing reads as zeros."""

    def __init__(self) -> None:
        self.versions: dict[int, int] = {}
        self.counter = 0

    def write(self, client: Client, first: int, count: int = 1) -> Reply:
        self.counter += 1
        data = b"".join(block_of(number, self.counter) for number in range(first, first + count))
        reply = client.call(wire.WRITE, first * BLOCK, payload=data)
        if not reply.error:
            self.versions |= dict.fromkeys(range(first, first + count), self.counter)
        return reply

    def fill(self, client: Client, first: int, stop: int) -> Reply | None:
        """Write upwards until refused; the refusal."""
        for at in range(first, stop, WRITE_BLOCKS_MAX):
            reply = self.write(client, at, min(WRITE_BLOCKS_MAX, stop - at))
            if reply.error:
                return reply
        return None

    def trim(self, client: Client, first: int, count: int) -> None:
        reply = client.call(wire.TRIM, first * BLOCK, count * BLOCK)
        assert not reply.error, f"a trim was refused: {reply.message}"
        for number in range(first, first + count):
            self.versions.pop(number, None)

    def verify(self, client: Client, where: str) -> None:
        """Everything that was ever written, and some of what was not."""
        for start in sorted({number // READ_BLOCKS * READ_BLOCKS for number in (*self.versions, 0)}):
            reply = client.call(wire.READ, start * BLOCK, READ_BLOCKS * BLOCK)
            assert not reply.error, f"{where}: read at block {start}: {reply.message}"
            self.check(reply.data, range(start, start + READ_BLOCKS), where)

    def check(self, data: bytes, numbers: Iterable[int], where: str) -> None:
        for at, number in enumerate(numbers):
            version = self.versions.get(number)
            wanted = bytes(BLOCK) if version is None else block_of(number, version)
            assert data[at * BLOCK : (at + 1) * BLOCK] == wanted, f"{where}: block {number} is wrong"
