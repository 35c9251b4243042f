"""The projector: folds what is durable into the tables, in bulk, a moment later.

    collect ──► executions (A) ──► jobs (B or C) ──► in turn: keys, usage, watermarks ──► projected
       │                                                 │
       '── at most three rounds at once: executions of one beside jobs of two before it

A round takes the changes of all shards, up to a bound in rows. Rounds begin every `tick_s`, and at
once while one was cut off at its bound. They are committed in their order. The watermark of a shard
is committed with the rows it speaks of, so a restart replays exactly what is missing.

    FAST --a row was there already--> MERGE --a row is refused--> CAREFUL   (within one round)
      |            ^                    ^ |
      |            '----in doubt--------' '---in doubt: again, after a pause, without end
      '--a row is refused--> CAREFUL

A shard that a later owner took over leaves the round, and is given up: that owner replays from the
log what is missing.

A round is tried until it is in the tables: when the database is away, `unprojected` grows, and
admission sheds load by it.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from taskforge_server.engine import limits
from taskforge_server.engine.journal.link import Backoff
from taskforge_server.engine.journal.rounds import (
    Fenced,
    How,
    InDoubt,
    Projection,
    ProjectionSource,
    Round,
    RowExists,
    RowsRefused,
    TableWriter,
    Turn,
    at_once,
    watermarks,
)

log = logging.getLogger(__name__)

Write = Callable[[Sequence[Projection], How, Mapping[int, int]], Awaitable[None]]


@dataclass(slots=True)
class ProjectorStatistics:
    """Counted since the start."""

    rounds: int = 0
    rows: int = 0
    repeats: int = 0
    last_s: float = 0.0
    """From the start of the newest round until it was in the tables."""


class Reach:
    """Up to when the tables know all of one shard that was durable then, but for open jobs that
    settle. A round that emptied the shard says so; while none does, the watermark comes to what
    a look had found in the log."""

    __slots__ = ("_looks", "known_s")

    def __init__(self, known_s: float) -> None:
        self.known_s = known_s
        self._looks: deque[tuple[float, int]] = deque()

    def look(self, at_s: float, durable_lsn: int) -> None:
        """So far the log was durable then."""
        if self._looks and (
            self._looks[-1][1] == durable_lsn or len(self._looks) == limits.LAG_LOOKS_MAX
        ):
            self._looks.pop()
        self._looks.append((at_s, durable_lsn))

    def written(self, watermark: int) -> None:
        """The tables know all up to there."""
        while self._looks and self._looks[0][1] <= watermark:
            self.emptied(self._looks.popleft()[0])

    def emptied(self, at_s: float) -> None:
        """The tables know all that was durable then."""
        self.known_s = max(self.known_s, at_s)


class Projector:
    """One per node. `run` in a task; sources come and go with their shards."""

    def __init__(
        self,
        tables: TableWriter,
        now_us: Callable[[], int],
        tick_s: float = 0.25,
        settle_s: float = 2.0,
    ) -> None:
        self._tables = tables
        self._now_us = now_us
        self._tick_s = tick_s
        self._settle_us = round(settle_s * 1e6)
        self._sources: dict[int, ProjectionSource] = {}
        self._slots = asyncio.Semaphore(limits.PROJECTION_ROUNDS_MAX)
        self._handed: asyncio.Queue[Round] = asyncio.Queue()
        self._wake = asyncio.Event()
        self._flushes: list[asyncio.Future[None]] = []
        self._flushing: list[asyncio.Future[None]] = []
        self._early: list[tuple[ProjectionSource, Projection]] = []
        self._newest: Round | None = None
        self._turn: Turn = at_once
        self._asked: int | None = None
        self._hurried = False
        self._reached: dict[int, Reach] = {}
        self.watermarks: dict[int, int] = {}
        """What is known to be in the tables, by shard."""
        self.statistics = ProjectorStatistics()

    def add(self, source: ProjectionSource, early: Projection | None = None) -> None:
        """A shard was taken over; `early` was collected from it already."""
        self._sources[source.number] = source
        self._reached[source.number] = Reach(time.monotonic())
        if early is not None:
            self._early.append((source, early))

    def remove(self, source: ProjectionSource) -> None:
        """The shard is gone; what was collected of it is durable, and written unless another owner
        comes first."""
        if self._sources.get(source.number) is source:
            del self._sources[source.number], self._reached[source.number]
            self.watermarks.pop(source.number, None)

    @property
    def unprojected(self) -> int:
        """Jobs with changes that the tables do not have."""
        return sum(source.unprojected for source in self._sources.values())

    @property
    def lag_s(self) -> float:
        """How old the oldest change may be that the tables lack, leaving aside open jobs that
        settle; also while rounds are cut off for longer."""
        now_s = time.monotonic()
        return now_s - min((reach.known_s for reach in self._reached.values()), default=now_s)

    def hurry(self) -> None:
        """Let the next round have open jobs too that have not settled."""
        self._hurried = True

    async def flush(self) -> None:
        """Return when everything that is durable now is in the tables, open jobs too."""
        flushed = asyncio.get_running_loop().create_future()
        self._flushes.append(flushed)
        self._wake.set()
        await flushed

    async def run(self) -> None:
        """Collect and write until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._collect_rounds(), name="projector executions")
            for number in range(limits.PROJECTION_WRITERS):
                group.create_task(self._write_jobs(), name=f"projector jobs {number}")

    async def _collect_rounds(self) -> None:
        while True:
            await self._slots.acquire()
            begun = await self._collect()
            if begun.taken:
                await self._write(self._tables.write_executions, begun)
                begun.turn, self._turn = self._turn, begun.over.wait
                self._handed.put_nowait(begun)
                self._newest = begun
            else:
                self._nothing_new(begun)
                self._slots.release()
            if begun.complete:
                await self._next_tick(begun.started_s + self._tick_s)

    def _nothing_new(self, begun: Round) -> None:
        """An empty round is over when the newest of those under way is."""
        if self._newest is None:
            self._caught_up(begun)
        else:
            self._newest.complete = True
            self._newest.collected_s = begun.collected_s
            self._newest.emptied = begun.emptied
            self._newest.flushes += begun.flushes

    async def _next_tick(self, at_s: float) -> None:
        left_s = at_s - time.monotonic()
        if self._flushes or left_s <= 0:
            return
        try:
            async with asyncio.timeout(left_s):
                await self._wake.wait()
        except TimeoutError:
            pass  # the tick has come

    async def _write_jobs(self) -> None:
        while True:
            # In a call of its own: a name here would keep the rows of the last round in memory.
            await self._write_round(await self._handed.get())

    async def _write_round(self, begun: Round) -> None:
        how = await self._write(partial(self._tables.write_jobs, turn=begun.turn), begun)
        await begun.turn()
        for source, projection in begun.taken:
            source.projected(projection, how is not How.CAREFUL)
            await asyncio.sleep(0)  # thousands of slots were freed
        for shard, lsn in watermarks(begun.projections).items():
            if shard in self._sources:
                self.watermarks[shard] = lsn
                self._reached[shard].written(lsn)
        if self._newest is begun:
            self._newest = None
        self.statistics.rounds += 1
        self.statistics.rows += begun.rows
        self.statistics.last_s = time.monotonic() - begun.started_s
        self._caught_up(begun)
        begun.over.set()
        self._slots.release()

    async def _collect(self) -> Round:
        """Ask every shard, until all have given what they have or the round is full."""
        now_s = time.monotonic()
        begun = Round(now_s, now_s)
        self._flushing += self._flushes
        self._flushes = []
        self._wake.clear()
        now_us = self._now_us()
        settled_us = now_us if self._flushing or self._hurried else now_us - self._settle_us
        self._hurried = False
        begun.taken, self._early = self._early, []
        sources = self._in_turn()
        emptied = True
        while sources and begun.rows < limits.PROJECTION_ROUND_ROWS:
            source = sources.popleft()
            self._asked = source.number
            if (reach := self._reached.get(source.number)) is not None:
                reach.look(now_s, source.durable_lsn)
            if await _take(source, settled_us, begun):
                begun.emptied.append(source.number)
            else:
                emptied = False
        begun.complete = emptied and not sources
        if begun.complete:
            begun.flushes, self._flushing = self._flushing, []
        return begun

    def _in_turn(self) -> deque[ProjectionSource]:
        """All shards, from the one behind the last that was asked: those that a full round leaves
        out begin the next one."""
        sources = deque(self._sources.values())
        if self._asked in self._sources:
            sources.rotate(-1 - list(self._sources).index(self._asked))
        return sources

    async def _write(self, write: Write, begun: Round) -> How:
        """Write until it is written; in which way it was. Each failure says which to try next."""
        how = How.FAST
        backoff = Backoff()
        while begun.taken:
            try:
                await write(begun.projections, how, begun.epochs)
            except Fenced as fence:
                log.warning("not projected: %s", fence)
                for source in begun.drop(fence.shards):
                    self.remove(source)
                    source.fenced()
            except RowExists:
                how = How.MERGE
            except RowsRefused:
                how = How.CAREFUL
            except InDoubt as error:
                log.warning("a projection is in doubt, trying again: %s", error)
                if how is How.FAST:
                    how = How.MERGE
                await backoff.pause()
            else:
                return how
            self.statistics.repeats += 1
        return how

    def _caught_up(self, written: Round) -> None:
        for shard in written.emptied:
            if (reach := self._reached.get(shard)) is not None:
                reach.emptied(written.collected_s)
        for flushed in written.flushes:
            if not flushed.done():
                flushed.set_result(None)


async def _take(source: ProjectionSource, settled_us: int, begun: Round) -> bool:
    """Add what the shard has to the round. False: it may have more."""
    for _ in range(limits.PROJECTION_ASKS_MAX):
        projection = source.collect(limits.PROJECTION_COLLECT_ROWS, settled_us)
        if projection is None:
            return True
        begun.taken.append((source, projection))
        begun.rows += projection.rows
        if 0 < projection.rows < limits.PROJECTION_COLLECT_ROWS:
            return True
        if projection.deletes or begun.rows >= limits.PROJECTION_ROUND_ROWS:
            return False
        # Without history jobs leave no rows: ask again at once, before there are new ones.
        if projection.rows:
            await asyncio.sleep(0)
    return False
