"""How many requests a second: GCRA, decided here at once, settled with the other nodes in batches.

    take ──► local bucket ──ahead of its burst──► RateLimited
                 │ let in, counted
                 └── every RATE_SETTLE_S, in one call for all projects ──► the shared buckets
                     ◄── how far ahead of its time each one is ──────────────┘

A bucket holds the time until which what was let in is paid for. Every node decides by its own
copy, so that no request waits for a round trip; what it let in is then added to the shared bucket,
and the answer, which knows of all nodes, replaces the copy. What the nodes let in too much between
two settlements is a debt that is paid off before the next request: over time the rate is exact, and
no clocks are compared. A burst is much longer than a settlement, so no time is lost between two.

When the server is away each node limits by its own copy, as if it were alone; what it let in then
is not added later, or the outage would be paid for twice.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from redis.asyncio import Redis

from taskforge_server.engine import limits
from taskforge_server.engine.cluster.outage import Outage
from taskforge_server.engine.cluster.redis import FAILURES, PREFIX, client
from taskforge_server.engine.cluster.scripts import script
from taskforge_server.engine.errors import RateLimited

log = logging.getLogger(__name__)

Debit = tuple[bytes, int, float]
"""A bucket's key, how many requests to add, and the microseconds that one takes."""


_ROUNDING_S = 1e-6
"""Sums of fractions: nobody is refused for less."""


class SharedBuckets(Protocol):
    """The buckets that all nodes see."""

    async def settle(self, debits: Sequence[Debit]) -> list[float]:
        """Add requests; how many microseconds each bucket is ahead. Raises FAILURES."""
        ...

    async def close(self) -> None: ...


class RedisBuckets:
    """In Redis or Valkey."""

    def __init__(self, url: str, now_us: Callable[[], int] = lambda: 0) -> None:
        """`now_us`: what the buckets take for the time; 0: that of the server."""
        self._client: Redis = client(url)
        self._script = self._client.register_script(script("settle_rates"))
        self._now_us = now_us

    async def settle(self, debits: Sequence[Debit]) -> list[float]:
        keys = [f"{PREFIX}rate:{key.hex()}" for key, _, _ in debits]
        arguments: list[float] = [self._now_us()]
        for _, count, interval_us in debits:
            arguments += (count, interval_us)
        async with asyncio.timeout(limits.CLUSTER_COMMAND_S):
            return [float(text) for text in await self._script(keys, arguments)]

    async def close(self) -> None:
        await self._client.aclose()


class _Bucket:
    """One project's rate, as this node sees it."""

    __slots__ = ("arrival_s", "burst_s", "count", "interval_s", "key", "rate")

    def __init__(self, key: bytes, rate: int) -> None:
        self.key = key
        self.rate = rate
        self.interval_s = 1.0 / rate
        self.burst_s = max(limits.RATE_BURST_S, self.interval_s)
        self.arrival_s = 0.0
        self.count = 0
        """Let in and not settled."""


class RateLimiter:
    """The rates of a node's projects. `run` settles them; without it each node is alone."""

    def __init__(
        self,
        shared: SharedBuckets | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shared = shared
        self._now_s = now_s
        self._buckets: dict[bytes, _Bucket] = {}
        self._used: list[_Bucket] = []
        self._wake = asyncio.Event()
        self._stopping = False
        self._outage = Outage(
            log, "rates are limited by this node alone", "rates are limited by all nodes again"
        )
        self.refused = 0
        """Requests since the start."""

    def take(self, key: bytes, rate: int) -> tuple[int, int, int]:
        """One request more: the rate, how many may come at once from here on, and after how many
        seconds that is a whole burst again. RateLimited."""
        bucket = self._buckets.get(key)
        if bucket is None or bucket.rate != rate:
            bucket = self._open(key, rate)
        now_s = self._now_s()
        arrival_s = bucket.arrival_s
        if arrival_s < now_s:
            arrival_s = now_s
        arrival_s += bucket.interval_s
        left_s = bucket.burst_s - arrival_s + now_s
        if left_s < -_ROUNDING_S:
            self.refused += 1
            raise RateLimited(rate, -left_s, math.ceil(bucket.arrival_s - now_s))
        bucket.arrival_s = arrival_s
        if not bucket.count:
            if not self._used:
                self._wake.set()
            self._used.append(bucket)
        bucket.count += 1
        # No burst is longer than a second.
        return rate, int((left_s + _ROUNDING_S) * rate), 1

    def _open(self, key: bytes, rate: int) -> _Bucket:
        """A bucket that is full, or that owes as much time as before its rate was changed."""
        if len(self._buckets) >= limits.RATE_BUCKETS_MAX:
            self._forget_full()
        bucket = _Bucket(key, rate)
        before = self._buckets.get(key)
        if before is not None:
            bucket.arrival_s = min(before.arrival_s, self._now_s() + bucket.burst_s)
        self._buckets[key] = bucket
        return bucket

    def _forget_full(self) -> None:
        now_s = self._now_s()
        kept = {key: b for key, b in self._buckets.items() if b.arrival_s > now_s or b.count}
        # All in use: the oldest goes; that costs a limit once, and not the node its memory.
        while len(kept) >= limits.RATE_BUCKETS_MAX:
            del kept[next(iter(kept))]
        self._buckets = kept

    # the other nodes

    async def run(self) -> None:
        """Settle until cancelled."""
        if self._shared is None:
            return
        while not self._stopping:
            await self._wake.wait()
            await asyncio.sleep(limits.RATE_SETTLE_S)
            if not self._is_pressing():
                await asyncio.sleep(limits.RATE_SETTLE_EASY_S - limits.RATE_SETTLE_S)
            await self.settle()

    def _is_pressing(self) -> bool:
        """Whether a project has used a quarter of its burst."""
        now_s = self._now_s()
        return any(4 * (bucket.arrival_s - now_s) > bucket.burst_s for bucket in self._used)

    def stop(self) -> None:
        """Before `run` is cancelled: the client swallows a cancellation that meets a broken
        connection."""
        self._stopping = True
        self._wake.set()

    async def settle(self) -> None:
        """Add what was let in to the shared buckets, and take over how far ahead they are."""
        used, self._used = self._used, []
        self._wake.clear()
        debits = [(bucket.key, bucket.count, bucket.interval_s * 1e6) for bucket in used]
        for bucket in used:
            bucket.count = 0
        if self._shared is None:
            return
        for start in range(0, len(used), limits.RATE_SETTLE_KEYS_MAX):
            part = slice(start, start + limits.RATE_SETTLE_KEYS_MAX)
            try:
                ahead_us = await self._shared.settle(debits[part])
            except FAILURES as error:
                self._outage.failed(error)
                await asyncio.sleep(limits.CLUSTER_PAUSE_S)
                return
            self._outage.over()
            now_s = self._now_s()
            for bucket, ahead in zip(used[part], ahead_us, strict=True):
                # What was let in meanwhile is not in the answer.
                bucket.arrival_s = now_s + ahead / 1e6 + bucket.count * bucket.interval_s

    async def close(self) -> None:
        if self._shared is not None:
            await self._shared.close()
