"""The channel, compiled and plain, on real loops: order, bounds, closing and cancellation."""

import asyncio
from collections.abc import Callable, Coroutine
from types import ModuleType
from typing import Any
from weakref import WeakSet

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from taskforge_server.ext import channel as compiled
from taskforge_server.ext.pure import channel as plain

LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [
    asyncio.new_event_loop,
    uvloop.new_event_loop,
]


@pytest.fixture(scope="module", params=[compiled, plain], ids=["compiled", "plain"])
def channel(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module", params=LOOPS, ids=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> Any:
    return request.param


def started(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coroutine)


async def turns(count: int = 3) -> None:
    """Let every task that can run do so."""
    for _ in range(count):
        await asyncio.sleep(0)


class TestChannel:
    async def test_is_bounded_and_keeps_the_order(self, channel: ModuleType) -> None:
        pipe = channel.Channel(3)
        assert [pipe.try_send(item) for item in "abcd"] == [True, True, True, False]
        assert await pipe.recv_many(2) == ["a", "b"]
        assert pipe.try_send("e")
        assert pipe.recv_nowait(9) == ["c", "e"]
        assert pipe.recv_nowait(9) == []
        assert len(pipe) == 0

    async def test_receiving_waits_for_the_first_item(self, channel: ModuleType) -> None:
        pipe = channel.Channel(4)
        receiving = started(pipe.recv_many(10))
        await turns()
        assert not receiving.done()
        assert pipe.try_send(1)
        assert pipe.try_send(2)
        assert await receiving == [1, 2]

    async def test_sending_waits_in_line(self, channel: ModuleType) -> None:
        pipe = channel.Channel(2)
        sending = [started(pipe.send(item)) for item in range(6)]
        await turns()
        assert [task.done() for task in sending] == [True, True, False, False, False, False]
        received = []
        while len(received) < 6:
            assert len(pipe) <= 2
            received += await pipe.recv_many(1)
        assert received == [0, 1, 2, 3, 4, 5]
        await asyncio.gather(*sending)

    async def test_room_is_kept_for_those_who_wait(self, channel: ModuleType) -> None:
        pipe = channel.Channel(1)
        assert pipe.try_send("first")
        waiting = started(pipe.send("waiting"))
        await turns()
        assert pipe.recv_nowait(1) == ["first"]
        assert not pipe.try_send("late")
        await waiting
        assert pipe.recv_nowait(1) == ["waiting"]

    async def test_a_cancelled_send_leaves_the_line(self, channel: ModuleType) -> None:
        pipe = channel.Channel(1)
        assert pipe.try_send(0)
        sending = [started(pipe.send(item)) for item in (1, 2, 3)]
        await turns()
        sending[0].cancel()
        await turns()
        assert await pipe.recv_many(1) == [0]
        assert await pipe.recv_many(1) == [2]
        assert await pipe.recv_many(1) == [3]
        assert [task.cancelled() for task in sending] == [True, False, False]

    async def test_granted_room_passes_on_when_cancelled(self, channel: ModuleType) -> None:
        pipe = channel.Channel(1)
        assert pipe.try_send(0)
        one, two = started(pipe.send(1)), started(pipe.send(2))
        await turns()
        assert pipe.recv_nowait(1) == [0]
        one.cancel()  # the room is its own, but it has not resumed
        assert await pipe.recv_many(1) == [2]
        assert one.cancelled()
        await two

    async def test_a_cancelled_receive_takes_nothing(self, channel: ModuleType) -> None:
        pipe = channel.Channel(1)
        receiving = started(pipe.recv_many(1))
        await turns()
        assert pipe.try_send("kept")
        receiving.cancel()  # woken, but it has not resumed
        with pytest.raises(asyncio.CancelledError):
            await receiving
        assert await pipe.recv_many(1) == ["kept"]

    async def test_a_send_cancelled_just_before_is_passed_over(self, channel: ModuleType) -> None:
        pipe = channel.Channel(1)
        assert pipe.try_send(0)
        one, two = started(pipe.send(1)), started(pipe.send(2))
        await turns()
        one.cancel()  # it has not resumed to leave the line
        assert pipe.recv_nowait(1) == [0]
        assert await pipe.recv_many(1) == [2]
        assert one.cancelled()
        await two

    async def test_a_new_receiver_may_follow_a_cancelled_one(self, channel: ModuleType) -> None:
        pipe = channel.Channel(1)
        receiving = started(pipe.recv_many(1))
        await turns()
        receiving.cancel()  # it resumes only after the next one waits
        asyncio.get_running_loop().call_soon(lambda: started(pipe.send("item")))
        assert await pipe.recv_many(1) == ["item"]
        assert receiving.cancelled()

    async def test_a_timed_out_receive_can_be_tried_again(self, channel: ModuleType) -> None:
        pipe = channel.Channel(1)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pipe.recv_many(1), 0)
        assert pipe.try_send(1)
        assert await pipe.recv_many(1) == [1]

    async def test_closing_wakes_the_senders(self, channel: ModuleType) -> None:
        pipe = channel.Channel(1)
        assert pipe.try_send("there")
        sending = [started(pipe.send(item)) for item in range(3)]
        await turns()
        pipe.close()
        pipe.close()
        assert pipe.closed
        results = await asyncio.gather(*sending, return_exceptions=True)
        assert [type(result) for result in results] == [channel.ChannelClosed] * 3
        with pytest.raises(channel.ChannelClosed):
            pipe.try_send(1)
        with pytest.raises(channel.ChannelClosed):
            await pipe.send(1)
        assert await pipe.recv_many(5) == ["there"]
        with pytest.raises(channel.ChannelClosed):
            await pipe.recv_many(5)
        with pytest.raises(channel.ChannelClosed):
            pipe.recv_nowait(5)

    async def test_closing_refuses_senders_with_granted_room(self, channel: ModuleType) -> None:
        pipe = channel.Channel(1)
        assert pipe.try_send(0)
        sending = started(pipe.send(1))
        await turns()
        assert pipe.recv_nowait(1) == [0]
        pipe.close()
        with pytest.raises(channel.ChannelClosed):
            await sending
        with pytest.raises(channel.ChannelClosed):
            pipe.recv_nowait(1)

    async def test_closing_wakes_the_receiver(self, channel: ModuleType) -> None:
        pipe = channel.Channel(1)
        receiving = started(pipe.recv_many(1))
        await turns()
        pipe.close()
        with pytest.raises(channel.ChannelClosed):
            await receiving

    async def test_has_one_consumer(self, channel: ModuleType) -> None:
        pipe = channel.Channel(1)
        receiving = started(pipe.recv_many(1))
        await turns()
        with pytest.raises(RuntimeError, match="another task is receiving"):
            await pipe.recv_many(1)
        pipe.close()
        await asyncio.wait([receiving])
        assert isinstance(receiving.exception(), channel.ChannelClosed)

    async def test_counts(self, channel: ModuleType) -> None:
        pipe = channel.Channel(2)
        receiving = started(pipe.recv_many(1))
        await turns()
        sending = [started(pipe.send(item)) for item in range(4)]
        await asyncio.gather(receiving, *sending[:3])
        assert pipe.statistics()._asdict() == {
            "length": 2,
            "capacity": 2,
            "high_watermark": 2,
            "sent": 3,
            "received": 1,
            "send_waits": 2,
            "recv_waits": 1,
        }
        pipe.recv_nowait(2)
        await sending[3]

    async def test_refuses_to_hold_or_take_nothing(self, channel: ModuleType) -> None:
        with pytest.raises(ValueError, match="at least one item"):
            channel.Channel(0)
        with pytest.raises(ValueError, match="at least one item"):
            channel.Channel(1).recv_nowait(0)

    async def test_lets_go_of_what_was_taken(self, channel: ModuleType) -> None:
        pipe = channel.Channel(1_000)
        alive: WeakSet[Item] = WeakSet()
        for count in (1_000, 700, 700):
            for _ in range(count):
                item = Item()
                alive.add(item)
                assert pipe.try_send(item)
            del item
            for _ in range(100):
                assert len(pipe.recv_nowait(7)) == 7
                assert len(alive) == len(pipe)
        assert len(pipe.recv_nowait(1_000)) == 300
        assert not alive

    @given(st.data())
    @settings(max_examples=100, deadline=None)
    def test_nothing_is_lost_or_doubled(
        self,
        channel: ModuleType,
        loop_factory: Callable[[], asyncio.AbstractEventLoop],
        data: st.DataObject,
    ) -> None:
        program = data.draw(programs)
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            run = runner.run(run_program(channel, *program))
        run.check()


