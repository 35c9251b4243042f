"""The channel: what an item costs on its way, compiled beside plain and asyncio.Queue.

    python -m pytest bench/micro/bench_channel.py --benchmark-enable

Each round moves ITEMS items on a uvloop loop; divide by ITEMS.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from types import ModuleType
from typing import Any

import pytest
import uvloop
from pytest_benchmark.fixture import BenchmarkFixture

from taskforge_server.ext import channel as compiled
from taskforge_server.ext.pure import channel as plain

ITEMS = 10_000
CAPACITY = 1_000


@pytest.fixture(params=[compiled, plain], ids=["compiled", "plain"])
def channel(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as opened:
        yield opened


def measure(
    benchmark: BenchmarkFixture,
    runner: asyncio.Runner,
    round_: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    benchmark(lambda: runner.run(round_()))


def test_send_in_bursts_and_receive_all(
    benchmark: BenchmarkFixture, runner: asyncio.Runner, channel: ModuleType
) -> None:
    """An actor that drains its mailbox: one wake-up for each burst."""

    async def round_() -> None:
        pipe = channel.Channel(CAPACITY)
        try_send = pipe.try_send
        for _ in range(ITEMS // CAPACITY):
            for item in range(CAPACITY):
                try_send(item)
            await pipe.recv_many(CAPACITY)

    measure(benchmark, runner, round_)


def test_two_tasks_take_turns(
    benchmark: BenchmarkFixture, runner: asyncio.Runner, channel: ModuleType
) -> None:
    """A producer that waits for room and a consumer that waits for items."""

    async def round_() -> None:
        pipe = channel.Channel(CAPACITY)

        async def produce() -> None:
            for item in range(ITEMS):
                await pipe.send(item)
            pipe.close()

        task = asyncio.get_running_loop().create_task(produce())
        try:
            while True:
                await pipe.recv_many(CAPACITY)
        except channel.ChannelClosed:
            await task

    measure(benchmark, runner, round_)


def test_receive_a_few_of_a_backlog(
    benchmark: BenchmarkFixture, runner: asyncio.Runner, channel: ModuleType
) -> None:
    """A consumer that takes ten at a time."""

    async def round_() -> None:
        pipe = channel.Channel(ITEMS)
        for item in range(ITEMS):
            pipe.try_send(item)
        for _ in range(ITEMS // 10):
            await pipe.recv_many(10)

    measure(benchmark, runner, round_)


def test_asyncio_queue(benchmark: BenchmarkFixture, runner: asyncio.Runner) -> None:
    """The same as `two_tasks_take_turns` through asyncio.Queue."""

    async def round_() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue(CAPACITY)

        async def produce() -> None:
            for item in range(ITEMS):
                await queue.put(item)

        task = asyncio.get_running_loop().create_task(produce())
        for _ in range(ITEMS):
            await queue.get()
        await task

    measure(benchmark, runner, round_)
