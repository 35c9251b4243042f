"""The journal: makes the decisions of all shards durable, one commit after the other.

    idle --dirty--> taking --rows--> appending --back--> on_committed / on_fenced of each shard
      ^               ^                 | ^  |                              |
      |               |    Unavailable  | |  | again, the same rows         |
      |               |                 '-'--'                              |
      '--nothing------+------------ what came meanwhile --------------------'

Group commit needs no timer: the next batch is what gathers while the last one commits. One append
is in flight. Invariant: nothing of a shard is released before its row is durable, and rows are
released in the order of their lsn; a shard that is fenced releases nothing any more.

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
from taskforge_server.engine.journal.log import LogRow, ShardLog
from taskforge_server.engine.runtime import faultpoints, safeguards

log = logging.getLogger(__name__)


class Gathering(Protocol):
    """A shard as the journal sees it: events gather, batches are taken, outcomes told."""

    @property
    def number(self) -> int: ...
    @property
    def epoch(self) -> int: ...

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


class Journal:
    """One per node. `run` in a task; `dirty` from anywhere in the same loop."""

    def __init__(self, log: ShardLog, linger_s: float = 0.0) -> None:
        self._log = log
        self._linger_s = linger_s
        self._dirty: dict[Gathering, None] = {}
        # Shards whose next batches belong together.
        self._together: set[Gathering] = set()
        self._wake: asyncio.Future[None] | None = None
        self._settled: list[asyncio.Future[None]] = []
        self._stopping = False
        self._failing = False
        self._sent_s = 0.0
        self._busy = False
        self.behind_bytes = 0
        """Bodies of the append under way."""
        self.statistics = JournalStatistics()

    @property
    def available(self) -> bool:
        """The log answers, and in good time."""
        if self._failing:
            return False
        return not self._sent_s or time.monotonic() - self._sent_s < limits.JOURNAL_SLOW_S

    def dirty(self, shard: Gathering) -> None:
        """The shard has something to say. Called once or many times, it makes no difference."""
        self._dirty[shard] = None
        if self._wake is not None:
            self._nudge()

    def together(self, shards: Iterable[Gathering]) -> None:
        """What has gathered in these shards becomes durable in all of them or in none."""
        for shard in shards:
            self._together.add(shard)
            self.dirty(shard)

    def forget(self, shard: Gathering) -> None:
        """The shard is given away or dropped; what is in flight is still told to it."""
        self._dirty.pop(shard, None)

    async def settle(self) -> None:
        """Return once everything that is gathered now is durable, or fenced."""
        if not self._dirty and not self._busy:
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
            while True:
                if not self._dirty:
                    self._tell_settled()
                    if self._stopping:
                        return
                    self._wake = asyncio.get_running_loop().create_future()
                    await self._wake
                if self._linger_s:
                    await asyncio.sleep(self._linger_s)
                self._busy = True
                if not await self._commit():
                    return
                self._busy = False
        finally:
            self._tell_settled()

    async def _commit(self) -> bool:
        """Write what the dirty shards have. False: the log is away, and we were told to stop."""
        together, self._together = self._together, set()
        shards, rows = self._take(together)
        if not together.issubset(shards):
            # One of them was lost meanwhile: what the others decided with it must not be.
            self._tear(together, shards, rows)
        if not rows:
            return True
        if not safeguards.ACTIVE.release_after_commit:
            for shard, row in zip(shards, rows, strict=True):
                shard.on_committed(row.lsn)
        mine = await self._append(rows, frozenset(shard.number for shard in together))
        if mine is None:
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
        return True

    def _take(self, together: set[Gathering]) -> tuple[list[Gathering], list[LogRow]]:
        """The batches of the dirty shards, up to a bound in bytes; the rest stays dirty, but for
        those that belong together."""
        shards: list[Gathering] = []
        rows: list[LogRow] = []
        size = 0
        waiting, self._dirty = self._dirty, {}
        for shard in waiting:
            if size >= limits.APPEND_BYTES_MAX and shard not in together:
                self._dirty[shard] = None
                continue
            batch = shard.take_batch()
            if batch is not None:
                lsn, events, body = batch
                shards.append(shard)
                rows.append(LogRow(shard.number, lsn, shard.epoch, events, body))
                size += len(body)
        self.behind_bytes = size
        return shards, rows

    def _tear(self, together: set[Gathering], shards: list[Gathering], rows: list[LogRow]) -> None:
        """Drop these shards with what they decided; their rows are not written."""
        for place in range(len(shards) - 1, -1, -1):
            if (shard := shards[place]) in together:
                del shards[place], rows[place]
                self._dirty.pop(shard, None)
                shard.on_fenced()
        together.clear()

    async def _append(self, rows: list[LogRow], whole: frozenset[int]) -> set[int] | None:
        """The shards whose row is durable; tries until that is known. None: we shall stop."""
        self._sent_s = started_s = time.monotonic()
        while True:
            try:
                mine = await self._log.append(rows, whole)
            except Unavailable as error:
                self._failing = True
                self.statistics.retries += 1
                if self._stopping:
                    log.error("stopped with %d rows whose fate is unknown", len(rows))
                    return None
                log.warning("the log is not available: %s", error.__cause__ or error)
                await asyncio.sleep(error.retry_after_s)
            else:
                self._failing = False
                self._count(rows, mine, time.monotonic() - started_s)
                self._sent_s = 0.0
                self.behind_bytes = 0
                return mine

    def _nudge(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)

    def _tell_settled(self) -> None:
        settled, self._settled = self._settled, []
        for future in settled:
            if not future.done():
                future.set_result(None)

    def _count(self, rows: list[LogRow], mine: set[int], took_s: float) -> None:
        statistics = self.statistics
        statistics.commits += 1
        for row in rows:
            if row.shard in mine:
                statistics.rows += 1
                statistics.events += row.events
                statistics.bytes += len(row.body)
        statistics.last_s = took_s
        if statistics.commits == 1:
            statistics.average_s = took_s
        statistics.average_s += AVERAGE_SHARE * (took_s - statistics.average_s)
