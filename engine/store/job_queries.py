"""Jobs and executions as the tables have them: what people read once memory has let go of a job.

A job is the same dict here as in the shard table (`ext.table.ShardTable.get`): ids are bytes, times
are microseconds since the Unix epoch with 0 for none, JSON is undecoded bytes. The tables follow
the log by a moment, so whoever wants to read his own write asks the owner of the shard first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from taskforge_server.engine import limits
from taskforge_server.engine.model.job import JobStatus
from taskforge_server.engine.model.joboptions import OPTION_NAMES, pack_told
from taskforge_server.engine.store.cursors import JOBS, after_id, id_cursor
from taskforge_server.engine.store.pool import Lent, Pool, acquire
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.store.tenancy import tenant
from taskforge_server.ext.ids import execution_id, shard_of
from taskforge_server.ext.table import NEVER_US

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ID_BYTES = 16
FIRST_ID = bytes(ID_BYTES)
LAST_ID = b"\xff" * ID_BYTES

# Ids never go back, the clock may: an id can be ahead of its job's created_at by as much as the
# clock was set back. The bounds on ids are widened by this, those on created_at stay exact.
CLOCK_SLACK = timedelta(hours=1)

OPTION_COLUMNS = {name: name for name in OPTION_NAMES} | {"more": "options"}

JobDict = dict[str, Any]
"""See `ShardTable.get` and `ShardTable.executions`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs a list has; what is None does not matter."""

    statuses: tuple[JobStatus, ...] | None = None
    job_type: str | None = None
    created_from: datetime | None = None
    """Included."""
    created_before: datetime | None = None
    """Not included."""


class JobQueries:
    """Reads of `jobs` and `job_executions`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def get(self, project_id: bytes, job_id: bytes) -> tuple[JobDict, list[JobDict]] | None:
        """The job with its executions, the oldest first; None when this project has no such row."""
        async with tenant(self._pool, project_id=project_id) as connection:
            row = await connection.fetchrow(sql("job_get"), job_id, project_id)
            if row is None:
                return None
            job = job_of(row)
            return job, await _executions(connection, job)

    async def ahead(self, project_id: bytes, job: JobDict, most: int = limits.WHY_ROWS_MAX) -> int:
        """How many rows of the job's queue and type start before it, as far as they are counted;
        rows follow what is so by a moment."""
        async with tenant(self._pool, project_id=project_id) as connection:
            found: int = await connection.fetchval(
                sql("jobs_ahead"),
                shard_of(job["id"]),
                job["queue_id"],
                job["job_type"],
                limits.PRIORITY_MAX - job["priority"],
                job["id"],
                project_id,
                most,
            )
        return found

    async def some(self, project_id: bytes, job_ids: Sequence[bytes]) -> dict[bytes, JobDict]:
        """Those of these jobs that the project has, by their ids."""
        async with tenant(self._pool, project_id=project_id) as connection:
            rows = await connection.fetch(sql("jobs_of_ids"), project_id, list(job_ids))
        return {row["id"]: job_of(row) for row in rows}

    async def statuses(
        self, job_ids: Sequence[bytes], project_id: bytes | None = None
    ) -> dict[bytes, JobStatus]:
        """How these jobs are, as far as they have rows: of one project, or of all (the engine)."""
        async with acquire(self._pool) as connection:
            if project_id is None:
                rows = await connection.fetch(sql("job_statuses"), list(job_ids))
            else:
                rows = await connection.fetch(
                    sql("job_statuses_of_project"), project_id, list(job_ids)
                )
        return {row["id"]: row["status"] for row in rows}

    async def ends(
        self, project_id: bytes, job_ids: Sequence[bytes], output_bytes_max: int
    ) -> list[JobDict]:
        """Those of these that are the project's, without payloads; results and errors as far as so
        many bytes hold them, the others `output_omitted`."""
        async with tenant(self._pool, project_id=project_id) as connection:
            rows = await connection.fetch(
                sql("job_ends"), list(job_ids), project_id, output_bytes_max
            )
        return [
            {
                "id": row["id"],
                "project_id": project_id,
                "status": row["status"],
                "payload": None,
                "output": _json(row["output"]),
                "output_omitted": row["omitted"],
                "reason": row["reason"],
                "finished_us": _us(row["finished_at"]),
            }
            for row in rows
        ]

    async def executions(self, job: JobDict) -> list[JobDict]:
        """The executions of a job that is known to be the caller's, the oldest first. Read by the
        engine: they may be in the table before the job, by which a tenant would see them."""
        async with acquire(self._pool) as connection:
            return await _executions(connection, job)

    async def page(
        self,
        project_id: bytes,
        queue_ids: Sequence[bytes],
        wanted: JobFilter,
        cursor: str | None = None,
        rows_max: int = limits.PAGE_ROWS_DEFAULT,
    ) -> tuple[list[JobDict], str | None]:
        """A page of these queues of the project, the newest job first, and the cursor of the next
        one."""
        assert 1 <= rows_max <= limits.PAGE_ROWS_MAX
        below = LAST_ID if cursor is None else after_id(JOBS, cursor)
        created_from = wanted.created_from or EPOCH
        created_before = wanted.created_before or datetime.max.replace(tzinfo=UTC)
        if wanted.created_before is not None:
            below = min(below, _id_floor(wanted.created_before, CLOCK_SLACK))
        floor = FIRST_ID
        if wanted.created_from is not None:
            floor = _id_floor(wanted.created_from, -CLOCK_SLACK)
        async with tenant(self._pool, project_id=project_id) as connection:
            rows = await connection.fetch(
                sql("job_list"),
                list(queue_ids),
                below,
                floor,
                None if wanted.statuses is None else list(wanted.statuses),
                wanted.job_type,
                created_from,
                created_before,
                rows_max + 1,
            )
        page = [job_of(row) for row in rows[:rows_max]]
        more = len(rows) > rows_max
        return page, id_cursor(JOBS, page[-1]["id"]) if more else None


