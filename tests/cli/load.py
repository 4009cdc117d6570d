"""Load on a served volume with a model of what it must hold, also after its server was killed.

  LO1  Requests of one batch touch different blocks and are in flight together, over one connection.
  LO2  What was answered must be there. What was not answered is there or not, block by block, but never torn.
  LO3  Everything comes from the seed, and the seed is in every failure.
"""

import random
from dataclasses import dataclass

from sds.nbd import wire
from tests.nbd.client import EXTENDED, SIMPLE, STRUCTURED, Client, Closed

BLOCK = 4096
READ_STEP = 1 << 20
_COMMANDS = (wire.WRITE, wire.TRIM, wire.WRITE_ZEROES, wire.FLUSH)
_WEIGHTS = (88, 5, 4, 3)


@dataclass(frozen=True, slots=True)
class Change:
    first: int
    blocks: list[bytes]


class Model:
    """Blocks as they must be; of those in doubt, all versions they may have."""

    def __init__(self, size_bytes: int, seed: int) -> None:
        self.count = size_bytes // BLOCK
        self.blocks = [bytes(BLOCK)] * self.count
        self.doubt: dict[int, set[bytes]] = {}
        self.rng = random.Random(seed)
        self.seed = seed
        self.answered = 0

    def batch(self, requests: int) -> list[tuple[int, Change]]:
        """LO1."""
        rng, taken = self.rng, set[int]()
        found: list[tuple[int, Change]] = []
        for _ in range(requests):
            command = rng.choices(_COMMANDS, _WEIGHTS)[0]
            length = rng.choice((1, 1, 1, 2, 3, 8, 33, 64)) if command != wire.FLUSH else 0
            first = rng.randrange(self.count - length + 1) if length else 0
            if taken.intersection(range(first, first + length)):
                continue
            taken.update(range(first, first + length))
            data = bytes(BLOCK) if command != wire.WRITE else self._block()
            found.append((command, Change(first, [data] * length)))
        return found

    def _block(self) -> bytes:
        rng = self.rng
        return rng.randbytes(BLOCK) if rng.random() < 0.5 else rng.randbytes(16) * (BLOCK // 16)

    def apply(self, change: Change) -> None:
        self.answered += 1
        for at, block in enumerate(change.blocks, change.first):
            self.blocks[at] = block

    def put_in_doubt(self, change: Change) -> None:
        for at, block in enumerate(change.blocks, change.first):
            self.doubt.setdefault(at, {self.blocks[at]}).add(block)

    def verify(self, client: Client, where: str) -> None:
        """LO2; afterwards nothing is in doubt."""
        for start in range(0, self.count, READ_STEP // BLOCK):
            reply = client.call(wire.READ, start * BLOCK, min(READ_STEP, (self.count - start) * BLOCK))
            assert not reply.error, f"{where} (seed {self.seed}): read at block {start}: {reply.message}"
            for at in range(len(reply.data) // BLOCK):
                self._check(start + at, reply.data[at * BLOCK : (at + 1) * BLOCK], where)
        self.doubt.clear()

    def _check(self, block: int, got: bytes, where: str) -> None:
        allowed = self.doubt.get(block, {self.blocks[block]})
        assert got in allowed, (
            f"{where} (seed {self.seed}): block {block} is {got[:8].hex()}, "
            f"expected {' or '.join(one[:8].hex() for one in allowed)}"
        )
        self.blocks[block] = got


def write_until_closed(model: Model, address: str, requests: int) -> None:
    """Batches until the server goes away."""
    client = Client(address, model.rng.choice((SIMPLE, STRUCTURED, EXTENDED)))
    try:
        while True:
            one_batch(model, client, requests)
    except (Closed, OSError):
        return
    finally:
        client.close()


def one_batch(model: Model, client: Client, requests: int) -> None:
    sent = {}
    for command, change in model.batch(requests):
        length = len(change.blocks) * BLOCK
        payload = b"".join(change.blocks) if command == wire.WRITE else b""
        sent[client.submit(command, change.first * BLOCK, length, payload=payload)] = change
    errors: list[str] = []
    try:
        errors = [reply.message or str(reply.error) for reply in client.wait_all().values() if reply.error]
    finally:
        for cookie, change in sent.items():
            if cookie in client.waiting:
                model.put_in_doubt(change)
            else:
                model.apply(change)
    assert not errors, f"seed {model.seed}: the server answered with errors: {errors[:3]}"
