"""Rates over the real server, in a time of our own: what nodes let in together, to the request."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack

import pytest

from taskforge_server.api.cli.embedded import EmbeddedServers
from taskforge_server.engine import limits
from taskforge_server.engine.cluster.rates import Debit, RateLimiter, RedisBuckets
from taskforge_server.engine.errors import RateLimited
from tests.support.faultproxy import fault_proxy

PROJECT = b"p" * 16
START_US = 1_790_000_000_000_000
STEP_US = 1_000
STEPS_OF_SETTLEMENT = round(limits.RATE_SETTLE_S * 1e6) // STEP_US
SECONDS = 30


class Time:
    """What all nodes and the server take for the time."""

    def __init__(self) -> None:
        self.us = START_US

    def __call__(self) -> int:
        return self.us

    def s(self) -> float:
        return self.us / 1e6


@pytest.fixture
def now() -> Time:
    return Time()


@pytest.fixture
async def node(redis_url: str, now: Time) -> AsyncIterator[Callable[[], RateLimiter]]:
    """Makes nodes."""
    async with AsyncExitStack() as stack:

        def made() -> RateLimiter:
            limiter = RateLimiter(RedisBuckets(redis_url, now), now.s)
            stack.push_async_callback(limiter.close)
            return limiter

        yield made


def let_in(limiter: RateLimiter, rate: int, tries: int = 1) -> int:
    """How many of so many requests at one time are let in."""
    count = 0
    for _ in range(tries):
        try:
            limiter.take(PROJECT, rate)
        except RateLimited:
            pass
        else:
            count += 1
    return count


async def pressed(
    now: Time, nodes: list[RateLimiter], rate: int, wants: Callable[[int, int], int]
) -> int:
    """How many requests get in over 30 s; `wants` says how many a node has in a step."""
    count = 0
    for step in range(SECONDS * 1_000_000 // STEP_US):
        now.us += STEP_US
        for place, limiter in enumerate(nodes):
            count += let_in(limiter, rate, wants(place, step))
            if (step + place * 7) % STEPS_OF_SETTLEMENT == 0:
                await limiter.settle()
    return count


@pytest.mark.parametrize("rate", [50, 1_000, 2_000])
async def test_four_clients_on_two_nodes_get_the_rate_to_one_percent(
    rate: int, now: Time, node: Callable[[], RateLimiter]
) -> None:
    # Two clients at each node, each with a request every millisecond.
    count = await pressed(now, [node(), node()], rate, lambda place, step: 2)
    assert count == pytest.approx(rate * SECONDS, rel=0.01)


async def test_clients_that_come_in_turns_get_the_rate_to_one_percent(
    now: Time, node: Callable[[], RateLimiter]
) -> None:
    def wants(place: int, step: int) -> int:
        return 4 if step // 300 % 2 == place else 0

    count = await pressed(now, [node(), node()], 1_000, wants)
    assert count == pytest.approx(1_000 * SECONDS, rel=0.01)


async def test_below_the_rate_nobody_is_refused(now: Time, node: Callable[[], RateLimiter]) -> None:
    def wants(place: int, step: int) -> int:
        return 1 if step % 4 == place else 0

    nodes = [node(), node(), node()]
    assert await pressed(now, nodes, 1_000, wants) == 750 * SECONDS
    assert sum(limiter.refused for limiter in nodes) == 0


async def test_a_refusal_says_when_to_come_back(now: Time) -> None:
    limiter = RateLimiter(None, now.s)
    assert limiter.take(PROJECT, 50) == (50, 9, 1)
    assert let_in(limiter, 50, 20) == 9
    with pytest.raises(RateLimited) as refused:
        limiter.take(PROJECT, 50)
    assert (refused.value.rate, refused.value.code) == (50, "rate_limited")
    assert refused.value.retry_after_s == pytest.approx(1 / 50, abs=1e-5)
    now.us += 20_000
    assert let_in(limiter, 50, 5) == 1
    now.us += 1_000_000
    assert limiter.take(PROJECT, 50) == (50, 9, 1)


async def test_projects_do_not_share_a_rate(now: Time) -> None:
    limiter = RateLimiter(None, now.s)
    assert let_in(limiter, 5, 3) == 1
    assert limiter.take(b"q" * 16, 5) == (5, 0, 1)


async def test_what_another_node_let_in_is_paid_off_first(
    now: Time, node: Callable[[], RateLimiter]
) -> None:
    one, other = node(), node()
    assert let_in(one, 50, 20) == let_in(other, 50, 20) == 10
    await one.settle()
    await other.settle()
    # Twenty requests are let in, worth 0.4 s of the rate; a burst is 0.2 s.
    now.us += 200_000
    assert let_in(other, 50) == 0
    now.us += 20_000
    assert let_in(other, 50) == 1


async def test_a_changed_rate_holds_at_once(now: Time) -> None:
    limiter = RateLimiter(None, now.s)
    assert let_in(limiter, 1_000, 500) == 200
    assert let_in(limiter, 10, 5) == 0
    now.us += 200_000
    assert let_in(limiter, 10, 5) == 2


async def test_buckets_are_bounded(now: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RATE_BUCKETS_MAX", 10)
    limiter = RateLimiter(None, now.s)
    for number in range(100):
        limiter.take(number.to_bytes(16), 5)
    assert len(limiter._buckets) == 10


async def test_without_the_server_a_node_limits_alone_and_pays_nothing_later(
    servers: EmbeddedServers, redis_url: str, now: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CLUSTER_PAUSE_S", 0.0)
    async with fault_proxy(servers.valkey.socket_path) as proxy:
        limiter = RateLimiter(RedisBuckets(f"redis://127.0.0.1:{proxy.port}", now), now.s)
        proxy.refuse()
        count = 0
        for _ in range(100):
            now.us += 100_000
            count += let_in(limiter, 50, 20)
            await limiter.settle()
        assert count == pytest.approx(50 * 10, abs=10)
        proxy.heal()
        now.us += 1_000_000
        assert let_in(limiter, 50, 20) == 10
        await limiter.settle()
        now.us += 200_000
        assert let_in(limiter, 50, 20) == 10
        await limiter.close()


class Recorder:
    """Buckets that nobody else uses, and who settled what."""

    def __init__(self) -> None:
        self.settled: asyncio.Queue[int] = asyncio.Queue()

    async def settle(self, debits: Sequence[Debit]) -> list[float]:
        for _, count, _ in debits:
            self.settled.put_nowait(count)
        return [0.0 for _ in debits]

    async def close(self) -> None:
        """Nothing to give back."""


async def test_the_task_settles_what_was_let_in_together(now: Time) -> None:
    shared = Recorder()
    limiter = RateLimiter(shared, now.s)
    running = asyncio.create_task(limiter.run())
    assert let_in(limiter, 50, 7) == 7
    assert await shared.settled.get() == 7
    assert let_in(limiter, 50) == 1
    assert await shared.settled.get() == 1
    limiter.stop()
    await running
