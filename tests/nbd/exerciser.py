"""A model-checked random exerciser for any NBD server of ours.

  E1  Several connections speak different dialects to one export. Each round picks ranges that do not overlap,
      at any byte alignment, often touching each other, and has all of them in flight at once on random
      connections.
  E2  The model is a bytearray. After each round it must agree with every read; at the end with the whole
      export.
  E3  Everything comes from the seed, and the seed is in every failure.
  E4  TRIM is expected to unmap whole 4 KiB blocks (they read as zeros) and to leave the rest alone.

`exercise` assumes that nobody else writes; it reads the present content first, so it runs on any export.
"""

import random
from time import monotonic

from sds.nbd import wire
from tests.nbd.client import EXTENDED, SIMPLE, STRUCTURED, Client

BLOCK = 4096
READ_STEP = 1 << 20
_COMMANDS = (wire.READ, wire.WRITE, wire.TRIM, wire.WRITE_ZEROES, wire.CACHE, wire.BLOCK_STATUS, wire.FLUSH)
_WEIGHTS = (30, 40, 8, 8, 2, 4, 3)


class Mismatch(AssertionError):
    """The export does not hold what was written."""


def read_all(client: Client) -> bytearray:
    data = bytearray()
    while len(data) < client.size_bytes:
        reply = client.call(wire.READ, len(data), min(READ_STEP, client.size_bytes - len(data)))
        assert not reply.error, reply
        data += reply.data
    return data


def exercise(
    address: str,
    *,
    seed: int,
    rounds: int | None = None,
    duration_s: float | None = None,
    connections: int = 4,
    length_max: int = 200_000,
) -> bytearray:
    """Run `rounds` rounds or `duration_s` seconds on a socket path or HOST:PORT. The final content."""
    rng = random.Random(seed)
    modes = [(SIMPLE, STRUCTURED, EXTENDED)[number % 3] for number in range(connections)]
    clients = [
        Client(address, mode, () if mode == SIMPLE else (wire.ALLOCATION_CONTEXT,)) for mode in modes
    ]
    try:
        run = _Run(rng, clients, read_all(clients[0]), length_max)
        end = monotonic() + duration_s if duration_s is not None else None
        number = 0
        while (rounds is None or number < rounds) and (end is None or monotonic() < end):
            run.round(f"seed {seed} round {number}")
            number += 1
        _compare(f"seed {seed} at the end", 0, read_all(clients[-1]), run.model)
        return run.model
    finally:
        for client in clients:
            client.close()


def _compare(where: str, offset: int, got: bytes | bytearray, expected: bytes | bytearray) -> None:
    if got != expected:
        at = next((i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b), -1)
        first = f"first difference at {offset + at}"
        raise Mismatch(f"{where}: {len(got)}/{len(expected)} bytes at {offset}, {first}")


class _Run:
    def __init__(self, rng: random.Random, clients: list[Client], model: bytearray, length_max: int) -> None:
        self.rng = rng
        self.clients = clients
        self.model = model
        self.length_max = length_max

    def _ranges(self) -> list[tuple[int, int]]:
        """Disjoint ranges (offset, length), about half of them neighbours without a gap."""
        rng, size = self.rng, len(self.model)
        at = rng.randrange(size)
        ranges = []
        for _ in range(rng.randint(1, 40)):
            if rng.random() < 0.5:
                at += rng.randrange(1, 3 * BLOCK)
            if rng.random() < 0.3:
                at = -(-at // BLOCK) * BLOCK
            length = rng.choice((1, 511, 512, BLOCK, 2 * BLOCK, rng.randint(1, self.length_max)))
            if at + length > size:
                break
            ranges.append((at, length))
            at += length
        rng.shuffle(ranges)
        return ranges

    def round(self, where: str) -> None:
        rng = self.rng
        sent: list[tuple[Client, int, int, int, int]] = []
        for offset, length in self._ranges():
            client = rng.choice(self.clients)
            command = rng.choices(_COMMANDS, _WEIGHTS)[0]
            if command == wire.BLOCK_STATUS and not client.contexts:
                command = wire.READ
            sent.append((client, self._submit(client, command, offset, length), command, offset, length))
        replies = {id(client): client.wait_all() for client in self.clients}
        for client, cookie, command, offset, length in sent:
            reply = replies[id(client)][cookie]
            told = f"{where}: {wire.COMMAND_NAMES[command]} {length}@{offset} ({client.mode})"
            if reply.error:
                raise Mismatch(f"{told}: error {reply.error} {reply.message}")
            if command == wire.READ:
                _compare(told, offset, reply.data, self.model[offset : offset + length])
            if command == wire.BLOCK_STATUS:
                self._check_status(told, offset, length, reply.status[wire.ALLOCATION_ID])

    def _submit(self, client: Client, command: int, offset: int, length: int) -> int:
        rng, model = self.rng, self.model
        fua = wire.CMD_FUA if rng.random() < 0.05 else 0
        if command == wire.FLUSH:
            return client.submit(command)
        if command == wire.WRITE:
            data = rng.randbytes(length) if rng.random() < 0.7 else bytes([rng.randrange(256)]) * length
            model[offset : offset + length] = data
            return client.submit(command, offset, flags=fua, payload=data)
        if command == wire.WRITE_ZEROES:
            model[offset : offset + length] = bytes(length)
            return client.submit(command, offset, length, flags=fua | rng.choice((0, wire.CMD_NO_HOLE)))
        if command == wire.TRIM:
            first, stop = -(-offset // BLOCK) * BLOCK, (offset + length) // BLOCK * BLOCK
            if first < stop:
                model[first:stop] = bytes(stop - first)
            return client.submit(command, offset, length, flags=fua)
        return client.submit(command, offset, length)

    def _check_status(self, told: str, offset: int, length: int, extents: list[tuple[int, int]]) -> None:
        """What is told to read as zeros does; neighbours in flight do not touch the range itself."""
        if not extents or sum(size for size, _ in extents) > length:
            raise Mismatch(f"{told}: extents {extents[:4]} do not fit")
        at = offset
        for size, flags in extents:
            if flags & 2:
                _compare(f"{told}: told to be zeros", at, self.model[at : at + size], bytes(size))
            at += size
