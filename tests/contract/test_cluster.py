"""What nodes tell each other, over Valkey and over the twin in memory."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Protocol

import pytest

from taskforge_server.api.cli.embedded import EmbeddedServers
from taskforge_server.engine import limits
from taskforge_server.engine.cluster.memory import Exchange, MemoryCluster
from taskforge_server.engine.cluster.outage import Outage
from taskforge_server.engine.cluster.port import JOB_LOGGED, QUEUE_CHANGED, Cluster
from taskforge_server.engine.cluster.redis import RedisCluster
from tests.support.faultproxy import FaultProxy, fault_proxy
from tests.support.processes import free_port

TTL_S = 0.6
WITHIN_S = 3 * (limits.CLUSTER_COMMAND_S + limits.CLUSTER_PAUSE_S)
"""Long enough for a failed try, a pause and a good try, on a busy machine."""


class Ear:
    """Keeps what was heard on a topic."""

    def __init__(self, cluster: Cluster, topic: str = QUEUE_CHANGED) -> None:
        self.heard: list[bytes] = []
        self.changed = asyncio.Condition()
        self.gaps = 0
        self._tasks: set[asyncio.Task[None]] = set()
        cluster.subscribe(topic, self._hear, self._gap)

    def _hear(self, message: bytes) -> None:
        self.heard.append(message)
        self._tell()

    def _gap(self) -> None:
        self.gaps += 1
        self._tell()

    def _tell(self) -> None:
        task = asyncio.create_task(self._notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def wait(self, *, heard: int = 0, gaps: int = 0) -> None:
        async with asyncio.timeout(WITHIN_S), self.changed:
            await self.changed.wait_for(lambda: len(self.heard) >= heard and self.gaps >= gaps)


class Bench(Protocol):
    async def node(self, name: str) -> Cluster:
        """A node that is not started yet."""
        ...

    def go_down(self) -> None: ...
    def come_back(self) -> None: ...


class MemoryBench:
    def __init__(self) -> None:
        self._exchange = Exchange()

    async def node(self, name: str) -> Cluster:
        return MemoryCluster(self._exchange, name)

    def go_down(self) -> None:
        self._exchange.go_down()

    def come_back(self) -> None:
        self._exchange.come_back()


class RedisBench:
    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy

    async def node(self, name: str) -> Cluster:
        return RedisCluster(f"redis://127.0.0.1:{self.proxy.port}", name, TTL_S)

    def go_down(self) -> None:
        self.proxy.refuse()

    def come_back(self) -> None:
        self.proxy.heal()


@pytest.fixture
async def memory_bench() -> Bench:
    return MemoryBench()


@pytest.fixture
async def redis_bench(servers: EmbeddedServers, redis_url: str) -> AsyncIterator[Bench]:
    async with fault_proxy(servers.valkey.socket_path) as proxy:
        yield RedisBench(proxy)


@pytest.fixture(params=["memory", "redis"])
def bench(request: pytest.FixtureRequest) -> Bench:
    bench: Bench = request.getfixturevalue(f"{request.param}_bench")
    return bench


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def started(bench: Bench, stack: AsyncExitStack, name: str) -> tuple[Cluster, Ear]:
    cluster = await bench.node(name)
    ear = Ear(cluster)
    await cluster.start()
    stack.push_async_callback(cluster.stop)
    return cluster, ear


async def until(condition: "Condition") -> None:
    """Ask until it is so; a bound in time, none in tries."""
    async with asyncio.timeout(WITHIN_S):
        while not await condition():  # noqa: ASYNC110 - the state is in another process
            await asyncio.sleep(0.01)


class Condition(Protocol):
    async def __call__(self) -> bool: ...


async def test_messages_reach_all_nodes(bench: Bench, stack: AsyncExitStack) -> None:
    first, first_ear = await started(bench, stack, "a")
    _, second_ear = await started(bench, stack, "b")
    await first_ear.wait(gaps=1)
    await second_ear.wait(gaps=1)
    for number in range(100):
        first.publish(QUEUE_CHANGED, b"%d" % number)
    first.publish(JOB_LOGGED, b"nobody listens")
    for ear in (first_ear, second_ear):
        await ear.wait(heard=100)
        assert ear.heard == [b"%d" % number for number in range(100)]


async def test_nodes_see_each_other(bench: Bench, stack: AsyncExitStack) -> None:
    first, _ = await started(bench, stack, "a")
    second = await bench.node("b")
    assert not await first.is_alive("b") or not first.alive()
    await second.start()

    async def both() -> bool:
        return await first.nodes() == await second.nodes() == {"a", "b"}

    await until(both)
    assert await first.is_alive("b")
    assert first.alive()
    await second.stop()

    async def gone() -> bool:
        return not await first.is_alive("b")

    await until(gone)


async def test_hints_belong_to_who_gave_them_first(bench: Bench, stack: AsyncExitStack) -> None:
    first, _ = await started(bench, stack, "a")
    second, _ = await started(bench, stack, "b")
    first.hint([1, 2])

    async def firsts() -> bool:
        return await second.hinted([1, 2, 3]) == {1: "a", 2: "a"}

    await until(firsts)
    second.hint([2, 3])

    async def shared() -> bool:
        return await first.hinted([1, 2, 3]) == {1: "a", 2: "a", 3: "b"}

    await until(shared)
    first.hint([1])

    async def given_up() -> bool:
        return 2 not in await first.hinted([2])

    await until(given_up)


async def test_after_an_outage_all_is_as_before(bench: Bench, stack: AsyncExitStack) -> None:
    cluster, ear = await started(bench, stack, "a")
    cluster.hint([1])
    await ear.wait(gaps=1)
    bench.go_down()

    async def down() -> bool:
        return not cluster.alive()

    await until(down)
    assert await cluster.is_alive("anybody"), "what cannot be known is taken for alive"
    assert await cluster.hinted([]) == {}
    assert "a" in await cluster.nodes()
    cluster.hint([1, 2])
    bench.come_back()
    await ear.wait(gaps=2)

    async def back() -> bool:
        return cluster.alive() and await cluster.hinted([1, 2]) == {1: "a", 2: "a"}

    await until(back)
    heard = len(ear.heard)
    cluster.publish(QUEUE_CHANGED, b"again")
    await ear.wait(heard=heard + 1)
    assert ear.heard[-1] == b"again"


async def test_nothing_hangs_in_a_black_hole(
    redis_bench: RedisBench, stack: AsyncExitStack
) -> None:
    cluster, ear = await started(redis_bench, stack, "a")
    await ear.wait(gaps=1)
    redis_bench.proxy.blackhole()
    async with asyncio.timeout(WITHIN_S):
        assert await cluster.is_alive("b")
        assert await cluster.nodes() == {"a"}
        assert await cluster.hinted([1]) == {}
    for _ in range(limits.CLUSTER_OUTBOX_MAX + 5):
        cluster.publish(QUEUE_CHANGED, b"x")

    async def down() -> bool:
        return not cluster.alive()

    await until(down)
    redis_bench.proxy.cut()
    redis_bench.proxy.heal()
    await ear.wait(gaps=2, heard=1)


class Tries(Outage):
    """An outage that can be waited for."""

    __slots__ = ("seen", "tried")

    def __init__(self, away: str) -> None:
        super().__init__(logging.getLogger("test.outage"), away, "there")
        self.tried = 0
        self.seen = asyncio.Event()

    def failed(self, error: BaseException) -> None:
        super().failed(error)
        self.tried += 1
        if self.tried == 3:
            self.seen.set()


async def test_a_server_that_is_away_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "CLUSTER_PAUSE_S", 0.001)
    cluster = RedisCluster(f"redis://127.0.0.1:{free_port()}", "a")
    cluster._silence, cluster._deafness = silent, deaf = Tries("silent"), Tries("deaf")
    Ear(cluster)
    async with asyncio.timeout(WITHIN_S):
        await cluster.start()
        await asyncio.gather(silent.seen.wait(), deaf.seen.wait())
        await cluster.stop()
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert sorted(record.getMessage().partition(":")[0] for record in told) == ["deaf", "silent"]


def test_an_outage_is_told_again_after_a_minute_and_when_it_is_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = 0.0
    monkeypatch.setattr("taskforge_server.engine.cluster.outage.time.monotonic", lambda: now_s)
    caplog.set_level(logging.INFO)
    redis = Outage(logging.getLogger("test.outage"), "away", "back")
    redis.over()
    for second in range(100):
        now_s = float(second)
        redis.failed(OSError("gone"))
    redis.over()
    redis.over()
    redis.failed(OSError("gone"))
    assert [record.getMessage() for record in caplog.records] == [
        "away: OSError('gone')",
        "away, for 60 s now: OSError('gone')",
        "back, after 99 s",
        "away: OSError('gone')",
    ]


async def test_without_a_server_a_node_starts_and_stops(redis_bench: RedisBench) -> None:
    redis_bench.proxy.refuse()
    cluster = await redis_bench.node("a")
    Ear(cluster)
    async with asyncio.timeout(WITHIN_S):
        await cluster.start()
        cluster.hint(range(64))
        cluster.publish(QUEUE_CHANGED, b"x")
        assert not cluster.alive()
        assert await cluster.is_alive("b")
        await cluster.stop()
