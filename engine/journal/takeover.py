"""Taking shards over: from the log's word that they are ours to tables that are ready to decide.

    read heads ──► append `owned` at head + 1, epoch + 1 ──refused──► read heads again
                              │ ours: every earlier owner is fenced, in the tables too
                              ▼
    watermark ──► running jobs ──► log rows above it, and the jobs that they name
                  ──► waiting jobs that must be here, the first of the others ──► given away

The tables are fenced first, then the watermark is read: an earlier owner writes no rows after that,
and the table knows by the lsn of each row what is old. Rows of the log must be dense from watermark
to head; a gap means that the log was damaged, and stops the takeover with its place.

The shard works when the jobs that run and the first that wait are there. The others stay in the
tables until it is their turn: they are away (ext/pure/tableaway.py), and the pager brings them. How
many there are is counted meanwhile, in the tables as they were before the shard was given away.

All shards of a call share the round trips for heads, appends, watermarks and the log; then one is
brought up after the other, so that the first can work before the last is there.
"""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.journal.log import LogRow, ShardLog
from taskforge_server.engine.journal.rounds import Projection
from taskforge_server.engine.model.graph import unpacked
from taskforge_server.engine.runtime import faultpoints
from taskforge_server.engine.shard.family import MARK, parents_of
from taskforge_server.ext.pure import tablelog

StoredKey: TypeAlias = tuple[bytes, str, bytes, bytes, int]
"""project, key, hash of the body, ids, created_us"""

TELLS = tablelog.Submitted | tablelog.Changed | tablelog.Requeued

Told: TypeAlias = tuple[int, bytes, bytes, str]
"""lsn, child, parent, policy: an edge between jobs"""

Submitted: TypeAlias = tuple[int, bytes, int, int]
"""lsn, queue, day since the epoch, how many `submitted` events"""

ID_BYTES = 16
LAST_ID = b"\xff" * ID_BYTES
FIRST_PLACE = (0, bytes(ID_BYTES))


class LogGapError(Exception):
    """The log of a shard is not dense: rows that were acknowledged are missing."""

    def __init__(self, shard: int, expected_lsn: int, found_lsn: int) -> None:
        found = f"{found_lsn} follows" if found_lsn else "the log ends"
        super().__init__(f"the log of shard {shard} has a gap: {expected_lsn} is missing, {found}")
        self.shard = shard
        self.lsn = expected_lsn


class UnfinishedJobs(Protocol):
    """What a new owner reads of the tables."""

    async def watermarks(self, shards: Sequence[int]) -> dict[int, int]:
        """The lsn up to which the tables know each shard; 0 for a new one."""
        ...

    def unfinished(self, shard: int, running: bool) -> AsyncGenerator[bytes, None]:
        """Whole rows of binary COPY of the shard's open jobs: of those that run, or of those that
        wait, in the order in which they start."""
        ...

    async def keys(self, shard: int) -> Sequence[StoredKey]:
        """Idempotency keys that are still remembered, the oldest first."""
        ...


class Waiting(Protocol):
    """How many jobs of a queue wait, in the tables."""

    @property
    def shard(self) -> int: ...
    @property
    def queue_id(self) -> bytes: ...
    @property
    def project_id(self) -> bytes: ...
    @property
    def pending(self) -> int: ...
    @property
    def scheduled(self) -> int: ...


Count: TypeAlias = Callable[[], Awaitable[Sequence[Waiting]]]


class WaitingJobs(Protocol):
    """Some of the waiting jobs of the tables, as whole rows of binary COPY."""

    def bound(self, shard: int) -> AsyncGenerator[bytes, None]:
        """Those that must be in memory."""
        ...

    def named(self, ids: bytes) -> AsyncGenerator[bytes, None]:
        """Those with these ids, 16 bytes each."""
        ...

    def of_queue(self, queue_id: bytes, after: bytes, rows_max: int) -> AsyncGenerator[bytes, None]:
        """The next ones of a queue behind an id, by their ids."""
        ...

    def first_pages(self, shard: int, rows_max: int) -> AsyncGenerator[bytes, None]:
        """Of each type in each queue the first pending ones, lane by lane as they start."""
        ...

    def page(
        self, shard: int, queue_id: bytes, job_type: str, place: tuple[int, bytes], rows_max: int
    ) -> AsyncGenerator[bytes, None]:
        """The next pending ones of a lane, behind a priority and an id; rows of PAGE_COLUMNS."""
        ...

    def due(
        self, shard: int, place: tuple[int, bytes], until_us: int, rows_max: int
    ) -> AsyncGenerator[bytes, None]:
        """The next scheduled ones that are due up to then, behind a time and an id."""
        ...


class FencedTables(UnfinishedJobs, WaitingJobs, Protocol):
    """The tables, as they let in nobody but the newest owner of a shard."""

    async def counting(self, marks: Mapping[int, int]) -> Count:
        """How to count what waits in these shards, as the tables are now, of that which the log
        says up to these lsns."""
        ...

    async def fence(self, epochs: Mapping[int, int]) -> None:
        """Projections under an earlier epoch of these shards are refused from now on; one that was
        about to commit is waited for. A later epoch stays."""
        ...


