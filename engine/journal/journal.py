"""The journal: makes the decisions of all shards durable, in two lanes that commit side by side.

    lane:   idle --dirty--> taking --rows--> appending --back--> on_committed / on_fenced of each
              ^               ^                 | ^  |                              |
              |               |    Unavailable  | |  | again, the same rows         |
              |               |                 '-'--'                              |
              '--nothing------+------------ what came meanwhile --------------------'

    quick   shards with little to say, all of them in one commit
    bulk    shards with more than QUICK_EVENTS_MAX events: a commit of megabytes takes tens of
            milliseconds, and only those who fill it wait for it

Group commit needs no timer: the next batch of a lane is what gathers while its last one commits. A
shard is in one lane at a time, with one append in flight. Invariant: nothing of a shard is released
before its row is durable, and rows are released in the order of their lsn; a shard that is fenced
releases nothing any more.

When the log does not answer, the same rows are tried again until it does or `stop` gives up, and
`available` is false meanwhile, so that admission can close.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.journal.busypoll import BusyPoll
from taskforge_server.engine.journal.log import LogRow, ShardLog
from taskforge_server.engine.journal.pace import Pace
from taskforge_server.engine.runtime import faultpoints, safeguards

log = logging.getLogger(__name__)


class Gathering(Protocol):
    """A shard as the journal sees it: events gather, batches are taken, outcomes told."""

    @property
    def number(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def gathered_events(self) -> int: ...

    def take_batch(self) -> tuple[int, int, bytes] | None:
        """(lsn, events, body) of what gathered since the last call."""
        ...

    def on_committed(self, lsn: int) -> None:
        """The row at this lsn is durable."""
        ...

    def on_fenced(self) -> None:
        """Another owner has written there: the shard is lost."""
        ...


@dataclass(slots=True)
class JournalStatistics:
    """Counted since the start; durations are those of whole appends, retries included."""

    commits: int = 0
    rows: int = 0
    events: int = 0
    bytes: int = 0
    fenced: int = 0
    retries: int = 0
    last_s: float = 0.0
    average_s: float = 0.0
    """Weighted towards the newest commits."""


AVERAGE_SHARE = 0.05
_NONE: frozenset[int] = frozenset()


class _Lane:
    """One commit at a time."""

    __slots__ = ("behind_bytes", "bulk", "failing", "sent_s", "wake")

    def __init__(self, *, bulk: bool) -> None:
        self.bulk = bulk
        self.wake: asyncio.Future[None] | None = None
        self.failing = False
        self.sent_s = 0.0
        """Since when the append under way is tried; 0: none is."""
        self.behind_bytes = 0

    def is_late(self, late_s: float) -> bool:
        """It does not come through, or its append is under way since then or longer."""
        return self.failing or 0 < self.sent_s <= late_s

    def nudge(self) -> None:
        """Wake it if it sleeps."""
        wake, self.wake = self.wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)


class Journal:
    """One per node. `run` in a task; `dirty` from anywhere in the same loop."""

    def __init__(
        self, log: ShardLog, linger_s: float = 0.0, busy_poll: BusyPoll | None = None
    ) -> None:
        self._log = log
        self._linger_s = linger_s
        self._dirty: dict[Gathering, None] = {}
        # Shards whose next batches belong together.
        self._together: set[Gathering] = set()
        self._flying: set[Gathering] = set()
        # When a shard has last filled the log, and when any has.
        self._filled_s: dict[int, float] = {}
        self._last_filled_s = 0.0
        self._quick, self._bulk = _Lane(bulk=False), _Lane(bulk=True)
        self._settled: list[asyncio.Future[None]] = []
        self._stopping = False
        self._busy_poll = busy_poll or BusyPoll()
        self.pace = Pace()
        self.statistics = JournalStatistics()

    @property
    def crowded(self) -> bool:
        """Tenants share the log: whoever has much to say does so in portions."""
        return self.pace.crowded

    @property
    def available(self) -> bool:
        """The log answers, and in good time."""
        late_s = time.monotonic() - limits.JOURNAL_SLOW_S
        return not (self._quick.is_late(late_s) or self._bulk.is_late(late_s))

    @property
    def behind_bytes(self) -> int:
        """Bodies of the appends under way."""
        return self._quick.behind_bytes + self._bulk.behind_bytes

    def dirty(self, shard: Gathering) -> None:
        """The shard has something to say. Called once or many times, it makes no difference."""
        self._dirty[shard] = None
        self._lane_of(shard).nudge()

    def together(self, shards: Iterable[Gathering]) -> None:
        """What has gathered in these shards becomes durable in all of them or in none."""
        for shard in shards:
            self._together.add(shard)
            self.dirty(shard)

    def forget(self, shard: Gathering) -> None:
        """The shard is given away or dropped; what is in flight is still told to it."""
        self._dirty.pop(shard, None)
        self._filled_s.pop(shard.number, None)

    async def settle(self) -> None:
        """Return once everything that is gathered now is durable, or fenced."""
        if self._idle:
            return
        settled = asyncio.get_running_loop().create_future()
        self._settled.append(settled)
        await settled

    def stop(self) -> None:
        """Let `run` end: after what is gathered is written, or at once when the log is away."""
        self._stopping = True
        self._nudge()

    async def run(self) -> None:
        """Commit until stopped."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._run_lane(self._quick, self._bulk))
                tasks.create_task(self._run_lane(self._bulk, self._quick))
        finally:
            self._tell_settled()

    async def _run_lane(self, lane: _Lane, other: _Lane) -> None:
        while True:
            if self._dirty or self._together:
                together = self._whole()
                shards, rows = self._take(lane, together)
                if self._dirty:
                    other.nudge()  # what grew since it was dirty may have come to belong there
                if together and not together.issubset(shards):
                    # One of them was lost meanwhile: what the others decided with it must not be.
                    self._tear(together, shards, rows)
                if rows:
                    if not await self._commit(lane, shards, rows, together):
                        return
                    if lane.bulk and (pause_s := self.pace.pause_s) and not self._stopping:
                        await asyncio.sleep(pause_s)
                    continue
            if self._idle:
                self._tell_settled()
                if self._stopping:
                    self._nudge()
                    return
            lane.wake = asyncio.get_running_loop().create_future()
            await lane.wake
            if self._linger_s:
                await asyncio.sleep(self._linger_s)

    async def _commit(
        self,
        lane: _Lane,
        shards: list[Gathering],
        rows: list[LogRow],
        together: set[Gathering],
    ) -> bool:
        """Write these rows. False: the log is away, and we were told to stop."""
        if not safeguards.ACTIVE.release_after_commit:
            for shard, row in zip(shards, rows, strict=True):
                shard.on_committed(row.lsn)
        whole = frozenset(shard.number for shard in together) if together else _NONE
        mine = await self._append(lane, rows, whole)
        self._flying.difference_update(shards)
        if mine is None:
            self._nudge()
            return False
        faultpoints.hit(faultpoints.AFTER_COMMIT_BEFORE_RELEASE)
        if not safeguards.ACTIVE.fence:
            mine = {row.shard for row in rows}
        for shard, row in zip(shards, rows, strict=True):
            if row.shard not in mine:
                log.warning("shard %d is fenced at lsn %d", row.shard, row.lsn)
                self.statistics.fenced += 1
                self._dirty.pop(shard, None)
                shard.on_fenced()
            elif safeguards.ACTIVE.release_after_commit:
                shard.on_committed(row.lsn)
        self._count(rows, mine)
        if self._dirty or self._stopping:
            self._nudge()  # a shard that flew may have something for the other lane
        return True

    def _whole(self) -> set[Gathering]:
        """Those that belong together, once none of them flies; they go by any lane."""
        if self._together & self._flying:
            return set()
        together, self._together = self._together, set()
        return together

    def _take(self, lane: _Lane, together: set[Gathering]) -> tuple[list[Gathering], list[LogRow]]:
        """The batches of the lane's shards, up to a bound in bytes, and those that belong together;
        the rest stays dirty."""
        shards: list[Gathering] = []
        rows: list[LogRow] = []
        size = 0
        for shard in list(self._dirty):
            if shard not in together and (
                shard in self._flying
                or shard in self._together
                or size >= limits.APPEND_BYTES_MAX
                or not (self._stopping or self._lane_of(shard) is lane)
            ):
                continue
            del self._dirty[shard]
            batch = shard.take_batch()
            if batch is not None:
                lsn, events, body = batch
                shards.append(shard)
                rows.append(LogRow(shard.number, lsn, shard.epoch, events, body))
                size += len(body)
        self._flying.update(shards)
        lane.behind_bytes = size
        return shards, rows

    def _tear(self, together: set[Gathering], shards: list[Gathering], rows: list[LogRow]) -> None:
        """Drop these shards with what they decided; their rows are not written."""
        for place in range(len(shards) - 1, -1, -1):
            if (shard := shards[place]) in together:
                del shards[place], rows[place]
                self._dirty.pop(shard, None)
                self._flying.discard(shard)
                shard.on_fenced()
        together.clear()

    def _lane_of(self, shard: Gathering) -> _Lane:
        return self._bulk if shard.gathered_events > limits.QUICK_EVENTS_MAX else self._quick

    @property
    def _idle(self) -> bool:
        return not self._dirty and not self._flying

    async def _append(
        self, lane: _Lane, rows: list[LogRow], whole: frozenset[int]
    ) -> set[int] | None:
        """The shards whose row is durable; tries until that is known. None: we shall stop."""
        lane.sent_s = started_s = time.monotonic()
        shared = self._bulk.sent_s
        while True:
            try:
                mine = await self._send(rows, whole)
            except Unavailable as error:
                lane.failing = True
                self.statistics.retries += 1
                if self._stopping:
                    log.error("stopped with %d rows whose fate is unknown", len(rows))
                    return None
                log.warning("the log is not available: %s", error.__cause__ or error)
                await asyncio.sleep(error.retry_after_s)
            else:
                lane.failing = False
                self.statistics.last_s = took_s = time.monotonic() - started_s
                if lane.bulk:
                    self._last_filled_s = time.monotonic()
                    self._filled_s.update((row.shard, self._last_filled_s) for row in rows)
                elif shared or self._bulk.sent_s or self._others_filled(rows, started_s):
                    self.pace.shared(took_s)
                lane.sent_s = 0.0
                lane.behind_bytes = 0
                return mine

    async def _send(self, rows: list[LogRow], whole: frozenset[int]) -> set[int]:
        """One try. For a lone commit the loop stays awake, unless much is done beside it."""
        lone = len(rows) == 1 and rows[0].events <= limits.BUSY_POLL_EVENTS_MAX
        if not lone or self._last_filled_s > time.monotonic() - limits.FILLED_S:
            return await self._log.append(rows, whole)
        self._busy_poll.begin()
        try:
            return await self._log.append(rows, whole)
        finally:
            self._busy_poll.end()

    def _others_filled(self, rows: list[LogRow], now_s: float) -> bool:
        """Shards without any of these rows have filled the log, and it is still to be projected."""
        since_s = now_s - limits.FILLED_S
        return self._last_filled_s > since_s and any(
            self._filled_s.get(row.shard, 0.0) <= since_s for row in rows
        )

    def _nudge(self) -> None:
        self._quick.nudge()
        self._bulk.nudge()

    def _tell_settled(self) -> None:
        settled, self._settled = self._settled, []
        for future in settled:
            if not future.done():
                future.set_result(None)

    def _count(self, rows: list[LogRow], mine: set[int]) -> None:
        statistics = self.statistics
        statistics.commits += 1
        for row in rows:
            if row.shard in mine:
                statistics.rows += 1
                statistics.events += row.events
                statistics.bytes += len(row.body)
        if statistics.commits == 1:
            statistics.average_s = statistics.last_s
        statistics.average_s += AVERAGE_SHARE * (statistics.last_s - statistics.average_s)
