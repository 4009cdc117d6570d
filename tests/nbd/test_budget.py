"""The budget of what is in flight."""

import trio
import trio.testing

from sds.nbd.budget import Budget


def test_count_and_bytes_are_bounded_but_a_giant_goes_alone() -> None:
    budget = Budget(count_max=2, bytes_max=100)
    assert budget.take_nowait(60)
    assert not budget.take_nowait(60)
    assert budget.take_nowait(40)
    assert not budget.take_nowait(0)
    budget.give(60)
    budget.give(40)
    assert budget.take_nowait(1000)
    assert not budget.take_nowait(1)


def test_nobody_overtakes_a_waiter_and_a_cancelled_one_leaves_nothing() -> None:
    async def main() -> None:
        budget = Budget(count_max=10, bytes_max=100)
        assert budget.take_nowait(90)
        order: list[str] = []

        async def take(name: str, size_bytes: int, scope: trio.CancelScope) -> None:
            with scope:
                await budget.take(size_bytes)
                order.append(name)

        scopes = [trio.CancelScope() for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for number, size_bytes in enumerate((50, 100, 20)):
                nursery.start_soon(take, str(number), size_bytes, scopes[number])
                await trio.testing.wait_all_tasks_blocked()
            assert budget.contended
            assert not budget.take_nowait(1), "a small one overtook the waiters"
            scopes[1].cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert order == []
            budget.give(90)
        assert sorted(order) == ["0", "2"]
        assert (budget.count, budget.bytes) == (2, 70)

    trio.run(main)


def test_a_waiter_that_is_cancelled_after_its_grant_gives_it_back() -> None:
    async def main() -> None:
        budget = Budget(count_max=1, bytes_max=1)
        assert budget.take_nowait(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(budget.take, 1)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            budget.give(1)
        if budget.count:  # the grant came first: the task took it and ended
            budget.give(1)
        assert (budget.count, budget.bytes) == (0, 0)

    trio.run(main)
