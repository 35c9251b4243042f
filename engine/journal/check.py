"""The check of a database: what the log says against what the tables hold.

    log ──fold──► job and execution rows, edges, counts ──────────┐
    jobs, job_executions, job_dependencies, monthly_usage ────────┴──► differences

The fold goes through the shard table, as every replay does, so the check compares the two ways from
a decision to a row. With the whole log (`log_retention_all`) every job that ever was is compared.
With a trimmed log the unfinished rows are loaded and the tail is folded on top; then only what the
tail speaks of, and the rules that need no log, are checked.

What the log says above the watermark may be missing in the tables: of a job whose newest event is
above it, the row may be older or absent, but never newer and never different at the same lsn. A
queue that does not keep its history may lack rows of finished jobs, and so may every queue of those
past their days, and of those that ended before it was told to keep them (`Since`); those that are
there must be right.

Memory: one shard at a time, some 1 KB for each of its jobs. The node must be stopped, or nothing
must be going on: what is decided during the check counts as a difference.
"""

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple, Protocol, TypeAlias

from taskforge_server.engine import limits
from taskforge_server.engine.journal.checked_edges import CheckedEdges
from taskforge_server.engine.journal.checked_usage import Count, usage_findings
from taskforge_server.engine.journal.log import LogRow, ShardLog
from taskforge_server.engine.journal.takeover import Submitted, Told, UnfinishedJobs, edges_in
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.model.subscription import DAY_US, month_of
from taskforge_server.engine.shard.family import MARK
from taskforge_server.ext.pure.tablerows import (
    EXECUTION_COLUMNS,
    JOB_COLUMNS,
    JSONB,
    Columns,
    decode_row,
)
from taskforge_server.ext.table import BodyError, ShardTable, TransitionError, split_rows

Row: TypeAlias = dict[str, Any]
"""Columns by name: ids and JSON as bytes, times in microseconds, NULL as None."""

FINAL = ("succeeded", "failed", "cancelled")
HISTORY_ALL = 2
FAR_FUTURE_US = 2**62
COLLECT_ROWS = 10_000
SHOWN_MAX = 200


class Difference(NamedTuple):
    """Something that is not as the log, or a rule, says."""

    kind: str
    shard: int
    id: bytes | None
    expected: str
    found: str


class Since(NamedTuple):
    """What of a queue ended before these times may have no row, though the queue keeps all now."""

    whole_us: int = 0
    """It kept less before that."""
    failed_us: int = 0
    """Failed jobs were deleted before that, by hand or past their time."""


class CheckedTables(UnfinishedJobs, Protocol):
    """What the check reads. Rows come ordered by shard."""

    def all_jobs(self) -> AsyncIterator[Row]: ...
    def all_executions(self) -> AsyncIterator[Row]: ...

    def all_edges(self) -> AsyncIterator[Row]:
        """The rows of `job_dependencies`; `id` is the child's."""
        ...

    def all_usage(self) -> AsyncIterator[Row]:
        """The rows of `monthly_usage`; `id` is the project's."""
        ...

    async def refused(self) -> dict[int, int]:
        """How many rows stand in `projection_errors`, by shard."""
        ...


async def check(
    log: ShardLog,
    tables: CheckedTables,
    queues: Iterable[QueueRef],
    shards: Iterable[int],
    kept_since_us: Mapping[bytes, int] | None = None,
    since: Mapping[bytes, Since] | None = None,
) -> list[Difference]:
    """All differences, up to CHECK_DIFFERENCES_MAX; an empty list means that all is well.
    `kept_since_us`: what ended before that is past its days, by project; `since`: by queue."""
    known = {queue.id: queue for queue in queues}
    checked = Check(log, tables, known, kept_since_us or {}, since or {})
    wanted = sorted(shards)
    streams = Streams(
        ByShard(tables.all_jobs()),
        ByShard(tables.all_executions()),
        ByShard(tables.all_edges()),
        ByShard(tables.all_usage()),
    )
    for shard, count in (await tables.refused()).items():
        checked.differ("refused rows", shard, None, "none", f"{count} in projection_errors")
    for shard in wanted:
        await checked.shard(shard, streams)
        if len(checked.differences) >= limits.CHECK_DIFFERENCES_MAX:
            break
    else:
        for stream, name in zip(streams, ("job", "execution", "edge", "usage"), strict=True):
            async for row in stream.rest():
                checked.differ(f"{name} of an unknown shard", row["shard"], row["id"], "", "")
    return checked.differences[: limits.CHECK_DIFFERENCES_MAX]


class ByShard:
    """Cuts a stream of rows, ordered by shard, into its shards."""

    def __init__(self, rows: AsyncIterator[Row]) -> None:
        self._rows = rows
        self._next: Row | None = None

    async def of(self, shard: int) -> AsyncIterator[Row]:
        """The rows of this shard, and those of lower ones that nobody asked for."""
        while (row := await self._peek()) is not None and row["shard"] <= shard:
            self._next = None
            yield row

    async def rest(self) -> AsyncIterator[Row]:
        """All that is left."""
        while (row := await self._peek()) is not None:
            self._next = None
            yield row

    async def _peek(self) -> Row | None:
        if self._next is None:
            self._next = await anext(self._rows, None)
        return self._next