class OwnedTable(Protocol):
    """The part of `ext.table.ShardTable` that a takeover works with."""

    @property
    def shard(self) -> int: ...
    @property
    def unprojected(self) -> int: ...

    def adopt(self, head_lsn: int) -> None: ...
    def owned(self, node: str, epoch: int, now_us: int) -> None: ...
    def take_batch(self) -> tuple[int, int, bytes] | None: ...
    def load(self, data: bytes) -> int: ...
    def begin_reading(self) -> None: ...
    def end_reading(self, rows_max: int = 0) -> bool: ...
    def fault_in(self, data: bytes, counted_lsn: int = ...) -> int: ...
    def page_in(self, data: bytes) -> int: ...
    def due_in(self, data: bytes) -> int: ...
    def due_read(self, until_us: int, job_id: bytes) -> None: ...
    def missing(self, bodies: list[bytes]) -> bytes: ...
    def replay(self, lsn: int, body: bytes) -> int: ...
    def take_submitted(self) -> list[tuple[bytes, int, int]]: ...
    def collect(self, rows_max: int, settled_us: int) -> Projection | None: ...
    def projected(self, projection: Any) -> None: ...


T = TypeVar("T", bound=OwnedTable)


@dataclass(frozen=True, slots=True)
class Taken(Generic[T]):
    """A shard that is ours, as it was when we took it."""

    table: T
    epoch: int
    head_lsn: int
    jobs_loaded: int
    """Until it was given away."""
    events_replayed: int
    keys: list[StoredKey]
    """Every key that is remembered, from the tables and from the log."""
    submitted: list[Submitted]
    """What was submitted above the watermark, in the order of lsns."""
    told: list[Told]
    """Edges that the log above the watermark speaks of, in the order of lsns."""
    early: Projection | None
    """Was collected from the table, and must be the first that the projector writes of it."""
    counted: "asyncio.Future[Sequence[Waiting]]"
    """How many jobs waited in the tables, of all shards that were taken with this one; the table
    wants to know (`count_away`)."""


