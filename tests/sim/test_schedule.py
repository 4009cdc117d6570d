"""One seed, one history."""

import hashlib
import time

import trio

from tests.backends.places import PAGE, pages
from tests.sim.disk import SimDisk
from tests.sim.schedule import run_seeded


def trace_of(seed: int) -> str:
    """Ten tasks on a simulated disk: the order of all their steps, as a hash."""
    disk = SimDisk(seed)
    digest = hashlib.sha256()
    disk.observer = lambda event, name: digest.update(f"{event} {name} {trio.current_time()}\n".encode())

    async def worker(number: int) -> None:
        name = f"segments/{number}"
        await disk.create(name, 4 * PAGE)
        for index in range(4):
            await trio.sleep(0.1 + number / 1000)
            await disk.write(name, index * PAGE, pages(1), sync=index == 3)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(worker, number)

    run_seeded(main, seed)
    return digest.hexdigest()


def order_of(seed: int) -> list[int]:
    """The order in which trio runs tasks that are all ready."""
    order: list[int] = []

    async def worker(number: int) -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            order.append(number)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(worker, number)

    run_seeded(main, seed)
    return order


def test_the_same_seed_gives_the_same_history_and_another_one_another() -> None:
    traces = [trace_of(seed) for seed in range(5)]
    assert traces == [trace_of(seed) for seed in range(5)]
    assert len(set(traces)) == 5


def test_the_scheduler_alone_follows_the_seed() -> None:
    orders = [order_of(seed) for seed in range(10)]
    assert orders == [order_of(seed) for seed in range(10)]
    assert len({tuple(order) for order in orders}) > 5


def test_time_is_free() -> None:
    begin = time.monotonic()

    async def main() -> None:
        await trio.sleep(3600)

    run_seeded(main, seed=0)
    assert time.monotonic() - begin < 5
