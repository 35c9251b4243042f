"""The log in Postgres: the table `shard_log`, written over connections of its own, one for each
append that is under way.

    append:   sent --rows back--> each row is ours, or refused --read back--> ours / another's
                |                                                              (fenced)
                '--connection lost, timeout: the outcome is unknown--> connect again, send again

Sending again is safe: a row that the first try wrote refuses the second, is read back, and its
prefix (checksum and nonce) says that it is ours. A first try that is still under way in the server
makes the second wait for it at the primary key. So every refused row is read back, and only a row
whose place holds another's prefix, or whose place was trimmed away, counts as fenced.

Within JOURNAL_RETRY_S the outcome is known or the call raises Unavailable. The server gives up on a
statement after JOURNAL_STATEMENT_S; trimming waits longer than that (see `projector`), so that no
statement can be older than the rows that refuse it.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from typing import TypeVar

import asyncpg

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.journal.direct import DirectStatement, Prepared
from taskforge_server.engine.journal.link import (
    DATABASE_ERRORS,
    Backoff,
    Connect,
    Connection,
    Link,
    is_environmental,
)
from taskforge_server.engine.journal.log import PREFIX_BYTES, LogRow, check_rows
from taskforge_server.engine.journal.statements import sql

log = logging.getLogger(__name__)

ONE_WRITTEN = b"INSERT 0 1"
T = TypeVar("T")


class _TornError(Exception):
    """Rows that belong together cannot all be written."""


class _Writer:
    """A connection that appends, and the statements prepared on it."""

    def __init__(self, connect: Connect) -> None:
        self.link = Link(connect)
        self._prepared_on: Connection | None = None
        self.many: Prepared
        self.one: DirectStatement

    @property
    def prepared(self) -> "Connection | None":
        """The connection, if it is open and its statements are known."""
        connection = self._prepared_on
        return connection if connection is not None and connection is self.link.here else None

    async def ready(self) -> Connection:
        connection = await self.link.get()
        if connection is not self._prepared_on:
            await _session(connection, limits.JOURNAL_STATEMENT_S)
            self.many = await connection.prepare(sql("log_append"))
            one = await connection.prepare(sql("log_append_one"))
            self.one = DirectStatement(connection, one, limits.JOURNAL_STATEMENT_S)
            self._prepared_on = connection
        return connection


class PostgresShardLog:
    """The log of all shards. JOURNAL_LANES appends are under way at a time; others wait."""

    def __init__(self, connect: Connect, retry_s: float = limits.JOURNAL_RETRY_S) -> None:
        self._writers = [_Writer(connect) for _ in range(limits.JOURNAL_LANES)]
        # The one that was used last goes first: its connection is there.
        self._free = list(self._writers)
        self._waiting: deque[asyncio.Future[_Writer]] = deque()
        self._trimmer = Link(connect)
        self._connect = connect
        self._retry_s = retry_s

    async def heads(self, shards: Iterable[int]) -> dict[int, tuple[int, int]]:
        wanted = list(shards)

        async def read(writer: _Writer) -> list[asyncpg.Record]:
            connection = await writer.ready()
            return await connection.fetch(
                sql("log_heads"), wanted, timeout=limits.JOURNAL_STATEMENT_S
            )

        found = await self._insist(read)
        known = {row["shard"]: (row["lsn"], row["epoch"]) for row in found}
        return {shard: known.get(shard, (0, 0)) for shard in wanted}

    async def append(self, rows: Sequence[LogRow], whole: frozenset[int] = frozenset()) -> set[int]:
        if len(rows) > 1:
            check_rows(rows)
            # In one order everywhere: two writers at the same shards cannot wait for each other.
            rows = sorted(rows)
        if len(whole) > 1:
            return await self._insist(self._try_whole, rows, whole)
        return await self._insist(self._try, rows)

    async def _writer(self) -> _Writer:
        """The next writer that is given back; who waits first gets it."""
        turn: asyncio.Future[_Writer] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(turn.result())
            raise

    def _give_back(self, writer: _Writer) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(writer)
                return
        self._free.append(writer)

    async def _insist(self, call: Callable[..., Awaitable[T]], *args: object) -> T:
        """Call with a writer that nobody else uses until it succeeds, each time over a new
        connection; Unavailable when time is up."""
        writer = self._free.pop() if self._free else await self._writer()
        deadline_s = time.monotonic() + self._retry_s
        backoff: Backoff | None = None
        try:
            while True:
                try:
                    return await call(writer, *args)
                except asyncio.CancelledError:
                    writer.link.discard()
                    raise
                except DATABASE_ERRORS as error:
                    writer.link.discard()
                    if not is_environmental(error):
                        raise
                    left_s = deadline_s - time.monotonic()
                    if left_s <= 0:
                        raise Unavailable(limits.UNAVAILABLE_RETRY_S) from error
                    log.warning("the log did not answer, trying again: %r", error)
                    backoff = backoff or Backoff()
                    await backoff.pause(left_s)
        finally:
            self._give_back(writer)

    async def _try(self, writer: _Writer, rows: Sequence[LogRow]) -> set[int]:
        connection = writer.prepared or await writer.ready()
        if len(rows) == 1:
            mine = await self._try_one(writer, rows[0])
        else:
            columns = [list(column) for column in zip(*rows, strict=True)]
            written = await writer.many.fetch(*columns, timeout=limits.JOURNAL_STATEMENT_S)
            mine = {row[0] for row in written}
        if len(mine) < len(rows):
            refused = [row for row in rows if row.shard not in mine]
            mine |= await self._ours(connection, refused)
        return mine

    async def _try_one(self, writer: _Writer, row: LogRow) -> set[int]:
        """The same for one row. Outside of a transaction, which a unique violation would end."""
        try:
            tag = await writer.one.run(row)
        except asyncpg.UniqueViolationError:
            return set()  # somebody wrote there while we did
        return {row.shard} if tag == ONE_WRITTEN else set()

    async def _try_whole(
        self, writer: _Writer, rows: Sequence[LogRow], whole: frozenset[int]
    ) -> set[int]:
        """The same in a transaction that is undone when one of these shards is fenced; then the
        rows of the others are written without theirs."""
        connection = await writer.ready()
        try:
            async with asyncio.timeout(limits.JOURNAL_STATEMENT_S), connection.transaction():
                mine = await self._try(writer, rows)
                if whole - mine:
                    raise _TornError
        except _TornError:
            others = [row for row in rows if row.shard not in whole]
            return await self._try(writer, others) if others else set()
        return mine

    async def _ours(self, connection: Connection, refused: Sequence[LogRow]) -> set[int]:
        """Of the refused rows those that an earlier try of ours wrote."""
        found = await connection.fetch(
            sql("log_prefixes"),
            [row.shard for row in refused],
            [row.lsn for row in refused],
            PREFIX_BYTES,
            timeout=limits.JOURNAL_STATEMENT_S,
        )
        prefixes = {row["shard"]: row["prefix"] for row in found}
        return {row.shard for row in refused if prefixes.get(row.shard) == row.prefix}

    async def read(self, shard: int, after_lsn: int) -> AsyncGenerator[LogRow, None]:
        async for row in self.read_all({shard: after_lsn}):
            yield row

    async def read_all(self, after: Mapping[int, int]) -> AsyncGenerator[LogRow, None]:
        # A connection of its own: a long read must not hold up the appends of other shards.
        async with self._reader() as connection, connection.transaction(readonly=True):
            rows = connection.cursor(
                sql("log_read"),
                list(after),
                list(after.values()),
                prefetch=limits.LOG_READ_ROWS_MAX,
            )
            async for row in rows:
                yield LogRow(*row)

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[Connection]:
        link = Link(self._connect)
        try:
            connection = await link.get()
            await _session(connection, limits.BULK_TIMEOUT_S)
            yield connection
        except BaseException:
            link.discard()
            raise
        finally:
            await link.close()

    async def trim(self, below: Mapping[int, int]) -> int:
        try:
            connection = await self._trimmer.get()
            await _session(connection, limits.BULK_TIMEOUT_S)
            done = await connection.execute(
                sql("log_trim"), list(below), list(below.values()), timeout=limits.BULK_TIMEOUT_S
            )
        except BaseException:
            self._trimmer.discard()
            raise
        return int(done.split()[-1])

    async def close(self) -> None:
        for writer in self._writers:
            await writer.link.close()
        await self._trimmer.close()


async def _session(connection: Connection, statement_s: float) -> None:
    await connection.execute(sql("session"), str(round(statement_s * 1000)))
