"""The scheduler: makes the jobs of schedules at their ticks, on the node that owns their queues.

    rows ──news, re-reading──► book ──timer──► ticks of one turn ──► `TickDecider`: jobs, durable
      ▲                                                                    │
      └────────────────────────── decided ◄────────────────────────────────┘──► Redis: next runs

One job a tick, whatever happens: the keyed submit makes it or finds it. The row is written after
the job is durable, so an owner that dies in between leaves a tick that looks undecided, and whoever
takes the shard over finds the key of its job in the log. Of two nodes that both think they own the
shard, the log refuses what one of them submits. No turn is written while the one before is not:
what is decided here is never far ahead of what the rows say.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import timedelta
from typing import Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.actors.schedulebook import Plan, ScheduleBook
from taskforge_server.engine.cluster.port import SCHEDULE_CHANGED, Cluster
from taskforge_server.engine.errors import InvalidInput, TaskForgeError
from taskforge_server.engine.model.cron import NEVER_US, rule_of
from taskforge_server.engine.node.core import Core
from taskforge_server.engine.node.ticks import (
    YIELD_TICKS,
    Doors,
    Makers,
    Tick,
    TickDecider,
    TickRows,
)
from taskforge_server.engine.node.workerrows import EPOCH, moment
from taskforge_server.engine.runtime import faultpoints
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.engine.store.schedules import Decided, PlanRow

log = logging.getLogger(__name__)

MICROSECOND = timedelta(microseconds=1)
RETRY_US = round(limits.SCHEDULE_RETRY_S * 1e6)
LOOK_S_MAX = 60.0
"""Time may be corrected: the timer looks again after this long, whatever it was told."""


class Rows(TickRows, Protocol):
    """Where the schedules are."""

    async def revisions(self, shards: Sequence[int]) -> dict[bytes, int]: ...
    async def plans(self, schedule_ids: Sequence[bytes]) -> list[PlanRow]: ...
    async def decided(self, ticks: Iterable[Decided]) -> None: ...


class Scheduler:
    """`run` and `watch` go on for as long as the node does."""

    def __init__(
        self,
        core: Core,
        doors: Doors,
        rows: Rows,
        cluster: Cluster,
        moved: Callable[[int, bytes, int | None], None] | None = None,
    ) -> None:
        """`moved` hears of the next tick of each schedule, by shard; None: it is gone."""
        self._core = core
        self._rows = rows
        self._cluster = cluster
        self._decider = TickDecider(core, doors, rows)
        self.book = ScheduleBook(self._moved)
        self._tell = moved
        self._reading = asyncio.Lock()
        self._gap = True
        self._heard: set[bytes] = set()
        self._news = asyncio.Event()
        self._due = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        cluster.subscribe(SCHEDULE_CHANGED, self._hear, self._miss)
        core.shard_listeners.append(self._miss)

    # what others look at

    def _moved(self, plan: Plan, there: bool) -> None:
        if self._tell is not None:
            self._tell(plan.shard.number, plan.id, plan.next_us if there else None)

    def shard_numbers(self) -> Iterable[int]:
        """The shards whose schedules are this node's to run."""
        return self._core.shards

    def runs(self, shard: int) -> dict[bytes, int]:
        """When the shard's schedules tick next."""
        return {plan.id: plan.next_us for plan in self._plans(shard).values()}

    def count(self, shard: int) -> int:
        """How many these are."""
        return len(self._plans(shard))

    def _plans(self, number: int) -> dict[bytes, Plan]:
        shard = self._core.shards.get(number)
        return {} if shard is None else self.book.of_shard(shard)

    def use(self, makers: Makers) -> None:
        """From here on jobs can be made."""
        self._decider.makers = makers
        self._due.set()

    # what there is to do

    async def changed(self, schedule_id: bytes) -> None:
        """This node has changed the schedule: when this returns it holds here; others are told."""
        try:
            await self._read([schedule_id])
        except TaskForgeError as error:
            log.warning("a schedule was not read, and will be: %s", error)
            self._miss()
        self._cluster.publish(SCHEDULE_CHANGED, schedule_id)

    async def watch(self) -> None:
        """Read what was told, and now and then what is different."""
        while True:
            try:
                async with asyncio.timeout(limits.SCHEDULES_READ_S):
                    await self._news.wait()
            except TimeoutError:
                self._gap = True  # a message may have been lost
            # What is told in quick succession is read once.
            await asyncio.sleep(limits.ROSTER_READ_PAUSE_S)
            self._news.clear()
            gap, heard = self._gap, self._heard
            self._gap, self._heard = False, set()
            try:
                await self._read(None if gap else heard)
            except TaskForgeError as error:
                log.warning("schedules not read: %s", error)
                self._gap = True

    def _hear(self, message: bytes) -> None:
        self._heard.add(message)
        self._news.set()

    def _miss(self) -> None:
        self._gap = True
        self._news.set()

    async def _read(self, schedule_ids: Collection[bytes] | None) -> None:
        """The rows of these; None: of all that are other than they are known here."""
        async with self._reading:
            shards = dict(self._core.shards)
            if schedule_ids is None:
                schedule_ids = await self._different(shards)
            wanted = list(schedule_ids)
            for at in range(0, len(wanted), limits.SCHEDULES_READ_ROWS):
                part = wanted[at : at + limits.SCHEDULES_READ_ROWS]
                rows = {row.id: row for row in await self._rows.plans(part)}
                for schedule_id in part:
                    self._put(schedule_id, rows.get(schedule_id), shards)
                self._due.set()

    async def _different(self, shards: dict[int, Shard]) -> list[bytes]:
        book = self.book
        for shard in book.shards():
            if shards.get(shard.number) is not shard:
                book.drop_shard(shard)
        revisions = await self._rows.revisions(list(shards))
        for shard in book.shards():
            for schedule_id in book.of_shard(shard).keys() - revisions.keys():
                book.remove(schedule_id)
        return [
            schedule_id
            for schedule_id, revision in revisions.items()
            if (plan := book.get(schedule_id)) is None or plan.revision != revision
        ]

    def _put(self, schedule_id: bytes, row: PlanRow | None, shards: dict[int, Shard]) -> None:
        shard = None if row is None else shards.get(row.shard)
        if row is None or shard is None or self._core.shards.get(row.shard) is not shard:
            self.book.remove(schedule_id)
            return
        try:
            rule = rule_of(row.cron, row.timezone)
        except InvalidInput as error:
            log.error("schedule %s cannot be understood: %s", schedule_id.hex(), error)
            self.book.remove(schedule_id)
            return
        plan = Plan(
            id=row.id,
            project_id=row.project_id,
            queue_id=row.queue_id,
            shard=shard,
            rule=rule,
            job=row.job.encode(),
            payload=None if row.payload is None else row.payload.encode(),
            catch_up=row.catch_up,
            window_s=row.window_s,
            overlap=row.overlap,
            jitter_s=row.jitter_s,
            decided_us=(row.decided_at - EPOCH) // MICROSECOND,
            last_job_id=row.last_job_id,
            revision=row.revision,
        )
        self.book.put(plan, self._core.clock.now_us())

    # ticks

    async def run(self) -> None:
        """Decide ticks when they come."""
        while True:
            await self._next()
            if self._decider.makers is not None:
                await self.turn()

    async def _next(self) -> None:
        """Wait until somebody has to look."""
        next_us = self.book.next_us() if self._decider.makers is not None else NEVER_US
        delay_s = LOOK_S_MAX
        if next_us != NEVER_US:
            delay_s = min(delay_s, (next_us - self._core.clock.now_us()) / 1e6)
        if delay_s > 0:
            try:
                async with asyncio.timeout(delay_s):
                    await self._due.wait()
            except TimeoutError:
                pass  # it is time
        self._due.clear()

    async def turn(self) -> None:
        """Decide what is due, up to a bound."""
        now_us = self._core.clock.now_us()
        taken = self.book.take(now_us, limits.SCHEDULE_TURN_TICKS)
        ticks = [Tick(plan, tick_us) for plan, tick_us in taken]
        if not ticks:
            return
        try:
            await self._decider.decide(ticks)
        except TaskForgeError as error:
            log.warning("%d ticks of schedules are put off: %s", len(ticks), error)
        except Exception:
            log.exception("%d ticks of schedules are put off", len(ticks))
        decided = await self._settle(ticks)
        if decided:
            await self.written()
            self._writing = asyncio.create_task(self._write(decided), name="ticks")

    async def _settle(self, ticks: list[Tick]) -> list[tuple[Tick, Decided]]:
        """Back into the book; what is to be written."""
        now_us = self._core.clock.now_us()
        counters, decided = self._core.counters, []
        for place, tick in enumerate(ticks):
            if place % YIELD_TICKS == YIELD_TICKS - 1:
                await asyncio.sleep(0)
            plan = tick.plan
            if not tick.settled:
                self.book.put_off(plan, now_us + RETRY_US)
                continue
            next_us = self.book.decided(plan, tick.us, tick.job_id, now_us)
            next_at = None if next_us == NEVER_US else moment(next_us)
            row = Decided(
                plan.id, moment(tick.us), tick.job_id, tick.problem, next_at, plan.revision
            )
            decided.append((tick, row))
            if tick.job_id is None:
                counters.ticks_skipped += 1
            else:
                counters.ticks_submitted += 1
                counters.schedule_lag_s.observe((now_us - tick.us) / 1e6)
        return decided

    async def written(self) -> None:
        """Returns when the rows of all turns that have ended are written."""
        if self._writing is not None:
            await self._writing

    async def _write(self, decided: list[tuple[Tick, Decided]]) -> None:
        faultpoints.hit(faultpoints.AFTER_TICK_BEFORE_ROW)
        while True:
            try:
                await self._rows.decided(row for _, row in decided)
                break
            except TaskForgeError as error:
                log.warning("ticks not written: %s", error)
                await asyncio.sleep(limits.SCHEDULE_RETRY_S)
        for tick, _ in decided:
            if tick.job_id is not None:
                self._core.keys.forget(tick.plan.project_id, tick.key.key)
