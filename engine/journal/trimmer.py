"""Trims the log below the watermarks, in bulk, at its own slow pace.

What a watermark said `LOG_KEPT_S` ago is trimmed now. Until then the rows stay: a statement of a
writer that lost its shard must meet the row that refuses it, and a new owner that read a watermark
must find what follows it. The row at the watermark itself stays too, so a log is never empty.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.journal.link import DATABASE_ERRORS
from taskforge_server.engine.journal.log import ShardLog

log = logging.getLogger(__name__)


class Trimmer:
    """`run` in a task, or call `step` now and then."""

    def __init__(self, shard_log: ShardLog, watermarks: Mapping[int, int]) -> None:
        """`watermarks` is looked at, not copied: it is what the projector knows."""
        self._log = shard_log
        self._watermarks = watermarks
        self._seen: deque[tuple[float, dict[int, int]]] = deque()
        self._trimmed: dict[int, int] = {}
        self.rows = 0
        """Trimmed since the start."""

    async def run(self) -> None:
        """Trim until cancelled."""
        while True:
            await asyncio.sleep(limits.LOG_TRIM_S)
            try:
                await self.step(time.monotonic())
            except (Unavailable, *DATABASE_ERRORS) as error:
                log.warning("the log was not trimmed: %r", error)

    async def step(self, now_s: float) -> None:
        """Note the watermarks, and trim what was below them long enough ago."""
        self._seen.append((now_s, dict(self._watermarks)))
        old: dict[int, int] = {}
        while self._seen and self._seen[0][0] <= now_s - limits.LOG_KEPT_S:
            old = self._seen.popleft()[1]
        below = {
            shard: lsn
            for shard, lsn in old.items()
            if shard in self._watermarks and lsn > self._trimmed.get(shard, 0)
        }
        if below:
            self.rows += await self._log.trim(below)
            self._trimmed |= below
