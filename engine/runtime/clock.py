"""Time: microseconds since the Unix epoch by the database's clock, and a clock that only counts.

    now_us       = max(everything returned before, monotonic_us + offset_us)
    offset_us    = the database's time - our monotonic time in the middle of the round trip

Nodes compare due times and deadlines with one clock, the database's; the clock of the machine that
a node runs on does not matter. The offset is measured several times, and the measurement with the
shortest round trip counts: its error is at most half of that round trip. It is measured again at an
interval. When it shrinks, `now_us` stands still until time has caught up: it never goes backwards.

Durations of this process (leases, sweeps) are measured with `monotonic_us`, which no measurement
touches.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from taskforge_server.engine import limits

log = logging.getLogger(__name__)

Measure = Callable[[], Awaitable[int]]
"""Asks the database for its time in microseconds since the epoch."""


class Clock(Protocol):
    """What the engine asks for the time."""

    def now_us(self) -> int:
        """Microseconds since the Unix epoch by the database's clock; never goes backwards."""
        ...

    def monotonic_us(self) -> int:
        """Microseconds since some moment in the past; for durations."""
        ...


class DatabaseClock:
    """The database's clock, carried on by our monotonic one between two measurements.

    Invariant: no `now_us()` is below an earlier one.
    """

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self._offset_us = 0
        self._last_us = 0
        self._task: asyncio.Task[None] | None = None
        self.round_trip_us = 0

    def now_us(self) -> int:
        now_us = time.monotonic_ns() // 1000 + self._offset_us
        if now_us < self._last_us:
            return self._last_us
        self._last_us = now_us
        return now_us

    def monotonic_us(self) -> int:
        return time.monotonic_ns() // 1000

    async def start(self) -> None:
        """Measure, then go on measuring until `stop`."""
        await self.refresh()
        self._task = asyncio.create_task(self._refresh_forever(), name="clock")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def refresh(self) -> None:
        """Measure the offset: of some tries the one with the shortest round trip."""
        best_us = offset_us = 0
        for _ in range(limits.CLOCK_TRIES):
            before_us = time.monotonic_ns() // 1000
            database_us = await self._measure()
            round_trip_us = time.monotonic_ns() // 1000 - before_us
            if not offset_us or round_trip_us < best_us:
                best_us = round_trip_us
                offset_us = database_us - (before_us + round_trip_us // 2)
        self._offset_us, self.round_trip_us = offset_us, best_us

    async def _refresh_forever(self) -> None:
        while True:
            await asyncio.sleep(limits.CLOCK_REFRESH_S)
            try:
                await self.refresh()
            except Exception as error:  # noqa: BLE001 - the database is away: the old offset serves
                log.warning("clock not measured: %s", error)


class VirtualClock:
    """A clock that moves when it is told to; the twin for tests."""

    def __init__(self, now_us: int = 1_700_000_000_000_000) -> None:
        self._now_us = now_us
        self._monotonic_us = 0

    def now_us(self) -> int:
        return self._now_us

    def monotonic_us(self) -> int:
        return self._monotonic_us

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        assert seconds >= 0
        self._now_us += round(seconds * 1e6)
        self._monotonic_us += round(seconds * 1e6)