class Item:
    """Something that a weak reference can watch."""


# One step each; the number picks a task or says how many.
steps = st.tuples(
    st.sampled_from(
        ["send", "send", "send", "try", "recv", "recv", "take", "cancel", "cancel_recv", "turn"]
    ),
    st.integers(0, 9),
)
programs = st.tuples(st.integers(1, 4), st.lists(steps, max_size=60), st.booleans())


class Run:
    """Plays steps against a channel, and keeps what each side knows for itself."""

    def __init__(self, channel: ModuleType, capacity: int) -> None:
        self.module = channel
        self.pipe = channel.Channel(capacity)
        self.sends: list[asyncio.Task[None]] = []
        self.waited: list[int] = []  # sends that met a full channel, in their order
        self.tried: list[int] = []
        self.received: list[int] = []
        self.receiving: asyncio.Task[Any] | None = None
        self.trace: list[object] = []

    async def step(self, kind: str, number: int) -> None:
        if kind == "send":
            item = len(self.sends)
            if number % 2:
                await asyncio.sleep(0)  # or the waits of those before would count as its own
            waits_before = self.pipe.statistics().send_waits
            self.sends.append(started(self.pipe.send(item)))
            if number % 2:
                await asyncio.sleep(0)
                if self.pipe.statistics().send_waits > waits_before:
                    self.waited.append(item)
        elif kind == "try":
            item = -1 - len(self.tried) - number * 1_000
            if self.pipe.try_send(item):
                self.tried.append(item)
        elif kind == "recv":
            if self.receiving is None or self.receiving.done():
                self.receiving = started(self.receive(1 + number))
        elif kind == "take":
            self.received += self.pipe.recv_nowait(1 + number)
        elif kind == "cancel":
            running = [task for task in self.sends if not task.done()]
            if running:
                running[number % len(running)].cancel()
        elif kind == "cancel_recv" and self.receiving is not None:
            self.receiving.cancel()
        else:
            await turns(1 + number % 3)
        assert len(self.pipe) <= self.pipe.capacity
        self.trace.append((*self.pipe.statistics(), tuple(self.received)))

    async def receive(self, most: int) -> None:
        items = await self.pipe.recv_many(most)
        assert 1 <= len(items) <= most
        self.received += items

    async def finish(self, close_first: bool) -> None:
        """Close before or after those who wait have sent, and drain."""
        if self.receiving is not None:
            self.receiving.cancel()
            await asyncio.wait([self.receiving])
        if close_first:
            self.pipe.close()
        while any(not task.done() for task in self.sends):
            await turns(1)
            if not self.pipe.closed:
                self.received += self.pipe.recv_nowait(1)
        self.pipe.close()
        while True:
            try:
                self.received += await self.pipe.recv_many(2)
            except self.module.ChannelClosed:
                return

    def check(self) -> None:
        sent = [
            item
            for item, task in enumerate(self.sends)
            if not task.cancelled() and task.exception() is None
        ]
        assert sorted(self.received) == sorted(sent + self.tried)
        assert [item for item in self.received if item < 0] == self.tried
        # Among those who waited, first come is first served.
        in_line = [item for item in self.received if item in self.waited]
        assert in_line == sorted(in_line)
        statistics = self.pipe.statistics()
        assert statistics.sent == statistics.received == len(self.received)
        assert statistics.high_watermark <= statistics.capacity
        assert statistics.length == 0


async def run_program(
    channel: ModuleType, capacity: int, program: list[tuple[str, int]], close_first: bool
) -> Run:
    run = Run(channel, capacity)
    for kind, number in program:
        await run.step(kind, number)
    await run.finish(close_first)
    return run


@given(programs)
@settings(max_examples=100, deadline=None)
def test_both_go_the_same_way(program: tuple[int, list[tuple[str, int]], bool]) -> None:
    one, other = (asyncio.run(run_program(module, *program)) for module in (compiled, plain))
    one.check()
    other.check()
    assert one.trace == other.trace
    assert one.received == other.received
