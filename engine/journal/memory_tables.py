"""The tables in memory: the twin of those in Postgres for tests and simulations, with faults.

doubts        so many writes of jobs are done, and their caller is told that it is in doubt
failures      so many writes of either kind are not done, and their caller is told the same
refused_ids   rows with these ids are refused, as by a constraint
gate          writes of jobs wait until the event is set
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from taskforge_server.engine.journal.rounds import (
    COPY_HEADER,
    COPY_TRAILER,
    ID_BYTES,
    Fenced,
    How,
    InDoubt,
    Projection,
    RowExists,
    RowsRefused,
    Turn,
    at_once,
    places,
)
from taskforge_server.engine.journal.rounds import watermarks as watermarks_of
from taskforge_server.engine.journal.takeover import Count, StoredKey
from taskforge_server.engine.runtime import safeguards
from taskforge_server.engine.shard.usage import StoredUsage, UsageRow
from taskforge_server.ext.ids import shard_of
from taskforge_server.ext.pure.tablejob import page_row
from taskforge_server.ext.pure.tablerows import (
    EXECUTION_COLUMNS,
    JOB_COLUMNS,
    Columns,
    decode_row,
    encode_row,
    split_rows,
)

OPEN = ("pending", "scheduled", "processing")
WAITING = ("pending", "scheduled")

Row = dict[str, Any]


class MemoryTables:
    """Rows by id. Writes are atomic."""

    def __init__(self) -> None:
        self.jobs: dict[bytes, Row] = {}
        self.executions: dict[bytes, Row] = {}
        self.marks: dict[int, int] = {}
        self.epochs: dict[int, int] = {}
        """The newest owner of each shard."""
        self.stored_keys: dict[tuple[bytes, str], tuple[int, StoredKey]] = {}
        self.usage: dict[tuple[int, bytes, int], UsageRow] = {}
        self.edges: dict[tuple[bytes, bytes], tuple[bytes | None, str]] = {}
        """Project and policy by parent and child."""
        self.put_aside: list[Row] = []
        self.doubts = 0
        self.failures = 0
        self.refused_ids: set[bytes] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = asyncio.Event()
        """Set while a write of jobs waits at the gate."""
        self.writing = 0
        """Writes of jobs under way."""
        self.begun = asyncio.Event()
        """Set by every write of jobs at its beginning."""
        self.executions_written = asyncio.Event()
        """Set by every write of executions."""
        self.tries: list[How] = []
        """How each write of jobs was tried."""

    async def write_executions(
        self, projections: Sequence[Projection], how: How, epochs: Mapping[int, int]
    ) -> None:
        await asyncio.sleep(0)
        self._fail_if_told()
        self._refuse_earlier(epochs)
        rows = dict(self.executions)
        self._write(rows, _rows(EXECUTION_COLUMNS, projections, _executions_copied), how, new=True)
        self._write(rows, _rows(EXECUTION_COLUMNS, projections, _executions_merged), how, new=False)
        self.executions = rows
        self.executions_written.set()

    async def write_jobs(
        self,
        projections: Sequence[Projection],
        how: How,
        epochs: Mapping[int, int],
        turn: Turn = at_once,
    ) -> None:
        self.writing += 1
        self.begun.set()
        try:
            await turn()
            await self._write_jobs(projections, how, epochs)
        finally:
            self.writing -= 1

    async def _write_jobs(
        self, projections: Sequence[Projection], how: How, epochs: Mapping[int, int]
    ) -> None:
        self.tries.append(how)
        if not safeguards.ACTIVE.projection_watermark:
            self._advance(projections)
        if not self.gate.is_set():
            self.waiting.set()
            await self.gate.wait()
            self.waiting.clear()
        await asyncio.sleep(0)
        self._fail_if_told()
        self._refuse_earlier(epochs)
        rows = dict(self.jobs)
        self._write(rows, _rows(JOB_COLUMNS, projections, _jobs_copied), how, new=True)
        self._write(rows, _rows(JOB_COLUMNS, projections, _jobs_merged), how, new=False)
        gone = {job_id: lsn for p in projections for job_id, lsn in places(p.deletes)}
        self.jobs = {id_: row for id_, row in rows.items() if row["lsn"] > gone.get(id_, -1)}
        self.executions = {
            row["id"]: row
            for row in self.executions.values()
            if row["lsn"] > gone.get(row["job_id"], -1)
        }
        for p in projections:
            for parent_id, child_id, project_id, on_failure in p.edges:
                self.edges.setdefault((parent_id, child_id), (project_id, on_failure))
            for key in p.keys:
                self.stored_keys[key[0], key[1]] = (p.shard, key)
            for row in map(UsageRow._make, p.usage):
                known = self.usage.setdefault((p.shard, row.project_id, row.month), row)
                if row.lsn > known.lsn:
                    self.usage[p.shard, row.project_id, row.month] = row
        self._advance(projections)
        if self.doubts > 0:
            self.doubts -= 1
            raise InDoubt("written, but nobody said so")

    def _write(self, known: dict[bytes, Row], rows: Iterable[Row], how: How, *, new: bool) -> None:
        for row in rows:
            old = known.get(row["id"])
            if row["id"] in self.refused_ids:
                if how is not How.CAREFUL:
                    raise RowsRefused("a constraint")
                self.put_aside.append(row)
            elif old is not None and how is How.FAST and (new or row["lsn"] < old["lsn"]):
                raise RowExists("a row with this id is there already")
            elif old is None or row["lsn"] >= old["lsn"]:
                known[row["id"]] = row

    def _fail_if_told(self) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise InDoubt("not written")

    def _refuse_earlier(self, epochs: Mapping[int, int]) -> None:
        later = {shard for shard, epoch in epochs.items() if self.epochs.get(shard, 0) > epoch}
        if later:
            raise Fenced(later)

    def _advance(self, projections: Sequence[Projection]) -> None:
        for shard, lsn in watermarks_of(projections).items():
            self.marks[shard] = max(lsn, self.marks.get(shard, 0))

    async def close(self) -> None:
        """Nothing to give back."""

    # What a new owner reads.

    async def fence(self, epochs: Mapping[int, int]) -> None:
        for shard, epoch in epochs.items():
            self.epochs[shard] = max(epoch, self.epochs.get(shard, 0))

    async def watermarks(self, shards: Sequence[int]) -> dict[int, int]:
        return {shard: self.marks.get(shard, 0) for shard in shards}

    async def unfinished(self, shard: int, running: bool) -> AsyncGenerator[bytes, None]:
        rows = [row for row in self.jobs.values() if row["shard"] == shard]
        open_rows = [row for row in rows if row["status"] in OPEN]
        mine = [row for row in open_rows if (row["status"] == "processing") is running]
        mine.sort(key=lambda row: (-row["priority"], row["id"]))
        yield COPY_HEADER
        for row in mine:
            yield encode_row(JOB_COLUMNS, row)
        yield COPY_TRAILER

    def bound(self, shard: int) -> AsyncGenerator[bytes, None]:
        rows = self._waiting(shard)
        return _given(row for row in rows if row["options"] is not None or _held(row))

    def named(self, ids: bytes) -> AsyncGenerator[bytes, None]:
        each = {ids[at : at + ID_BYTES] for at in range(0, len(ids), ID_BYTES)}
        return _given(
            row for row in self.jobs.values() if row["id"] in each and row["status"] in WAITING
        )

    def of_queue(self, queue_id: bytes, after: bytes, rows_max: int) -> AsyncGenerator[bytes, None]:
        rows = [row for row in self.jobs.values() if row["status"] in WAITING]
        mine = [row for row in rows if row["queue_id"] == queue_id and row["id"] > after]
        return _given(sorted(mine, key=lambda row: row["id"])[:rows_max])

    def first_pages(self, shard: int, rows_max: int) -> AsyncGenerator[bytes, None]:
        lanes: dict[tuple[bytes, str], list[Row]] = {}
        for row in self._pending(shard):
            lanes.setdefault((row["queue_id"], row["job_type"]), []).append(row)
        return _given(row for rows in lanes.values() for row in rows[:rows_max])

    def page(
        self, shard: int, queue_id: bytes, job_type: str, place: tuple[int, bytes], rows_max: int
    ) -> AsyncGenerator[bytes, None]:
        rows = [
            row
            for row in self._pending(shard)
            if (row["queue_id"], row["job_type"]) == (queue_id, job_type)
            and (-row["priority"], row["id"]) > (-place[0], place[1])
        ]
        return _given(rows[:rows_max], page_row)

    def due(
        self, shard: int, place: tuple[int, bytes], until_us: int, rows_max: int
    ) -> AsyncGenerator[bytes, None]:
        rows = [
            row
            for row in self._waiting(shard)
            if row["status"] == "scheduled"
            and not _held(row)
            and (row["scheduled_for"], row["id"]) > place
            and row["scheduled_for"] <= until_us
        ]
        return _given(sorted(rows, key=lambda row: (row["scheduled_for"], row["id"]))[:rows_max])

    async def counting(self, marks: Mapping[int, int]) -> Count:
        counts: Counter[tuple[int, bytes, bytes, str]] = Counter(
            (shard, row["queue_id"], row["project_id"], row["status"])
            for shard, mark in marks.items()
            for row in self._waiting(shard)
            if row["lsn"] <= mark
        )
        keys = {key[:3] for key in counts}

        async def count() -> list[Counted]:
            return [
                Counted(*key, counts[*key, "pending"], counts[*key, "scheduled"]) for key in keys
            ]

        return count

    def _waiting(self, shard: int) -> list[Row]:
        rows = self.jobs.values()
        return [row for row in rows if row["shard"] == shard and row["status"] in WAITING]

    def _pending(self, shard: int) -> list[Row]:
        rows = [row for row in self._waiting(shard) if row["status"] == "pending"]
        return sorted(rows, key=lambda row: (-row["priority"], row["id"]))

    async def usage_of(self, shard: int) -> list[StoredUsage]:
        return [StoredUsage(row, None) for key, row in self.usage.items() if key[0] == shard]

    async def keys(self, shard: int) -> list[StoredKey]:
        mine = [key for owner, key in self.stored_keys.values() if owner == shard]
        return sorted(mine, key=lambda key: key[4])

    # What the check reads.

    async def all_jobs(self) -> AsyncIterator[Row]:
        for row in sorted(self.jobs.values(), key=lambda row: row["shard"]):
            yield dict(row)

    async def all_executions(self) -> AsyncIterator[Row]:
        for row in sorted(self.executions.values(), key=lambda row: row["shard"]):
            yield dict(row)

    async def all_edges(self) -> AsyncIterator[Row]:
        for parent_id, child_id in sorted(self.edges, key=lambda edge: shard_of(edge[1])):
            project_id, on_failure = self.edges[parent_id, child_id]
            yield {
                "id": child_id,
                "parent_job_id": parent_id,
                "project_id": project_id,
                "on_failure": on_failure,
                "shard": shard_of(child_id),
            }

    async def all_usage(self) -> AsyncIterator[Row]:
        for shard, project_id, month in sorted(self.usage):
            row = self.usage[shard, project_id, month]
            yield {
                "id": project_id,
                "month": month,
                "jobs": row.jobs,
                "shard": shard,
                "lsn": row.lsn,
            }

    async def refused(self) -> dict[int, int]:
        return dict(Counter(row["shard"] for row in self.put_aside))


class Counted(NamedTuple):
    """How many jobs of a queue wait."""

    shard: int
    queue_id: bytes
    project_id: bytes
    pending: int
    scheduled: int


def _held(row: Row) -> bool:
    return row["status"] == "scheduled" and row["scheduled_for"] is None


def _whole(row: Row) -> bytes:
    return encode_row(JOB_COLUMNS, row)


async def _given(
    rows: Iterable[Row], encode: Callable[[Row], bytes] = _whole
) -> AsyncGenerator[bytes, None]:
    """As COPY OUT gives them, one by one."""
    encoded = [encode(row) for row in rows]
    yield COPY_HEADER
    for row in encoded:
        yield row
    yield COPY_TRAILER


def _jobs_copied(projection: Projection) -> tuple[bytes, ...]:
    return projection.jobs_copy


def _jobs_merged(projection: Projection) -> tuple[bytes, ...]:
    return projection.jobs_merge


def _executions_copied(projection: Projection) -> tuple[bytes, ...]:
    return projection.executions_copy


def _executions_merged(projection: Projection) -> tuple[bytes, ...]:
    return projection.executions_merge


def _rows(
    columns: Columns,
    projections: Iterable[Projection],
    parts: Callable[[Projection], tuple[bytes, ...]],
) -> list[Row]:
    return [
        decode_row(columns, data[start:end])
        for projection in projections
        for data in parts(projection)
        for start, end in split_rows(data)
    ]
