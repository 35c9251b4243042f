"""Heaps over shared positions, compiled and plain, against one dict for each heap."""

from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from taskforge_server.ext import heap as compiled
from taskforge_server.ext.pure import heap as plain

HEAPS = 3
KEY_MAX = 2**64 - 1

keys = st.one_of(st.integers(0, 5), st.integers(0, KEY_MAX))
items = st.one_of(st.integers(0, 12), st.integers(0, 5_000))
heaps = st.integers(0, HEAPS - 1)


@pytest.fixture(scope="module", params=[compiled, plain], ids=["compiled", "plain"])
def heap(request: pytest.FixtureRequest) -> Any:
    return request.param


class TestHeap:
    def test_gives_the_least_key_first(self, heap: ModuleType) -> None:
        queue = heap.Heap(heap.Positions())
        for item, key in enumerate([5, KEY_MAX, 0, 7, 3]):
            queue.push(key, item)
        assert queue.peek() == (0, 2)
        assert len(queue) == queue.size == 5
        assert [queue.pop() for _ in range(6)] == [
            (0, 2),
            (3, 4),
            (5, 0),
            (7, 3),
            (KEY_MAX, 1),
            None,
        ]
        assert queue.peek() is None

    def test_equal_keys_leave_by_item(self, heap: ModuleType) -> None:
        queue = heap.Heap(heap.Positions())
        for item in (9, 3, 7, 1):
            queue.push(4, item)
        assert [queue.pop()[1] for _ in range(4)] == [1, 3, 7, 9]

    def test_an_item_is_in_one_heap_at_most(self, heap: ModuleType) -> None:
        positions = heap.Positions()
        one, other = heap.Heap(positions), heap.Heap(positions)
        one.push(1, 8)
        for queue in (one, other):
            with pytest.raises(ValueError, match="item 8 is in a heap already"):
                queue.push(2, 8)
        assert 8 in one
        assert 8 not in other
        assert not other.remove(8)
        assert one.remove(8)
        assert not positions.holds(8)
        other.push(2, 8)
        assert other.pop() == (2, 8)

    def test_what_is_out_of_range_changes_nothing(self, heap: ModuleType) -> None:
        positions = heap.Positions()
        queue = heap.Heap(positions)
        with pytest.raises(ValueError, match="is not below"):
            queue.push(0, heap.ITEMS_MAX)
        with pytest.raises(OverflowError):
            queue.push(KEY_MAX + 1, 0)
        assert not queue.remove(10**6)
        assert (queue.size, positions.capacity) == (0, 0)

    def test_memory_follows_the_size(self, heap: ModuleType) -> None:
        queue = heap.Heap(heap.Positions())
        for item in range(10_000):
            queue.push(item, item)
        assert queue.capacity == 16_384
        for item in range(10_000):
            assert queue.pop() == (item, item)
            assert queue.capacity <= max(64, 4 * queue.size + 4)
        queue.push(1, 1)
        queue.clear()
        assert (queue.size, queue.capacity) == (0, 0)
        assert not queue.positions.holds(1)

    @given(st.lists(st.tuples(keys, st.booleans()), max_size=300))
    def test_sorts_and_removes(self, heap: ModuleType, entries: list[tuple[int, bool]]) -> None:
        queue = heap.Heap(heap.Positions())
        for item, (key, _) in enumerate(entries):
            queue.push(key, item)
        for item, (_, removed) in enumerate(entries):
            assert not removed or queue.remove(item)
        kept = [(key, item) for item, (key, removed) in enumerate(entries) if not removed]
        assert [queue.pop() for _ in kept] == sorted(kept)
        assert len(queue) == 0

    def test_any_sequence_of_calls(self, heap: ModuleType) -> None:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            lambda: HeapMachine(heap),
            settings=settings(max_examples=50, stateful_step_count=100, deadline=None),
        )


class HeapMachine(RuleBasedStateMachine):
    """Some heaps over the same positions; the model of each is a dict from item to key."""

    def __init__(self, heap: ModuleType) -> None:
        super().__init__()
        self.positions = heap.Positions()
        self.heaps = [heap.Heap(self.positions) for _ in range(HEAPS)]
        self.models: list[dict[int, int]] = [{} for _ in range(HEAPS)]

    @rule(index=heaps, key=keys, item=items)
    def push(self, index: int, key: int, item: int) -> None:
        if any(item in model for model in self.models):
            with pytest.raises(ValueError, match="already"):
                self.heaps[index].push(key, item)
        else:
            self.heaps[index].push(key, item)
            self.models[index][item] = key

    @rule(index=heaps, key=keys, count=st.integers(1, 200))
    def push_many(self, index: int, key: int, count: int) -> None:
        for item in range(6_000, 6_000 + count):
            self.push(index, (key + item * 7_919) % (KEY_MAX + 1), item)

    @rule(index=heaps, count=st.integers(1, 100))
    def pop(self, index: int, count: int) -> None:
        model = self.models[index]
        for _ in range(count):
            least = min(((key, item) for item, key in model.items()), default=None)
            assert self.heaps[index].peek() == self.heaps[index].pop() == least
            if least is None:
                break
            del model[least[1]]

    @rule(index=heaps, item=items)
    def remove(self, index: int, item: int) -> None:
        assert self.heaps[index].remove(item) == (item in self.models[index])
        self.models[index].pop(item, None)

    @rule(index=heaps, nth=st.integers(0, 300))
    def remove_one_that_is_there(self, index: int, nth: int) -> None:
        if self.models[index]:
            self.remove(index, sorted(self.models[index])[nth % len(self.models[index])])

    @rule(index=heaps)
    def clear(self, index: int) -> None:
        self.heaps[index].clear()
        self.models[index].clear()

    @invariant()
    def agree(self) -> None:
        for heap, model in zip(self.heaps, self.models, strict=True):
            assert len(heap) == len(model)
            assert all(item in heap and self.positions.holds(item) for item in model)
