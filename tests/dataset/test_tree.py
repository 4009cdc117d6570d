"""The tree equals a dict, whatever the batches; what it shares it neither reads nor writes."""


from collections.abc import Awaitable, Callable
from itertools import count
from typing import TypeVar

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from sds.core.errors import Corrupt
from sds.core.keys import map_key, map_range
from sds.core.node import NODE_SIZE_TARGET, Node, decode_node, encode_node, stored_size
from sds.core.page import outside_value
from sds.dataset.tree import Batch, diff, get, merge, scan, walk

T = TypeVar("T")
Model = dict[bytes, bytes]


class Nodes:
    """A node store in memory that counts, and encodes for real."""

    def __init__(self) -> None:
        self.stored: dict[int, bytes] = {}
        self.addresses = count(1 << 24, 32)
        self.reads: list[int] = []
        self.writes = 0

    async def read_node(self, address: int) -> Node:
        self.reads.append(address)
        return decode_node(self.stored[address])

    async def write_node(self, node: Node) -> int:
        self.writes += 1
        address = next(self.addresses)
        self.stored[address] = encode_node(node)
        return address


def run(body: Callable[[], Awaitable[T]]) -> T:
    return trio.run(body)


async def dump(
    store: Nodes, root: int, lo: bytes = b"", hi: bytes | None = None
) -> list[tuple[bytes, bytes]]:
    return [item async for item in scan(store, root, lo, hi)]


async def nodes_of(store: Nodes, root: int) -> list[tuple[int, Node]]:
    return [item async for item in walk(store, root, set())]


def apply(model: Model, batch: Batch) -> Model:
    kept = {key: value for key, value in model.items() if not any(lo <= key < hi for lo, hi in batch.ranges)}
    for key, value in batch.items.items():
        if value is None:
            kept.pop(key, None)
        else:
            kept[key] = value
    return dict(sorted(kept.items()))


KEYS = st.integers(0, 400).map(lambda n: b"k%03d" % n) | st.binary(max_size=6)
VALUES = st.binary(max_size=12)
BATCHES = st.builds(
    Batch,
    st.dictionaries(KEYS, VALUES | st.none(), max_size=60),
    st.lists(st.tuples(KEYS, KEYS), max_size=3),
)
BIG = st.builds(
    lambda first, step, number, size: Batch({b"k%03d" % (first + i * step): bytes(size) for i in
    range(number)}), st.integers(0, 300), st.integers(1, 3), st.integers(0, 200), st.integers(0, 30),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(BATCHES | BIG, min_size=1, max_size=6), st.sampled_from([64, 128, 400]))
def test_a_tree_equals_a_dict_after_any_batches(batches: list[Batch], node_size: int) -> None:
    async def body() -> None:
        store, root, model = Nodes(), 0, Model()
        for batch in batches:
            root = await merge(store, root, batch, node_size=node_size)
            model = apply(model, batch)
            assert list(model.items()) == await dump(store, root)
            await check_shape(store, root, node_size)

    run(body)


async def check_shape(store: Nodes, root: int, node_size: int) -> None:
    """Keys of parents are first keys of children; nodes fit; the root is a leaf or has two children."""
    if not root:
        return
    top = await store.read_node(root)
    assert top.level == 0 or len(top.children) > 1
    for _, node in await nodes_of(store, root):
        assert stored_size(node.keys, None if node.level else node.values) == len(encode_node(node))
        assert len(encode_node(node)) <= node_size or len(node.keys) < 4
        for key, child in zip(node.keys, node.children, strict=False):
            assert (await store.read_node(child)).keys[0] == key


@settings(max_examples=200, deadline=None)
@given(st.lists(BIG, max_size=2), BATCHES | BIG, BATCHES | BIG, st.sampled_from([64, 200]), KEYS, KEYS)
def test_diff_equals_the_diff_of_dicts(
    base: list[Batch], left: Batch, right: Batch, node_size: int, lo: bytes, hi: bytes
) -> None:
    async def body() -> None:
        store, root, model = Nodes(), 0, Model()
        for batch in base:
            root, model = await merge(store, root, batch, node_size=node_size), apply(model, batch)
        a, b = apply(model, left), apply(model, right)
        root_a = await merge(store, root, left, node_size=node_size)
        root_b = await merge(store, root, right, node_size=node_size)
        expected = [(k, a.get(k), b.get(k)) for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]
        assert expected == [found async for found in diff(store, root_a, root_b)]
        within = [found for found in expected if lo <= found[0] < hi]
        assert within == [found async for found in diff(store, root_a, root_b, lo, hi)]
        assert [item for item in a.items() if lo <= item[0] < hi] == await dump(store, root_a, lo, hi)

    run(body)


