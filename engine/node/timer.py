"""One timer for all delayed jobs of a node, and for what else is due at a time.

    idle --note(due)--> armed for the earliest --fires--> due jobs go to their lanes, armed again

A turn moves DUE_JOBS_MAX jobs at most; when more are due the timer is armed for at once, so that
others have their turns in between.

Time may be corrected, so a timer is only a hint: when it fires, the tables are asked, and it never
sleeps longer than DUE_TIMER_S_MAX.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterable, Sequence
from heapq import heappop, heappush
from typing import Generic, TypeVar

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


Q = TypeVar("Q", bound=Hashable)


class QueueTimer(Generic[Q]):
    """Marks queues as ready when a bucket of theirs has a token.

        noted (a queue, its earliest time) --that time--> ready(queue), which asks and notes again

    A queue stands here once, at its earliest time; what was noted for later is passed over.
    """

    def __init__(self, clock: Clock, ready: Callable[[Q], None]) -> None:
        self._clock = clock
        self._ready = ready
        self._times: dict[Q, int] = {}
        self._heap: list[tuple[int, int, Q]] = []
        self._notes = 0
        self._armed_us = 0
        self._handle: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many queues wait for a token."""
        return len(self._times)

    def note(self, queue: Q, at_us: int) -> None:
        """The queue has a token then."""
        known_us = self._times.get(queue)
        if known_us is not None and known_us <= at_us:
            return
        self._times[queue] = at_us
        self._notes += 1  # two of one time: in the order in which they came
        heappush(self._heap, (at_us, self._notes, queue))
        self._arm()

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = None

    def _arm(self) -> None:
        at_us = self._heap[0][0]
        if self._handle is not None:
            if self._armed_us <= at_us:
                return
            self._handle.cancel()
        delay_s = max(0.0, (at_us - self._clock.now_us()) / 1e6)
        self._armed_us = at_us
        self._handle = asyncio.get_running_loop().call_later(
            min(delay_s, limits.DUE_TIMER_S_MAX), self._fire
        )

    def _fire(self) -> None:
        self._handle = None
        now_us = self._clock.now_us()
        while self._heap and self._heap[0][0] <= now_us:
            at_us, _, queue = heappop(self._heap)
            if self._times.get(queue) == at_us:
                del self._times[queue]
                self._ready(queue)
        if self._heap:
            self._arm()
