"""One timer for all delayed jobs of a node.

    idle --note(due)--> armed for the earliest --fires--> due jobs go to their lanes, armed again

Time may be corrected, so a timer is only a hint: when it fires, the tables are asked, and it never
sleeps longer than DUE_TIMER_S_MAX.
"""

import asyncio
from collections.abc import Callable, Iterable

from taskforge_server.engine import limits
from taskforge_server.engine.runtime.clock import Clock
from taskforge_server.engine.shard.shard import Shard


class DueTimer:
    """Wakes queues whose delayed jobs are due."""

    def __init__(
        self,
        clock: Clock,
        shards: Callable[[], Iterable[Shard]],
        due: Callable[[Shard, list[int]], None],
    ) -> None:
        self._clock = clock
        self._shards = shards
        self._due = due
        self._armed_us = 0
        self._handle: asyncio.TimerHandle | None = None

    def note(self, due_us: int) -> None:
        """Some job is due then."""
        if due_us and (not self._armed_us or due_us < self._armed_us):
            self._arm(due_us)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self._armed_us = None, 0

    def _arm(self, due_us: int) -> None:
        if self._handle is not None:
            self._handle.cancel()
        delay_s = max(0.0, (due_us - self._clock.now_us()) / 1e6)
        self._armed_us = due_us
        self._handle = asyncio.get_running_loop().call_later(
            min(delay_s, limits.DUE_TIMER_S_MAX), self._fire
        )

    def _fire(self) -> None:
        self._handle, self._armed_us = None, 0
        now_us = self._clock.now_us()
        next_us = 0
        for shard in list(self._shards()):
            due_us = shard.table.next_due_us()
            if 0 < due_us <= now_us:
                self._due(shard, shard.table.due(now_us))
                due_us = shard.table.next_due_us()
            if due_us and (not next_us or due_us < next_us):
                next_us = due_us
        self.note(next_us)
