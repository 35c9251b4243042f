"""What handlers logged: the rows of `execution_logs`. Written in bulk, read by execution.

Lines are appended and never changed. A line may be added twice: its id says that it is the same
(`engine.model.execution.log_id`), and the first one stays.
"""

import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from taskforge_server.engine import limits
from taskforge_server.engine.errors import NotFound
from taskforge_server.engine.model.execution import LogLevel, LogLine, log_id, log_number
from taskforge_server.engine.store.cursors import LOGS, after_id, id_cursor
from taskforge_server.engine.store.pool import Pool, acquire
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.store.tenancy import tenant

log = logging.getLogger(__name__)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_ID = bytes(16)
COLUMNS = ("id", "execution_id", "level", "message", "metadata", "logged_at", "project_id")


class ExecutionLogs:
    """The repository of `execution_logs`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, lines: Sequence[LogLine]) -> int:
        """Write lines; how many the table refused for what they hold. Unavailable."""
        rows = [_row(line) for line in lines]
        try:
            async with acquire(self._pool) as connection:
                await connection.copy_records_to_table(
                    "execution_logs", records=rows, columns=COLUMNS, timeout=limits.BULK_TIMEOUT_S
                )
            return 0
        except (asyncpg.UniqueViolationError, asyncpg.DataError):
            return await self._merge(rows)

    async def _merge(self, rows: list[tuple[Any, ...]]) -> int:
        """Write what is not there; a row that cannot be written is found by halving."""
        try:
            async with acquire(self._pool) as connection:
                columns = [list(column) for column in zip(*rows, strict=True)]
                await connection.execute(sql("log_merge"), *columns)
            return 0
        except asyncpg.DataError as error:
            if len(rows) == 1:
                log.error("the table refused a line of execution %s: %s", rows[0][1].hex(), error)
                return 1
            half = len(rows) // 2
            return await self._merge(rows[:half]) + await self._merge(rows[half:])

    async def get(self, project_id: bytes, job_id: bytes, line_id: bytes) -> LogLine:
        """One line of a job that is known to be the caller's."""
        async with tenant(self._pool, project_id=project_id) as connection:
            row = await connection.fetchrow(sql("log_get"), line_id, project_id)
        if row is None:
            raise NotFound("no such line", "id")
        return _line(row, job_id)

    async def page(
        self,
        project_id: bytes,
        job_id: bytes,
        execution_ids: Sequence[bytes],
        level: LogLevel | None = None,
        after: bytes | None = None,
        rows_max: int = limits.PAGE_ROWS_DEFAULT,
    ) -> tuple[list[LogLine], bool]:
        """Lines of these executions of the job behind the line `after`, the oldest first, and
        whether there are more."""
        assert 1 <= rows_max <= limits.PAGE_ROWS_MAX
        async with tenant(self._pool, project_id=project_id) as connection:
            rows = await connection.fetch(
                sql("log_list"),
                *_ranges(execution_ids),
                after or FIRST_ID,
                project_id,
                level,
                rows_max + 1,
            )
        return [_line(row, job_id) for row in rows[:rows_max]], len(rows) > rows_max

    async def delete(self, execution_ids: Sequence[bytes]) -> None:
        """The lines of these executions, as far as the executions themselves were not kept."""
        async with acquire(self._pool) as connection:
            await connection.execute(sql("log_delete"), *_ranges(execution_ids))


def log_cursor(line_id: bytes) -> str:
    """The cursor that continues after this line."""
    return id_cursor(LOGS, line_id)


def after_log(cursor: str) -> bytes:
    """The line in a cursor; InvalidInput."""
    return after_id(LOGS, cursor)


def _ranges(execution_ids: Iterable[bytes]) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """Ids of executions with the least and the greatest ids of their lines."""
    ids = list(execution_ids)
    lows = [log_id(execution_id, 0) for execution_id in ids]
    return ids, lows, [log_id(execution_id, limits.LOG_NUMBER_MAX) for execution_id in ids]


def _row(line: LogLine) -> tuple[Any, ...]:
    return (
        line.id,
        line.execution_id,
        line.level,
        line.message,
        line.metadata.decode(),
        EPOCH + timedelta(microseconds=line.logged_us),
        line.project_id,
    )


def _line(row: asyncpg.Record, job_id: bytes) -> LogLine:
    return LogLine(
        execution_id=row["execution_id"],
        number=log_number(row["id"]),
        job_id=job_id,
        project_id=row["project_id"],
        level=row["level"],
        message=row["message"],
        metadata=row["metadata"].encode(),
        logged_us=(row["logged_at"] - EPOCH) // timedelta(microseconds=1),
    )
