"""Which of the waiting jobs are in memory: the first of each lane, and what comes due soon.

    memory ──lane too long, due beyond the horizon──► let go ──► the row alone
       ▲                                                              │
       └──few are left that may start, due soon, asked for by id──────┘

A lane is the jobs of one type in one queue. While jobs of it are away, its table starts none behind
them; the pager reads the next ones before the others run out. What may leave and how rows are taken
in stands in the table (ext/pure/tableaway.py): here is when.

    resident_jobs_max   R   a lane with more than R waiting jobs lets the last go, down to R/2
    ahead             R/4   when fewer jobs than that are left that may start, the next are read
    page                    rows read at once: as many, but at most PAGE_JOBS_MAX

Of one shard one thing is read at a time. A shard is read page by page, commands come in between.
A node whose memory is half full keeps an eighth of R. Jobs of a shard of which the tables refused a
row are not let go: that row is not there.

Workers may end jobs faster than the tables take them, and what ended stays in memory until they
have it. So while that is too much, the shards that it is of bring no more jobs (`_behind`): a
backlog is worked off as fast as the tables take what ended, in bounded memory.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

from taskforge_server.engine import limits
from taskforge_server.engine.errors import EnvironmentalError, Unavailable
from taskforge_server.engine.journal.takeover import LAST_ID, WaitingJobs
from taskforge_server.engine.node.core import Core
from taskforge_server.engine.runtime import faultpoints
from taskforge_server.engine.shard.shard import Shard
from taskforge_server.ext.table import ShardTable, split_rows

log = logging.getLogger(__name__)

NEAR_SHARE = 0.5
"""Of the horizon: when what was read reaches no further, the next is read."""
ROW_ID = 6
"""Where the id stands in a row of binary COPY."""
PRESSED_SHARE = 8
"""What a node under pressure keeps is smaller by this."""


@dataclass(slots=True)
class _Reader:
    """What is being read for one shard."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    asked: dict[bytes, "asyncio.Future[None]"] = field(default_factory=dict)
    """Jobs that somebody waits for, by id."""
    task: "asyncio.Task[None] | None" = None
    bringing: "asyncio.Task[None] | None" = None
    let_go_us: int = 0


