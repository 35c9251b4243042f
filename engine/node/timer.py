"""One timer for all delayed jobs of a node, and for what else is due at a time.

    idle --note(due)--> armed for the earliest --fires--> due jobs go to their lanes, armed again

A turn moves DUE_JOBS_MAX jobs at most; when more are due the timer is armed for at once, so that
others have their turns in between.

Time may be corrected, so a timer is only a hint: when it fires, the tables are asked, and it never
sleeps longer than DUE_TIMER_S_MAX.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence

from taskforge_server.engine import limits
from taskforge_server.engine.runtime.clock import Clock
from taskforge_server.engine.shard.shard import Shard

Sweep = Callable[[Shard, int], int]
"""Does what is due in a shard by now, a bounded part of it, and says when it is to be asked again;
0: when it notes a time itself."""


class DueTimer:
    """Wakes queues whose delayed jobs are due."""

    def __init__(
        self,
        clock: Clock,
        shards: Callable[[], Iterable[Shard]],
        due: Callable[[Shard, list[int]], None],
        sweeps: Sequence[Sweep] = (),
    ) -> None:
        """`sweeps` are asked besides, whenever the timer fires."""
        self._clock = clock
        self._shards = shards
        self._due = due
        self._sweeps = sweeps
        self._armed_us = 0
        self._fired = 0
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
        left = limits.DUE_JOBS_MAX
        next_us = 0
        shards = list(self._shards())
        # Another one begins each time: a herd in one shard must not keep the others waiting.
        self._fired += 1
        first = self._fired % max(1, len(shards))
        for shard in shards[first:] + shards[:first]:
            due_us = shard.table.next_due_us()
            if left and 0 < due_us <= now_us:
                moved, queues = shard.table.due(now_us, left)
                left -= moved
                self._due(shard, queues)
                due_us = shard.table.next_due_us()
            for wake_us in (due_us, *(sweep(shard, now_us) for sweep in self._sweeps)):
                if wake_us and (not next_us or wake_us < next_us):
                    next_us = wake_us
        self.note(next_us)
