"""Attempts that may fail, counted in windows: so many, then none until the window is over.

    take ──room in every window──► the attempt is made ──it was good──► give_back
      └── a window is full ──► how long to wait

An attempt is counted before it is made, so that many at one time cannot pass together. The counts
are in Redis, for all nodes; while it is away each node counts for itself, which lets an attacker
try once more for each node, and never keeps anybody out.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from taskforge_server.engine import limits
from taskforge_server.engine.cluster.outage import Outage
from taskforge_server.engine.cluster.scripts import script

log = logging.getLogger(__name__)

_PREFIX = "taskforge:attempts:"
_FAILURES = (RedisError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Window:
    """Whose attempts, how many of them, in what time. The name is stored as a hash."""

    name: str
    attempts_max: int
    length_s: float

    @property
    def key(self) -> str:
        return _PREFIX + hashlib.sha256(self.name.encode()).hexdigest()


class LocalAttempts:
    """The counts of one process."""

    def __init__(
        self,
        entries_max: int = limits.THROTTLE_ENTRIES_MAX,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._entries_max = entries_max
        self._monotonic_s = monotonic_s
        self._counts: dict[str, tuple[int, float]] = {}

    def take(self, windows: Sequence[Window]) -> float:
        """Seconds to wait; 0 when the attempt may be made, and is counted."""
        now_s = self._monotonic_s()
        counted = []
        for window in windows:
            count, ends_s = self._counts.get(window.key, (0, 0.0))
            if ends_s <= now_s:
                count, ends_s = 0, now_s + window.length_s
            if count >= window.attempts_max:
                return ends_s - now_s
            counted.append((window.key, count + 1, ends_s))
        for key, count, ends_s in counted:
            if key not in self._counts and len(self._counts) >= self._entries_max:
                del self._counts[next(iter(self._counts))]
            self._counts[key] = (count, ends_s)
        return 0.0

    def give_back(self, windows: Sequence[Window]) -> None:
        """The attempt was good."""
        for window in windows:
            count, ends_s = self._counts.get(window.key, (0, 0.0))
            if count > 1:
                self._counts[window.key] = (count - 1, ends_s)
            else:
                self._counts.pop(window.key, None)


class Attempts:
    """The counts of all nodes, over one server."""

    def __init__(
        self, client: Redis | None, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        """Without a client each node counts for itself."""
        self._client = client
        self._monotonic_s = monotonic_s
        self._local = LocalAttempts(monotonic_s=monotonic_s)
        self._away_until_s = float("-inf")
        self._outage = Outage(
            log,
            "attempts are counted by each node for itself",
            "attempts are counted for all nodes again",
        )

    async def take(self, windows: Sequence[Window]) -> float:
        """Seconds to wait; 0 when the attempt may be made, and is counted."""
        arguments = [
            number
            for window in windows
            for number in (window.attempts_max, round(window.length_s * 1000))
        ]
        waiting_ms = await self._run("attempt", windows, arguments)
        return self._local.take(windows) if waiting_ms is None else waiting_ms / 1000

    async def give_back(self, windows: Sequence[Window]) -> None:
        """The attempt was good."""
        if await self._run("unattempt", windows, []) is None:
            self._local.give_back(windows)

    async def close(self) -> None:
        if self._client is not None:
            try:
                await self._client.aclose()
            except _FAILURES as error:
                log.info("left without saying goodbye: %s", error)

    async def _run(
        self, name: str, windows: Sequence[Window], arguments: Sequence[int]
    ) -> int | None:
        """What a script answers; None while the server is away."""
        if self._client is None or self._monotonic_s() < self._away_until_s:
            return None
        keys = [window.key for window in windows]
        try:
            async with asyncio.timeout(limits.THROTTLE_COMMAND_S):
                answer = await self._client.eval(script(name), len(keys), *keys, *arguments)
            self._outage.over()
            return int(answer)
        except _FAILURES as error:
            self._outage.failed(error)
            self._away_until_s = self._monotonic_s() + limits.CLUSTER_PAUSE_S
            await self._client.connection_pool.disconnect()
            return None


def redis_attempts(url: str) -> Attempts:
    """Over the server of this URL; connects when it is first needed."""
    pool = BlockingConnectionPool.from_url(
        url,
        socket_timeout=limits.THROTTLE_COMMAND_S,
        socket_connect_timeout=limits.THROTTLE_COMMAND_S,
        retry=Retry(NoBackoff(), 0),
        max_connections=limits.THROTTLE_CONNECTIONS_MAX,
        timeout=limits.THROTTLE_COMMAND_S,
    )
    return Attempts(Redis.from_pool(pool))