@dataclass(frozen=True, slots=True)
class Taker(Generic[T]):
    """Who takes over, and how tables are made."""

    log: ShardLog
    tables: FencedTables
    node: str
    now_us: Callable[[], int]
    new_table: Callable[[int], T]
    """An empty table for a shard, with the shard's queues defined: replay needs their history."""
    page_jobs: int = limits.PAGE_JOBS_MAX
    """So many waiting jobs of each lane are here at first."""
    horizon_us: int = round(limits.HORIZON_S * 1e6)

    async def take(self, shards: Iterable[int]) -> list[Taken[T]]:
        """All of `each`, when the last one is there."""
        return [taken async for taken in self.each(shards)]

    async def each(self, shards: Iterable[int]) -> AsyncGenerator[Taken[T], None]:
        """Own the shards at once, then give each one as soon as its table is at the log's head.

        Raises Unavailable when a busy owner wins every race for the next lsn; what was owned until
        then is ours by the log, and may be taken again.
        """
        heads = await self._own(sorted(shards))
        faultpoints.hit(faultpoints.IN_TAKEOVER)
        await self.tables.fence({shard: head.epoch for shard, head in heads.items()})
        marks = await self.tables.watermarks(list(heads))
        counted = await self._counting(marks)
        try:
            async for taken in self._brought_up(heads, marks, counted):
                yield taken
        except BaseException:
            counted.cancel()
            raise

    async def _brought_up(
        self,
        heads: Mapping[int, LogRow],
        marks: Mapping[int, int],
        counted: "asyncio.Future[Sequence[Waiting]]",
    ) -> AsyncGenerator[Taken[T], None]:
        """One shard after the other, from the tables and the log above their watermark."""
        async with aclosing(self.log.read_all(marks)) as rows:
            tail = Tail(rows)
            for shard, head in heads.items():
                table = self.new_table(shard)
                loaded = 0
                async for chunk in self.tables.unfinished(shard, running=True):
                    loaded += table.load(chunk)
                    await asyncio.sleep(0)
                keys = list(await self.tables.keys(shard))
                replayed = await self._replay(table, tail, marks[shard], head.lsn)
                loaded += await self._load_first(table)
                yield _taken(table, head, loaded, keys, replayed, counted)

    async def _counting(self, marks: Mapping[int, int]) -> "asyncio.Future[Sequence[Waiting]]":
        """Begin to count; the tables may change from now on."""
        count = await self.tables.counting(marks)
        counted = asyncio.ensure_future(count())
        counted.add_done_callback(_seen)
        await asyncio.sleep(0)  # it has begun: its end, whatever that is, closes its connection
        return counted

    async def _load_first(self, table: T) -> int:
        """Load the jobs that must be here, and of the others those that come first; how many."""
        shard, rows_max = table.shard, self.page_jobs
        until_us = self.now_us() + self.horizon_us
        loaded = due = 0
        table.begin_reading()
        async for chunk in self.tables.bound(shard):
            loaded += table.fault_in(chunk)
            await asyncio.sleep(0)
        async for chunk in self.tables.first_pages(shard, rows_max):
            loaded += table.page_in(chunk)
            await asyncio.sleep(0)
        table.due_read(*FIRST_PLACE)
        async for chunk in self.tables.due(shard, FIRST_PLACE, until_us, rows_max):
            due += table.due_in(chunk)
            await asyncio.sleep(0)
        if due < rows_max:
            table.due_read(until_us, LAST_ID)
        table.end_reading(rows_max)
        return loaded + due

    async def _replay(self, table: T, tail: "Tail", mark: int, head_lsn: int) -> "Replayed":
        """Replay what lies between watermark and head.

        Some rows at a time: the jobs that they name and that wait in the tables come first."""
        expected_lsn = mark + 1
        found = Replayed()
        portion: list[LogRow] = []
        async for row in tail.of(table.shard):
            if row.lsn > head_lsn:
                continue  # somebody took the shard from us; our next append will tell
            if row.lsn != expected_lsn:
                raise LogGapError(table.shard, expected_lsn, row.lsn)
            expected_lsn += 1
            portion.append(row)
            if len(portion) == limits.REPLAY_ROWS or row.lsn == head_lsn:
                await self._bring_named(table, portion, mark)
                for one in portion:
                    found.events += table.replay(one.lsn, one.body)
                    found.submitted += [(one.lsn, *counted) for counted in table.take_submitted()]
                    if MARK in one.body:
                        found.told += edges_in(one)
                portion.clear()
        if expected_lsn <= head_lsn:
            raise LogGapError(table.shard, expected_lsn, 0)
        return found

    async def _bring_named(self, table: T, rows: Iterable[LogRow], mark: int) -> None:
        ids = table.missing([row.body for row in rows])
        step = ID_BYTES * limits.PAGE_JOBS_MAX
        for start in range(0, len(ids), step):
            table.begin_reading()
            async for chunk in self.tables.named(ids[start : start + step]):
                table.fault_in(chunk, mark)
            table.end_reading()

    async def _own(self, shards: Sequence[int]) -> dict[int, LogRow]:
        """Our `owned` row of each shard, durable."""
        rows: dict[int, LogRow] = {}
        for _ in range(limits.TAKEOVER_TRIES_MAX):
            missing = [shard for shard in shards if shard not in rows]
            if not missing:
                return {shard: rows[shard] for shard in shards}
            heads = await self.log.heads(missing)
            claims = {shard: self._claim(shard, *heads[shard]) for shard in missing}
            mine = await self.log.append(list(claims.values()))
            rows |= {shard: claims[shard] for shard in mine}
        busy = [shard for shard in shards if shard not in rows]
        if busy:
            raise Unavailable(message=f"the owners of shards {busy} write faster than we can look")
        return {shard: rows[shard] for shard in shards}

    def _claim(self, shard: int, head_lsn: int, head_epoch: int) -> LogRow:
        scratch = self.new_table(shard)
        scratch.adopt(head_lsn)
        scratch.owned(self.node, head_epoch + 1, self.now_us())
        batch = scratch.take_batch()
        assert batch is not None
        lsn, events, body = batch
        return LogRow(shard, lsn, head_epoch + 1, events, body)


def _taken(
    table: T,
    head: LogRow,
    loaded: int,
    keys: list[StoredKey],
    replayed: "Replayed",
    counted: "asyncio.Future[Sequence[Waiting]]",
) -> Taken[T]:
    # Keys of the log are in no other place of the table than what it wants projected.
    early = table.collect(1, 0)
    if early is not None:
        keys += early.keys
    return Taken(
        table=table,
        epoch=head.epoch,
        head_lsn=head.lsn,
        jobs_loaded=loaded,
        events_replayed=replayed.events,
        keys=keys,
        submitted=replayed.submitted,
        told=replayed.told,
        early=early,
        counted=counted,
    )


def _seen(counted: "asyncio.Future[Sequence[Waiting]]") -> None:
    """Whoever has a shard of it looks at it; there may be none."""
    if not counted.cancelled():
        counted.exception()


class Tail:
    """The rows of a log above the watermarks, shard by shard, read once."""

    def __init__(self, rows: AsyncIterator[LogRow]) -> None:
        self._rows = rows
        self._next: LogRow | None = None

    async def of(self, shard: int) -> AsyncIterator[LogRow]:
        """The rows of this shard; shards are asked for in ascending order."""
        while True:
            row = self._next or await anext(self._rows, None)
            self._next = row
            if row is None or row.shard != shard:
                return
            self._next = None
            yield row


@dataclass(slots=True)
class Replayed:
    """What a replay found."""

    events: int = 0
    submitted: list[Submitted] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)


def edges_in(row: LogRow) -> list[Told]:
    """What the jobs of this row were told to wait for. Read beside the replay, so that nothing but
    rows with such jobs pays for it."""
    return [
        (row.lsn, event.job_id, edge.parent_id, edge.on_failure)
        for event in tablelog.decode(row.body).events
        if isinstance(event, TELLS)
        if (told := parents_of(event.options)) is not None
        for edge in unpacked(told.edges)
    ]