async def _executions(connection: Lent, job: JobDict) -> list[JobDict]:
    last = execution_id(job["id"], job["attempt"], job["started_us"])
    rows = await connection.fetch(
        sql("executions_of_job"), job["id"], last, limits.EXECUTIONS_READ_MAX
    )
    return [execution_of(row) for row in rows]


def job_of(row: asyncpg.Record) -> JobDict:
    """The inverse of the projection of a job."""
    told = {name: row[column] for name, column in OPTION_COLUMNS.items()}
    told["more"] = _json(told["more"])
    held = row["status"] == "scheduled" and row["scheduled_for"] is None
    output = row["result"] if row["status"] == "succeeded" else row["last_error"]
    reason = row["cancel_reason"] if row["status"] == "cancelled" else row["failed_reason"]
    return {
        "id": row["id"],
        "queue_id": row["queue_id"],
        "project_id": row["project_id"],
        "job_type": row["job_type"],
        "payload": _json(row["payload"]) or b"null",
        "status": row["status"],
        "priority": row["priority"],
        "due_us": NEVER_US if held else _us(row["scheduled_for"]),
        "created_us": _us(row["created_at"]),
        "updated_us": _us(row["updated_at"]),
        "started_us": _us(row["started_at"]),
        "finished_us": _us(row["finished_at"]),
        "attempt": row["attempts"],
        "crashes": row["crashes"],
        "returns": row["returns"] or 0,
        "max_attempts": row["max_attempts"],
        "timeout_ms": round((row["timeout_s"] or 0) * 1000),
        "deadline_us": _us(row["deadline_at"]),
        "worker_id": row["worker_id"],
        "lease_lsn": row["lease_lsn"] or 0,
        "lsn": row["lsn"],
        "options": pack_told(told),
        "output": _json(output),
        "reason": reason,
    }


def execution_of(row: asyncpg.Record) -> JobDict:
    return {
        "id": row["id"],
        "job_id": row["job_id"],
        "worker_id": row["worker_id"],
        "status": row["status"],
        "output": _json(row["output"]),
        "error": _json(row["error"]),
        "attempt_number": row["attempt_number"],
        "started_us": _us(row["started_at"]),
        "finished_us": _us(row["finished_at"]),
    }


def _json(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _us(time: datetime | None) -> int:
    """Exact: integer arithmetic on days, seconds and microseconds."""
    return 0 if time is None else (time - EPOCH) // timedelta(microseconds=1)


def _id_floor(time: datetime, slack: timedelta) -> bytes:
    """The least id of this time and the slack: 48 bits of milliseconds, nothing behind."""
    time_ms = (time - EPOCH + slack) // timedelta(milliseconds=1)
    return min(max(time_ms, 0), 2**48 - 1).to_bytes(6).ljust(ID_BYTES, b"\0")
