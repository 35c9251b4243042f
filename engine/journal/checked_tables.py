"""What the check reads of the tables in Postgres: every row, over connections of its own."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from taskforge_server.engine import limits
from taskforge_server.engine.journal.check import Row
from taskforge_server.engine.journal.link import Connect, Connection
from taskforge_server.engine.journal.statements import sql
from taskforge_server.engine.journal.takeover import StoredKey, UnfinishedJobs
from taskforge_server.ext.pure.tablerows import (
    BYTES_AS_TEXT,
    EXECUTION_COLUMNS,
    JOB_COLUMNS,
    JSONB,
    TIME,
    Codec,
    Columns,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class PostgresCheckedTables:
    """Reads in a snapshot for each table; what a new owner reads comes from `unfinished_jobs`."""

    def __init__(self, connect: Connect, unfinished_jobs: UnfinishedJobs) -> None:
        self._connect = connect
        self._unfinished_jobs = unfinished_jobs

    async def watermarks(self, shards: Sequence[int]) -> dict[int, int]:
        return await self._unfinished_jobs.watermarks(shards)

    def unfinished(self, shard: int, running: bool) -> AsyncGenerator[bytes, None]:
        return self._unfinished_jobs.unfinished(shard, running)

    async def keys(self, shard: int) -> Sequence[StoredKey]:
        return await self._unfinished_jobs.keys(shard)

    def all_jobs(self) -> AsyncIterator[Row]:
        return self._rows("check_jobs", JOB_COLUMNS)

    def all_executions(self) -> AsyncIterator[Row]:
        return self._rows("check_executions", EXECUTION_COLUMNS)

    def all_edges(self) -> AsyncIterator[Row]:
        return self._rows("check_edges", ())

    def all_usage(self) -> AsyncIterator[Row]:
        return self._rows("check_usage", ())

    async def refused(self) -> dict[int, int]:
        async with self._connection() as connection:
            rows = await connection.fetch(sql("check_refused"))
        return {row["shard"]: row["refused"] for row in rows}

    async def _rows(self, statement: str, columns: Columns) -> AsyncIterator[Row]:
        converted = [(name, codec) for name, codec, _ in columns if _is_converted(codec)]
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(self._connection())
            await stack.enter_async_context(connection.transaction(readonly=True))
            records = connection.cursor(sql(statement), prefetch=limits.CHECK_PREFETCH_ROWS)
            async for record in records:
                row = dict(record)
                for name, codec in converted:
                    if row[name] is not None:
                        row[name] = _converted(codec, row[name])
                yield row

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        connection = await self._connect()
        try:
            await connection.execute(sql("session"), str(round(limits.BULK_TIMEOUT_S * 1000)))
            yield connection
        finally:
            await connection.close(timeout=limits.CONNECT_TIMEOUT_S)


def _is_converted(codec: Codec) -> bool:
    # By identity: codecs of other types have the same functions.
    return codec is TIME or codec is JSONB or codec is BYTES_AS_TEXT


def _converted(codec: Codec, value: Any) -> int | bytes:
    """As the codec of COPY gives it: times in microseconds, JSON as bytes."""
    if codec is TIME:
        return int((value - EPOCH) // MICROSECOND)
    return bytes(value.encode())