def pages(first: int, last: int, mark: int = 1) -> Model:
    return {map_key(1, i): outside_value(mark << 40 | (i + 1) << 5, 1) for i in range(first, last)}


async def tree_of(store: Nodes, model: Model, node_size: int = NODE_SIZE_TARGET) -> int:
    return await merge(store, 0, Batch(dict(model)), node_size=node_size)


def test_a_batch_that_changes_nothing_writes_nothing_and_keeps_the_root() -> None:
    async def body() -> None:
        store, model = Nodes(), pages(0, 2000)
        root = await tree_of(store, model, 256)
        store.writes = 0
        same = dict(list(model.items())[::7])
        assert root == await merge(store, root, Batch(), node_size=256)
        assert root == await merge(store, root, Batch({**same, b"absent": None}), node_size=256)
        assert root == await merge(store, root, Batch({}, [(b"x", b"y")]), node_size=256)
        assert store.writes == 0

    run(body)


def test_a_range_delete_does_not_read_what_it_drops() -> None:
    async def body() -> None:
        store, count_all = Nodes(), 100_000
        root = await tree_of(store, pages(0, count_all))
        height = (await store.read_node(root)).level + 1
        for keep in ({}, pages(500, 502, mark=9)):
            store.reads.clear()
            store.writes = 0
            new = await merge(store, root, Batch(dict(keep), [map_range(1, 10, count_all - 10)]))
            assert [key for key, _ in await dump(store, new)] == sorted(
                pages(0, 10) | keep | pages(count_all - 10, count_all)
            )
            assert store.writes <= height
        store.reads.clear()
        await merge(store, root, Batch({}, [map_range(1, 10, count_all - 10)]))
        assert len(store.reads) <= 2 * height

    run(body)


def test_an_emptied_tree_is_root_0() -> None:
    async def body() -> None:
        store = Nodes()
        root = await tree_of(store, pages(0, 5000), 300)
        assert await merge(store, root, Batch({}, [(b"", b"\xff")]), node_size=300) == 0
        assert await merge(store, root, Batch(dict.fromkeys(pages(0, 5000))), node_size=300) == 0
        assert await merge(store, 0, Batch({b"k": None})) == 0

    run(body)