class Streams(NamedTuple):
    """All rows of the tables."""

    jobs: ByShard
    executions: ByShard
    edges: ByShard
    usage: ByShard


@dataclass(slots=True)
class Folded:
    """What the log says of a shard."""

    mark: int
    """What the tables say that they know of it."""
    whole: bool = False
    head: int = 0
    jobs: dict[bytes, Row] = field(default_factory=dict)
    executions: dict[bytes, Row] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    submitted: list[Submitted] = field(default_factory=list)


@dataclass(slots=True)
class Attempts:
    """What the jobs in the table let their attempts be."""

    since_us: dict[bytes, int] = field(default_factory=dict)
    """By job: from when on they have rows."""
    ended: set[bytes] = field(default_factory=set)
    """These jobs have ended."""

    def are_kept(self, execution: Row) -> bool:
        """Whether this one must be there, as it ended."""
        since_us = self.since_us.get(execution["job_id"], FAR_FUTURE_US)
        return bool(execution["started_at"] >= since_us)


class Check:
    """Finds differences, shard by shard."""

    def __init__(
        self,
        log: ShardLog,
        tables: CheckedTables,
        queues: Mapping[bytes, QueueRef],
        kept_since_us: Mapping[bytes, int],
        since: Mapping[bytes, Since],
    ) -> None:
        self._kept_since_us = kept_since_us
        self._since = since
        self._log = log
        self._tables = tables
        self._queues = queues
        self.differences: list[Difference] = []

    def differ(
        self, kind: str, shard: int, row_id: bytes | None, expected: str, found: str
    ) -> None:
        """Note a difference."""
        self.differences.append(Difference(kind, shard, row_id, expected, found))

    async def shard(self, shard: int, streams: Streams) -> None:
        """Compare one shard."""
        mark = (await self._tables.watermarks([shard]))[shard]
        folded = await self._fold(shard, mark)
        edges = CheckedEdges(folded.told, mark, whole=folded.whole)
        async for row in streams.edges.of(shard):
            edges.stored(row)
        attempts = Attempts()
        async for row in streams.jobs.of(shard):
            if row["id"] in attempts.since_us:
                self.differ("job twice", shard, row["id"], "one row", row["status"])
            attempts.since_us[row["id"]] = self._attempts_since_us(row)
            if row["status"] in FINAL:
                attempts.ended.add(row["id"])
            self._job(row, folded)
            for kind, row_id, expected, found in edges.of(row):
                self.differ(kind, row["shard"], row_id, expected, found)
        for row_id, row in folded.jobs.items():
            if row["lsn"] <= mark and not self._may_be_gone(row):
                self.differ("job missing", shard, row_id, row["status"], "no row")
        async for row in streams.executions.of(shard):
            self._execution(row, attempts, folded)
        for row_id, row in folded.executions.items():
            if row["lsn"] <= mark and attempts.are_kept(row):
                self.differ("execution missing", shard, row_id, row["status"], "no row")
        await self._usage(shard, streams.usage, folded)

    def _job(self, row: Row, folded: Folded) -> None:
        self._rules(row)
        expected = folded.jobs.pop(row["id"], None)
        if expected is not None:
            self._compare("job", row, expected, JOB_COLUMNS, folded.mark)
        elif folded.whole:
            self.differ("job unknown", row["shard"], row["id"], "no row", row["status"])

    def _execution(self, row: Row, attempts: Attempts, folded: Folded) -> None:
        if row["job_id"] not in attempts.since_us:
            self.differ("execution without job", row["shard"], row["id"], "a job", "none")
        elif row["status"] == "started" and row["job_id"] in attempts.ended:
            self.differ("execution not ended", row["shard"], row["id"], "an end", "started")
        expected = folded.executions.pop(row["id"], None)
        if expected is not None:
            # Without full history an attempt is written when its job ends, or is swept.
            settled = folded.mark if attempts.are_kept(expected) else 0
            self._compare("execution", row, expected, EXECUTION_COLUMNS, settled)
        elif folded.whole:
            self.differ("execution unknown", row["shard"], row["id"], "no row", row["status"])

    async def _usage(self, shard: int, usage: ByShard, folded: Folded) -> None:
        queues = self._queues
        counts = [
            Count(
                lsn,
                queues[queue_id].project_id if queue_id in queues else None,
                month_of(day * DAY_US),
                jobs,
            )
            for lsn, queue_id, day, jobs in folded.submitted
        ]
        rows = [row async for row in usage.of(shard)]
        findings = usage_findings(rows, counts, folded.mark, folded.head, whole=folded.whole)
        for kind, row_id, expected, found in findings:
            self.differ(kind, shard, row_id, expected, found)

    async def _fold(self, shard: int, mark: int) -> Folded:
        """Fold all that the log holds of the shard; a gap or a damaged row ends the fold."""
        table = ShardTable(shard, 0)
        for queue in self._queues.values():
            if queue.shard == shard:
                table.queue(queue.id, queue.project_id, queue.name, 0, HISTORY_ALL)
        rows = self._log.read(shard, 0)
        row = await anext(rows, None)
        folded = Folded(mark, row is not None and row.lsn == 1)
        folded_lsn = 0 if folded.whole else mark
        if not folded.whole:
            for running in (True, False):
                async for chunk in self._tables.unfinished(shard, running):
                    table.load(chunk)
        while row is not None:
            folded.head = row.lsn
            if row.lsn > folded_lsn:
                if not self._replay(table, row, folded_lsn + 1):
                    break
                folded_lsn = row.lsn
                folded.submitted += [(row.lsn, *count) for count in table.take_submitted()]
                if MARK in row.body:
                    folded.told += edges_in(row)
            row = await anext(rows, None)
        if mark > folded.head:
            self.differ("watermark", shard, None, f"at most {folded.head}", str(mark))
        folded.jobs, folded.executions = expected_rows(table)
        return folded

    def _replay(self, table: ShardTable, row: LogRow, expected_lsn: int) -> bool:
        if row.lsn != expected_lsn:
            self.differ("gap", row.shard, None, f"lsn {expected_lsn}", f"lsn {row.lsn}")
            return False
        try:
            table.replay(row.lsn, row.body)
        except (BodyError, TransitionError) as error:
            self.differ("log", row.shard, None, f"a sound lsn {row.lsn}", str(error))
            return False
        return True

    def _rules(self, row: Row) -> None:
        """What holds for every job row, whatever the log says."""
        final = row["status"] in FINAL
        if final != (row["finished_at"] is not None):
            found = "with" if row["finished_at"] is not None else "without"
            self.differ("job finished_at", row["shard"], row["id"], row["status"], found)
        if (row["status"] == "failed") != (row["failed_reason"] is not None):
            found = repr(row["failed_reason"])
            self.differ("job failed_reason", row["shard"], row["id"], row["status"], found)
        if row["queue_id"] not in self._queues:
            self.differ("job of an unknown queue", row["shard"], row["id"], "a queue", "none")

    def _attempts_since_us(self, job: Row) -> int:
        """Attempts that began then, or later, have rows while their job has."""
        queue = self._queues.get(job["queue_id"])
        if queue is None or queue.settings.history_code != HISTORY_ALL:
            return FAR_FUTURE_US
        return self._since.get(queue.id, Since()).whole_us

    def _may_be_gone(self, job: Row) -> bool:
        """Whether this job may have no row."""
        if job["status"] not in FINAL:
            return False
        queue_id, ended_us = job["queue_id"], job["finished_at"]
        kept_us = max(self._attempts_since_us(job), self._kept_since_us.get(job["project_id"], 0))
        if job["status"] == "failed":
            kept_us = max(kept_us, self._since.get(queue_id, Since()).failed_us)
        return bool(ended_us < kept_us)

    def _compare(self, kind: str, row: Row, expected: Row, columns: Columns, mark: int) -> None:
        """A row at the lsn of its newest event is equal; an older one is fine above the mark."""
        if row["lsn"] > expected["lsn"] or row["lsn"] < expected["lsn"] <= mark:
            place = f"lsn {expected['lsn']}", f"lsn {row['lsn']}"
            self.differ(f"{kind} lsn", row["shard"], row["id"], *place)
        if row["lsn"] != expected["lsn"]:
            return
        for name, codec, _ in columns:
            mine, theirs = expected[name], row[name]
            if mine == theirs or (codec is JSONB and mine and theirs and same_json(mine, theirs)):
                continue
            # That a scheduled job came due is no event.
            if name == "status" and {mine, theirs} == {"scheduled", "pending"}:
                continue
            self.differ(f"{kind} {name}", row["shard"], row["id"], shown(mine), shown(theirs))


