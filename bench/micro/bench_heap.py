"""The heap: what a push and a pop cost, through its Python methods, compiled beside plain.

    python -m pytest bench/micro/bench_heap.py --benchmark-enable

Each round is CALLS pushes and as many pops against a standing backlog; divide by CALLS.
"""

import random
from itertools import count
from types import ModuleType
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from taskforge_server.ext import heap as compiled
from taskforge_server.ext.pure import heap as plain

CALLS = 1_000
BACKLOGS = [0, 10_000, 1_000_000]
PLAIN_BACKLOG_MAX = 10_000


@pytest.fixture(params=[compiled, plain], ids=["compiled", "plain"])
def heap(request: pytest.FixtureRequest) -> Any:
    return request.param


def filled(heap: ModuleType, backlog: int) -> Any:
    """A heap with this many items, whose keys are 0, 2, 4, …"""
    if heap is plain and backlog > PLAIN_BACKLOG_MAX:
        pytest.skip("the plain twin is a sorted list")
    queue = heap.Heap(heap.Positions())
    for item in range(backlog):
        queue.push(2 * item, item)
    return queue


@pytest.mark.parametrize("backlog", BACKLOGS)
def test_push_and_pop_in_order(benchmark: BenchmarkFixture, heap: ModuleType, backlog: int) -> None:
    """The usual life of a queue: what comes goes to the end, what leaves is the first."""
    queue = filled(heap, backlog)
    keys = count(2 * backlog)
    free = list(range(backlog, backlog + CALLS))

    def turn() -> None:
        push, pop = queue.push, queue.pop
        for item in free:
            push(next(keys), item)
        free[:] = [pop()[1] for _ in range(CALLS)]

    benchmark(turn)


@pytest.mark.parametrize("backlog", BACKLOGS)
def test_push_and_pop_anywhere(benchmark: BenchmarkFixture, heap: ModuleType, backlog: int) -> None:
    """Random keys, as of jobs that are due at some time."""
    queue = filled(heap, backlog)
    source = random.Random(1)
    keys = [source.randrange(2 * backlog + 1) for _ in range(CALLS)]
    free = list(range(backlog, backlog + CALLS))

    def turn() -> None:
        push, pop = queue.push, queue.pop
        for key, item in zip(keys, free, strict=True):
            push(key, item)
        free[:] = [pop()[1] for _ in range(CALLS)]

    benchmark(turn)


@pytest.mark.parametrize("backlog", BACKLOGS[1:])
def test_push_and_remove(benchmark: BenchmarkFixture, heap: ModuleType, backlog: int) -> None:
    """Jobs that are cancelled wherever they stand."""
    queue = filled(heap, backlog)
    items = random.Random(1).sample(range(backlog), CALLS)

    def turn() -> None:
        remove, push = queue.remove, queue.push
        for item in items:
            remove(item)
        for item in items:
            push(2 * item, item)

    benchmark(turn)
