"""Gathers the evidence of a run from the database and from the histories on disk."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from taskforge_server.ext.pure import tablelog
from tests.support.history import Call, Event, ExecutionRow, JobRow, Run, read_client, read_handlers

KINDS: dict[type, str] = {
    tablelog.Submitted: "submitted",
    tablelog.Started: "started",
    tablelog.Succeeded: "succeeded",
    tablelog.Retried: "retried",
    tablelog.Failed: "failed",
    tablelog.Released: "released",
    tablelog.Returned: "returned",
    tablelog.Cancelled: "cancelled",
    tablelog.Requeued: "requeued",
    tablelog.Changed: "changed",
    tablelog.Stopped: "stopped",
}

QUIET = """
SELECT NOT EXISTS (SELECT FROM jobs WHERE status IN ('pending', 'scheduled', 'processing'))
    AND NOT EXISTS (
        SELECT FROM (SELECT shard, max(lsn) AS head FROM shard_log GROUP BY shard) AS log
        LEFT JOIN shard_projection USING (shard)
        WHERE shard_projection.lsn IS DISTINCT FROM log.head
    )
"""
JOBS = """
SELECT id::text, CASE WHEN idempotency_key LIKE 'cron %' THEN 'quick-' || idempotency_key
    ELSE payload ->> 'mark' END, status, attempts, failed_reason
FROM jobs
"""
EXECUTIONS = "SELECT job_id::text, attempt_number, status FROM job_executions"
LOG = "SELECT shard, lsn, body FROM shard_log ORDER BY shard, lsn"
TICK = "quick-cron "
DATABASE_AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)


def fetch(url: str, statement: str, *arguments: Any) -> list[asyncpg.Record]:
    """Rows of one statement over a connection of its own."""

    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url, timeout=10.0)
        try:
            return await connection.fetch(statement, *arguments, timeout=60.0)
        finally:
            await connection.close()

    return asyncio.run(run())


def is_quiet(url: str) -> bool:
    """No job is open, and the tables know the whole log."""
    return bool(fetch(url, QUIET)[0][0])


def gather(url: str, folder: Path) -> Run:
    """The run as the database and the histories in the folder tell it."""
    run = Run()
    for path in sorted(folder.glob("client-*.jsonl")):
        with path.open() as lines:
            read_client(run, lines)
    for path in sorted(folder.glob("worker-*.jsonl")):
        with path.open() as lines:
            read_handlers(run, lines)
    for shard, lsn, body in fetch(url, LOG):
        run.lsns.setdefault(shard, []).append(lsn)
        run.events += events_of(shard, lsn, body)
    run.jobs = [JobRow(*row) for row in fetch(url, JOBS)]
    for row in run.jobs:
        if row.mark.startswith(TICK):  # asked for by a schedule
            run.calls[row.mark] = Call(row.mark, (row.mark,), row.mark)
    run.executions = [ExecutionRow(*row) for row in fetch(url, EXECUTIONS)]
    return run


def events_of(shard: int, lsn: int, body: bytes) -> list[Event]:
    """The events of one row that are about jobs."""
    found = []
    for event in tablelog.decode(body).events:
        if isinstance(event, tablelog.Keyed | tablelog.Owned):
            continue
        attempt = event.attempt if isinstance(event, tablelog.Started) else 0
        job = str(UUID(bytes=event.job_id))
        found.append(Event(shard, lsn, KINDS[type(event)], job, attempt))
    return found
