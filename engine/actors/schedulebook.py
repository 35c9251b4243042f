"""The schedules of a node's shards in memory: which of them ticks next.

    put ──► waits, in a heap by its next tick ──take──► out: its tick is being decided
                 ▲                                       │
                 └────────── decided, put off ───────────┘         remove: from anywhere

A schedule that is out stays out, though it be changed or removed and put again, until its tick is
decided or put off: no tick is decided twice at one time. Pure: no clock, no I/O. All calls come
from one loop.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

from taskforge_server.engine import limits
from taskforge_server.engine.model.cron import NEVER_US, CronRule
from taskforge_server.engine.model.schedule import GRACE_US, CatchUp, Overlap, upcoming_us
from taskforge_server.engine.shard.shard import Shard


@dataclass(slots=True)
class Plan:
    """What the engine knows of a schedule. `decided_us` is never behind the row by more than what
    is being written."""

    id: bytes
    project_id: bytes
    queue_id: bytes
    shard: Shard
    rule: CronRule
    job: bytes
    payload: bytes | None
    """None: too large to be kept."""
    catch_up: CatchUp
    window_s: int
    overlap: Overlap
    jitter_s: int
    decided_us: int
    last_job_id: bytes | None
    revision: int
    next_us: int = NEVER_US
    """The next tick, as it was last reckoned."""

    def upcoming_us(self, now_us: int) -> int:
        """The next tick to decide; it may be past."""
        return upcoming_us(self.rule, self.catch_up, self.window_s, self.decided_us, now_us)


class ScheduleBook:
    """All plans, and the order of those that wait."""

    def __init__(self, moved: Callable[[Plan, bool], None] = lambda plan, there: None) -> None:
        """`moved` hears of each plan that is new or has another next tick, and of those that are
        no longer there."""
        self._moved = moved
        self._plans: dict[bytes, Plan] = {}
        self._of_shard: dict[Shard, dict[bytes, Plan]] = {}
        # (when, a number, the plan): entries whose number is not the plan's newest are void.
        self._heap: list[tuple[int, int, Plan]] = []
        self._entry: dict[bytes, int] = {}
        self._number = 0
        self._out: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._plans)

    def get(self, schedule_id: bytes) -> Plan | None:
        return self._plans.get(schedule_id)

    def of_shard(self, shard: Shard) -> dict[bytes, Plan]:
        return self._of_shard.get(shard, {})

    def shards(self) -> list[Shard]:
        return list(self._of_shard)

    def put(self, plan: Plan, now_us: int) -> None:
        """A schedule as its row has it now. What was decided here counts, if it is more."""
        known = self._plans.get(plan.id)
        if known is not None:
            if known.shard is plan.shard:
                # Whoever has the shard knows of every job; the row may lag behind.
                plan.last_job_id = known.last_job_id or plan.last_job_id
                plan.decided_us = max(plan.decided_us, known.decided_us)
            plan.next_us = known.next_us
            self.remove(plan.id)
        self._plans[plan.id] = plan
        self._of_shard.setdefault(plan.shard, {})[plan.id] = plan
        self._moved(plan, True)
        if plan.id not in self._out:
            self._await_tick(plan, now_us)

    def remove(self, schedule_id: bytes) -> None:
        plan = self._plans.pop(schedule_id, None)
        if plan is None:
            return
        self._moved(plan, False)
        self._entry.pop(schedule_id, None)
        of_shard = self._of_shard[plan.shard]
        del of_shard[schedule_id]
        if not of_shard:
            del self._of_shard[plan.shard]

    def drop_shard(self, shard: Shard) -> None:
        for schedule_id in list(self.of_shard(shard)):
            self.remove(schedule_id)

    def next_us(self) -> int:
        """When somebody has to look again; NEVER_US: nothing waits."""
        heap = self._heap
        while heap and self._entry.get(heap[0][2].id) != heap[0][1]:
            heappop(heap)
        return heap[0][0] if heap else NEVER_US

    def take(self, now_us: int, most: int) -> Iterator[tuple[Plan, int]]:
        """Plans with a tick to decide, the earliest first; they are out from here on."""
        while most and NEVER_US < self.next_us() <= now_us:
            _, _, plan = heappop(self._heap)
            del self._entry[plan.id]
            tick_us = plan.next_us
            if tick_us < now_us - GRACE_US:  # missed: that depends on how late it is by now
                tick_us = plan.upcoming_us(now_us)
            if NEVER_US < tick_us <= now_us:
                most -= 1
                self._out.add(plan.id)
                yield plan, tick_us
            else:
                self._await_tick(plan, now_us)

    def decided(self, plan: Plan, tick_us: int, job_id: bytes | None, now_us: int) -> int:
        """The tick had this job, or none: wait for the next one, and say which that is."""
        self._out.discard(plan.id)
        current = self._plans.get(plan.id)
        if current is None:
            return NEVER_US
        if current.shard is plan.shard:
            current.decided_us = max(current.decided_us, tick_us)
            current.last_job_id = job_id or current.last_job_id
        self._await_tick(current, now_us)
        return current.next_us

    def put_off(self, plan: Plan, until_us: int) -> None:
        """The tick cannot be decided now."""
        self._out.discard(plan.id)
        current = self._plans.get(plan.id)
        if current is not None:
            self._wait(current, until_us)

    def _await_tick(self, plan: Plan, now_us: int) -> None:
        next_us = plan.upcoming_us(now_us)
        if next_us != plan.next_us:
            plan.next_us = next_us
            self._moved(plan, True)
        self._wait(plan, next_us)

    def _wait(self, plan: Plan, until_us: int) -> None:
        if until_us == NEVER_US:
            self._entry.pop(plan.id, None)
            return
        self._number += 1
        self._entry[plan.id] = self._number
        heappush(self._heap, (until_us, self._number, plan))
        if len(self._heap) > 2 * len(self._plans) + limits.SCHEDULE_TURN_TICKS:
            self._heap = [entry for entry in self._heap if self._entry.get(entry[2].id) == entry[1]]
            self._heap.sort()
