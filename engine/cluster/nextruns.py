"""The next run of each schedule, in Redis or Valkey.

    taskforge:schedules:<shard>    a sorted set: ids of schedules, by the second of their next
                                   tick (+inf: none will come)

        ZRANGEBYSCORE taskforge:schedules:7 -inf 1790000000 WITHSCORES

For those who look from outside: nothing of ours reads it, and no tick waits for it. The owner of a
shard writes its set, many changes at once. Now and then it counts what is there: a set that was
lost, or that a failure may have left behind, is written anew from memory.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.cluster.outage import Outage
from taskforge_server.engine.cluster.redis import FAILURES, PREFIX, client
from taskforge_server.ext.ids import uuid_text

log = logging.getLogger(__name__)

SECOND_US = 1_000_000


class Source(Protocol):
    """Who knows the next runs."""

    def shard_numbers(self) -> Iterable[int]:
        """The shards whose sets are this node's to write."""
        ...

    def runs(self, shard: int) -> dict[bytes, int]:
        """When the shard's schedules run next, in microseconds since the epoch; 0: never again."""
        ...

    def count(self, shard: int) -> int:
        """How many these are."""
        ...


class NextRuns:
    """Keeps the sets of one node's shards."""

    def __init__(self, url: str) -> None:
        self._client = client(url)
        self._changes: dict[int, dict[bytes, int | None]] = {}
        self._written: set[int] = set()
        """Shards whose sets are as memory has them, but for the changes."""
        self._stopping = False
        self._outage = Outage(
            log, "next runs of schedules are not in Redis", "next runs of schedules are in Redis"
        )

    def moved(self, shard: int, schedule_id: bytes, next_us: int | None) -> None:
        """The schedule runs next then; None: it is gone."""
        self._changes.setdefault(shard, {})[schedule_id] = next_us

    async def run(self, source: Source) -> None:
        """Write until `stop`."""
        loop = asyncio.get_running_loop()
        check_s = 0.0
        while not self._stopping:
            await asyncio.sleep(limits.NEXT_RUNS_FLUSH_S)
            checking = loop.time() >= check_s
            if not self._changes and not checking:
                continue
            try:
                await self.write(source, checking)
                self._outage.over()
            except FAILURES as error:
                self._outage.failed(error)
                self._written.clear()
                await asyncio.sleep(limits.CLUSTER_PAUSE_S)
                continue
            if checking:
                check_s = loop.time() + limits.NEXT_RUNS_CHECK_S

    def stop(self) -> None:
        """Before `run` is cancelled: the client swallows a cancellation that meets a broken
        connection."""
        self._stopping = True

    async def write(self, source: Source, checking: bool) -> None:
        """What has changed; when checking, whole sets that are not what they should be."""
        changes, self._changes = self._changes, {}
        mine = set(source.shard_numbers())
        self._written &= mine
        for shard, runs in changes.items():
            if shard in self._written:
                await self._update(shard, runs)
        stale = mine - self._written
        if checking:
            stale |= await self._different(source, self._written)
        for shard in sorted(stale):
            self._changes.pop(shard, None)
            await self._replace(shard, source.runs(shard))
        self._written |= stale

    async def close(self) -> None:
        await self._client.aclose()

    async def _different(self, source: Source, shards: Iterable[int]) -> set[int]:
        """Those whose sets do not have as many entries as they should."""
        asked = sorted(shards)
        wanted = [source.count(shard) for shard in asked]
        pipe = self._client.pipeline(transaction=False)
        for shard in asked:
            pipe.zcard(key_of(shard))
        found = await pipe.execute() if asked else []
        triples = zip(asked, wanted, found, strict=True)
        # A change that is on its way makes a set look wrong: written anew, it is right as well.
        return {shard for shard, most, count in triples if most != count}

    async def _update(self, shard: int, runs: dict[bytes, int | None]) -> None:
        gone = [uuid_text(schedule_id) for schedule_id, next_us in runs.items() if next_us is None]
        there = {key: next_us for key, next_us in runs.items() if next_us is not None}
        pipe = self._client.pipeline(transaction=False)
        if there:
            pipe.zadd(key_of(shard), _scores(there))
        if gone:
            pipe.zrem(key_of(shard), *gone)
        await pipe.execute()

    async def _replace(self, shard: int, runs: dict[bytes, int]) -> None:
        pipe = self._client.pipeline(transaction=True)
        pipe.delete(key_of(shard))
        if runs:
            pipe.zadd(key_of(shard), _scores(runs))
        await pipe.execute()


def key_of(shard: int) -> str:
    return f"{PREFIX}schedules:{shard}"


def _scores(runs: dict[bytes, int]) -> dict[str, float]:
    return {
        uuid_text(schedule_id): float(next_us // SECOND_US) if next_us else float("inf")
        for schedule_id, next_us in runs.items()
    }