class Pager:
    """One per node. `run` in a task; `bring` from anywhere in the same loop."""

    def __init__(
        self,
        core: Core,
        rows: WaitingJobs,
        resident_jobs_max: int = limits.RESIDENT_JOBS_DEFAULT,
        pressed: Callable[[], bool] = lambda: False,
        refused: Callable[[], Collection[int]] = lambda: (),
        hurry: Callable[[], None] = lambda: None,
    ) -> None:
        """`pressed`: whether the node has little memory left. `refused`: shards of which the tables
        did not take some row. `hurry` is called while jobs are in memory that could be let go if
        the tables knew them."""
        self._core = core
        self._rows = rows
        self._resident_jobs_max = resident_jobs_max
        self._pressed = pressed
        self._refused = refused
        self._hurry = hurry
        self._readers: dict[Shard, _Reader] = {}
        self._turns = asyncio.Semaphore(limits.PAGERS_MAX)
        self.pages = 0
        """Read since the start."""

    @property
    def resident_jobs_max(self) -> int:
        """How many jobs of a lane may wait in memory now."""
        most = self._resident_jobs_max
        return max(limits.RESIDENT_JOBS_MIN, most // PRESSED_SHARE) if self._pressed() else most

    @property
    def page_jobs(self) -> int:
        """How many rows are read at once."""
        return page_jobs(self.resident_jobs_max)

    @property
    def ahead_jobs(self) -> int:
        """With fewer jobs of a lane that may start, the next ones are read."""
        return max(1, self.resident_jobs_max // 4)

    @property
    def reading(self) -> bool:
        """Jobs of some shard are being read because it is their turn."""
        return any(reader.task is not None for reader in self._readers.values())

    # the service

    async def run(self) -> None:
        """Look at all shards, again and again."""
        while True:
            away = await self.turn()
            await asyncio.sleep(limits.PAGE_LOOK_S if away else limits.PAGE_LOOK_IDLE_S)

    async def stop(self) -> None:
        """Read nothing more."""
        tasks = [
            task
            for reader in self._readers.values()
            for task in (reader.task, reader.bringing)
            if task is not None
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def turn(self) -> bool:
        """One look: let go of what need not be here, begin to read what must come. Whether jobs may
        be in the tables alone."""
        now_us = self._core.clock.monotonic_us()
        for shard in [shard for shard in self._readers if shard.lost]:
            self._forget(shard)
        crowded = away = False
        ahead_jobs, soon_us = self.ahead_jobs, self._soon_us(NEAR_SHARE)
        behind = self._behind()
        for shard in list(self._core.shards.values()):
            reader = self._reader(shard)
            away |= may_be_away(shard)
            if now_us - reader.let_go_us >= limits.LET_GO_S * 1e6 or not reader.let_go_us:
                reader.let_go_us = now_us
                if shard.table.jobs_resident:
                    crowded |= await self._let_go(shard)
            may_read = reader.task is None and not shard.lost and shard not in behind
            if may_read and self._wants(shard, ahead_jobs, soon_us):
                reader.task = asyncio.create_task(
                    self._read(shard, reader), name=f"page shard {shard.number}"
                )
        if crowded:
            self._hurry()
        return away

    def _reader(self, shard: Shard) -> _Reader:
        reader = self._readers.get(shard)
        if reader is None:
            reader = self._readers[shard] = _Reader()
        return reader

    def _forget(self, shard: Shard) -> None:
        reader = self._readers.pop(shard)
        for asked in reader.asked.values():
            if not asked.done():
                asked.set_exception(Unavailable(limits.UNAVAILABLE_RETRY_S))

    # letting go

    async def _let_go(self, shard: Shard) -> bool:
        """Let go of the shard's jobs beyond the bound; whether some lane is still beyond it."""
        most, table = self.resident_jobs_max, shard.table
        if shard.number in self._refused():
            return False
        self._let_go_scheduled(shard, most)
        if table.jobs_resident - table.unprojected <= most:
            # Hardly anybody may leave yet: it is not worth a look at all who wait. Those behind
            # jobs that are away leave by themselves.
            return bool(table.crowded(most))
        for index, job_type, _ in shard.table.crowded(most):
            # The table may be read, or gone, after each pause.
            while not shard.lost and not shard.table.reading:
                released = shard.table.release(index, job_type, most // 2, limits.PAGE_JOBS_MAX)
                await asyncio.sleep(0)
                if released < limits.PAGE_JOBS_MAX:
                    break
        return bool(shard.table.crowded(most))

    def _let_go_scheduled(self, shard: Shard, most: int) -> None:
        table = shard.table
        if table.reading:
            return
        after_us = self._core.clock.now_us() + round(limits.HORIZON_S * 1e6)
        if latest_us := table.due_at(most):
            # Too many within the horizon. If they are all due at once, the time before that.
            middle_us = table.due_at(most // 2)
            after_us = min(after_us, middle_us if middle_us < latest_us else middle_us - 1)
        table.release_scheduled(after_us)

    # reading

    def _behind(self) -> set[Shard]:
        """The shards of which too many jobs that ended wait for the tables. Not those of which few
        do, be there ever so many of others."""
        most = limits.PAGING_ENDED_MAX
        few = min(limits.PAGE_JOBS_MAX, most // max(1, len(self._core.shards)))
        # What ended is among the unprojected: as a rule there are too few even of these to count.
        shards = [shard for shard in self._core.shards.values() if shard.table.unprojected > few]
        if sum(shard.table.unprojected for shard in shards) <= most:
            return set()
        ended = {shard: shard.table.ended for shard in shards}
        if sum(ended.values()) <= most:
            return set()
        return {shard for shard, jobs in ended.items() if jobs > few}

    def _wants(self, shard: Shard, ahead_jobs: int, soon_us: int) -> bool:
        return bool(shard.table.short(ahead_jobs)) or self._wants_due(shard, soon_us)

    def _wants_due(self, shard: Shard, soon_us: int) -> bool:
        """`soon_us`: what is due later need not come yet."""
        table, place = shard.table, shard.table.due_place()
        if place is None or place[0] >= soon_us:
            return False
        many_us = table.due_at(self.resident_jobs_max // 2)
        if 0 < many_us <= place[0]:
            return False
        # Jobs that cannot leave, held ones or those due in a year, may be many: what is due soon
        # comes nevertheless.
        if many_us and place[0] >= self._soon_us(limits.HORIZON_SOON_SHARE):
            return False
        # A herd that is due waits in the tables while memory is full of jobs that wait already; not
        # sooner, for one that nobody takes would hold up what others have scheduled in this shard.
        return not (self._pressed() and table.crowded(2 * self.resident_jobs_max))

    def _soon_us(self, share: float) -> int:
        """This share of the horizon from now."""
        return self._core.clock.now_us() + round(limits.HORIZON_S * share * 1e6)

    async def _read(self, shard: Shard, reader: _Reader) -> None:
        try:
            async with self._turns:
                for index, queue_id, job_type in shard.table.short(self.ahead_jobs):
                    async with reader.lock:
                        await self._read_page(shard, index, queue_id, job_type)
                if not shard.lost and self._wants_due(shard, self._soon_us(NEAR_SHARE)):
                    async with reader.lock:
                        await self._read_due(shard)
        except EnvironmentalError as error:
            log.warning("the waiting jobs of shard %d cannot be read: %s", shard.number, error)
            await asyncio.sleep(limits.UNAVAILABLE_RETRY_S)
        except Exception:
            # Its jobs would wait for ever.
            log.exception("the waiting jobs of shard %d cannot be taken in", shard.number)
            shard.give_up()
        finally:
            reader.task = None

    async def _read_page(self, shard: Shard, index: int, queue_id: bytes, job_type: str) -> None:
        table, rows_max = shard.table, self.page_jobs
        if shard.lost:
            return
        table.begin_reading()
        whole = 0
        try:
            place = table.place(index, job_type)
            chunks = self._rows.page(shard.number, queue_id, job_type, place, rows_max)
            await _each(chunks, partial(table.next_in, index, job_type))
            whole = rows_max
            faultpoints.hit(faultpoints.IN_PAGE)
        finally:
            await _end_reading(table, whole)
        self.pages += 1
        self._core.grown(shard.number)

    async def _read_due(self, shard: Shard) -> None:
        table, rows_max = shard.table, self.page_jobs
        until_us = self._core.clock.now_us() + round(limits.HORIZON_S * 1e6)
        place = table.due_place()
        if shard.lost or place is None:
            return
        table.begin_reading()
        try:
            chunks = self._rows.due(shard.number, place, until_us, rows_max)
            if await _each(chunks, table.due_in) < rows_max:
                table.due_read(until_us, LAST_ID)
        finally:
            await _end_reading(table)
        self.pages += 1
        self._core.grown(shard.number)

    # by id

    async def bring(self, shard: Shard, job_id: bytes) -> None:
        """Returns when the job is in memory, if it waits; Unavailable."""
        if shard.table.get(job_id) is not None or not may_be_away(shard):
            return
        reader = self._reader(shard)
        asked = reader.asked.get(job_id)
        if asked is None:
            asked = reader.asked[job_id] = asyncio.get_running_loop().create_future()
        if reader.bringing is None:
            reader.bringing = asyncio.create_task(
                self._bring_asked(shard, reader), name=f"bring jobs of shard {shard.number}"
            )
        await asyncio.shield(asked)

    async def bring_some(
        self, shard: Shard, queue_id: bytes, after: bytes, most: int
    ) -> list[bytes]:
        """Bring the next waiting jobs of a queue behind an id; the ids of those that wait."""
        ids: list[bytes] = []

        def take(data: bytes) -> int:
            ids.extend(data[start + ROW_ID : start + ROW_ID + 16] for start, _ in split_rows(data))
            return table.fault_in(data)

        async with self._reader(shard).lock:
            table = shard.table
            if shard.lost:
                raise Unavailable(limits.UNAVAILABLE_RETRY_S)
            table.begin_reading()
            try:
                await _each(self._rows.of_queue(queue_id, after, most), take)
            finally:
                await _end_reading(table)
        return ids

    async def _bring_asked(self, shard: Shard, reader: _Reader) -> None:
        """All that is asked for, a portion at a time."""
        try:
            while reader.asked and not shard.lost:
                async with reader.lock:
                    portion = list(reader.asked.items())[: limits.PAGE_JOBS_MAX]
                    for job_id, _ in portion:
                        del reader.asked[job_id]
                    await self._bring(shard, dict(portion))
        finally:
            reader.bringing = None
            # The shard is lost, or something failed: nobody else would answer those.
            _answer(reader.asked, Unavailable(limits.UNAVAILABLE_RETRY_S))
            reader.asked.clear()

    async def _bring(self, shard: Shard, asked: dict[bytes, "asyncio.Future[None]"]) -> None:
        table = shard.table
        if shard.lost:
            _answer(asked, Unavailable(limits.UNAVAILABLE_RETRY_S))
            return
        table.begin_reading()
        failure: Exception | None = Unavailable(limits.UNAVAILABLE_RETRY_S)
        try:
            await _each(self._rows.named(b"".join(asked)), table.fault_in)
            failure = None
        except EnvironmentalError as error:
            failure = error
        finally:
            await _end_reading(table)
            _answer(asked, failure)


def page_jobs(resident_jobs_max: int) -> int:
    """How many rows are read at once where so many jobs of a lane may be here."""
    return min(limits.PAGE_JOBS_MAX, max(1, resident_jobs_max // 4))


def may_be_away(shard: Shard) -> bool:
    """Whether jobs of the shard may be in the tables alone."""
    return not shard.counted or shard.table.away_jobs != 0


async def _end_reading(table: ShardTable, rows_max: int = 0) -> None:
    """The rows have come: what ended meanwhile leaves, and others have their turn in between."""
    over = table.end_reading(rows_max, limits.LEAVE_JOBS)
    while not over:
        await asyncio.sleep(0)
        over = table.end_reading(rows_max, limits.LEAVE_JOBS)


async def _each(chunks: AsyncGenerator[bytes, None], take: Callable[[bytes], int]) -> int:
    """Let the table take the chunks; how many rows they had."""
    rows = 0
    async with aclosing(chunks):
        async for chunk in chunks:
            rows += take(chunk)
            await asyncio.sleep(0)
    return rows


def _answer(asked: "dict[bytes, asyncio.Future[None]]", failure: Exception | None) -> None:
    """Who waits for these jobs may look now."""
    for waiting in asked.values():
        if waiting.done():
            continue
        if failure is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(failure)