def expected_rows(table: ShardTable) -> tuple[dict[bytes, Row], dict[bytes, Row]]:
    """What the projector would write of this table: jobs and executions by id, the newest rows."""
    jobs: dict[bytes, Row] = {}
    executions: dict[bytes, Row] = {}
    while (projection := table.collect(COLLECT_ROWS, FAR_FUTURE_US)) is not None:
        for rows, columns, parts in (
            (jobs, JOB_COLUMNS, projection.jobs_copy + projection.jobs_merge),
            (
                executions,
                EXECUTION_COLUMNS,
                projection.executions_copy + projection.executions_merge,
            ),
        ):
            for part in parts:
                for start, end in split_rows(part):
                    row = decode_row(columns, part[start:end])
                    if row["id"] not in rows or row["lsn"] >= rows[row["id"]]["lsn"]:
                        rows[row["id"]] = row
        table.projected(projection)
    return jobs, executions


def same_json(one: bytes, other: bytes) -> bool:
    """Whether both texts say the same; the database writes them in its own way."""
    return bool(_loaded(one) == _loaded(other))


def _loaded(text: bytes) -> Any:
    return json.loads(text, parse_float=Decimal)


def shown(value: object) -> str:
    """A value for people, not at length."""
    text = value.hex() if isinstance(value, bytes) and len(value) == 16 else repr(value)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…"