@pytest.mark.parametrize("keep_every", [7, 40, 333])
@pytest.mark.parametrize("by_range", [False, True])
def test_many_deletes_do_not_leave_small_nodes(keep_every: int, by_range: bool) -> None:
    async def body() -> None:
        store, number, size = Nodes(), 20_000, 512
        root = await tree_of(store, pages(0, number), size)
        if by_range:
            ranges = [map_range(1, i + 1, i + keep_every) for i in range(0, number, keep_every)]
            batch = Batch({}, ranges)
        else:
            batch = Batch({key: None for i, key in enumerate(pages(0, number)) if i % keep_every})
        root = await merge(store, root, batch, node_size=size)
        kept = list(pages(0, number))[::keep_every]
        assert kept == [key for key, _ in await dump(store, root)]
        sizes = [len(encode_node(node)) for _, node in await nodes_of(store, root)]
        assert sum(size_bytes < size // 4 for size_bytes in sizes) <= 3
        await check_shape(store, root, size)

    run(body)


def test_one_change_rewrites_one_path_and_shares_the_rest() -> None:
    async def body() -> None:
        store = Nodes()
        root = await tree_of(store, pages(0, 50_000))
        height = (await store.read_node(root)).level + 1
        before = {address for address, _ in await nodes_of(store, root)}
        store.writes = 0
        new = await merge(store, root, Batch(dict(pages(25_000, 25_001, mark=7))))
        assert store.writes == height
        seen = set(before)
        fresh = [address async for address, _ in walk(store, new, seen)]
        assert len(fresh) == height
        store.reads.clear()
        changed = [key async for key, _, _ in diff(store, root, new)]
        assert changed == [map_key(1, 25_000)]
        assert len(store.reads) <= 2 * height + 2

    run(body)


def test_diff_finds_shared_subtrees_of_trees_of_different_height() -> None:
    async def body() -> None:
        store = Nodes()
        root = await tree_of(store, pages(0, 400), 512)
        taller = await merge(store, root, Batch(dict(pages(400, 20_000))), node_size=512)
        assert (await store.read_node(taller)).level > (await store.read_node(root)).level
        store.reads.clear()
        added = [key async for key, a, _ in diff(store, root, taller, hi=map_key(1, 401)) if a is None]
        assert added == [map_key(1, 400)]
        assert len(set(store.reads)) < 25

    run(body)


def test_walk_sees_each_node_once_and_skips_what_was_seen() -> None:
    async def body() -> None:
        store = Nodes()
        root = await tree_of(store, pages(0, 3000), 300)
        written = set(store.stored)
        other = await merge(store, root, Batch(dict(pages(7, 9, mark=3))), node_size=300)
        seen: set[int] = set()
        first = [address async for address, _ in walk(store, root, seen)]
        assert sorted(first) == sorted(written)
        second = [address async for address, _ in walk(store, other, seen)]
        assert sorted(second) == sorted(set(store.stored) - written)
        assert seen == set(store.stored)
        assert [item async for item in walk(store, 0, seen)] == []

    run(body)


def test_get_finds_every_key_and_nothing_else() -> None:
    async def body() -> None:
        store, model = Nodes(), pages(10, 3000)
        root = await tree_of(store, model, 300)
        for i in (0, 9, 3000, 9999):
            assert await get(store, root, map_key(1, i)) is None
        for i in range(10, 3000, 13):
            assert await get(store, root, map_key(1, i)) == model[map_key(1, i)]
        assert await get(store, 0, b"k") is None

    run(body)


def test_a_tree_loaded_in_order_is_flat_and_full() -> None:
    async def body() -> None:
        store, root = Nodes(), 0
        for first in range(0, 200_000, 20_000):
            root = await merge(store, root, Batch(dict(pages(first, first + 20_000))))
        assert (await store.read_node(root)).level == 2
        leaves = sum(1 for _, node in await nodes_of(store, root) if node.level == 0)
        assert leaves <= 200_000 * 12 / (0.75 * NODE_SIZE_TARGET)
        assert [key for key, _ in await dump(store, root)] == list(pages(0, 200_000))

    run(body)


def test_a_child_of_the_wrong_level_is_corrupt_not_a_loop() -> None:
    async def body() -> None:
        store = Nodes()
        root = await tree_of(store, pages(0, 3000), 300)
        top = await store.read_node(root)
        looped = Node(top.level, top.keys, [], [root] * len(top.keys))
        store.stored[root] = encode_node(looped)
        with pytest.raises(Corrupt, match="level"):
            await dump(store, root)
        with pytest.raises(Corrupt, match="level"):
            await get(store, root, top.keys[0])
        with pytest.raises(Corrupt, match="level"):
            await merge(store, root, Batch({top.keys[1]: b"x"}), node_size=300)

    run(body)


def test_a_merge_that_fails_anywhere_leaves_the_old_tree_whole() -> None:
    class Failing(Nodes):
        left = 10**9

        async def write_node(self, node: Node) -> int:
            self.left -= 1
            if self.left < 0:
                raise OSError("no room")
            return await super().write_node(node)

    async def body() -> None:
        store, model = Failing(), pages(0, 1500)
        root = await tree_of(store, model, 300)
        batch = Batch({**pages(0, 1500, mark=5), **pages(2000, 2100)}, [map_range(1, 300, 900)])
        for writes in count(0, 9):
            store.left = writes
            try:
                await merge(store, root, batch, node_size=300)
            except OSError:
                assert await dump(store, root) == sorted(model.items())
            else:
                break
        assert writes > 50

    run(body)


async def subtrees(store: Nodes, root: int) -> Node:
    """The root of a tree of three levels at least."""
    top = await store.read_node(root)
    assert top.level >= 2
    assert len(top.keys) >= 4
    return top


def test_an_item_put_in_place_of_a_dropped_subtree_keeps_its_order_and_finds_a_neighbour() -> None:
    async def body() -> None:
        store, size = Nodes(), 512
        model = pages(0, 6000)
        root = await tree_of(store, model, size)
        top = await subtrees(store, root)
        for i in range(1, len(top.keys) - 1):
            lone = top.keys[i] + b"lone"
            batch = Batch({lone: b"x"}, [(top.keys[i], top.keys[i + 1])])
            new = await merge(store, root, batch, node_size=size)
            assert list(apply(model, batch).items()) == await dump(store, new)
            await check_no_small(store, new, size)

    run(body)


def test_what_is_left_at_the_end_of_the_tree_joins_its_left_neighbour() -> None:
    async def body() -> None:
        store, size = Nodes(), 512
        model = pages(0, 6000)
        root = await tree_of(store, model, size)
        top = await subtrees(store, root)
        for first in top.keys[1:]:
            new = await merge(store, root, Batch({}, [(first, map_key(1, 5999))]), node_size=size)
            kept = [key for key in model if key < first]
            assert [*kept, map_key(1, 5999)] == [key for key, _ in await dump(store, new)]
            await check_no_small(store, new, size)

    run(body)


async def check_no_small(store: Nodes, root: int, size: int) -> None:
    small = [node for address, node in await nodes_of(store, root) if len(store.stored[address]) < size // 4]
    assert [node for node in small if node.keys != (await store.read_node(root)).keys] == []
    await check_shape(store, root, size)
