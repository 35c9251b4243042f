"""The tables in Postgres, written in bulk over three connections of their own.

    executions   connection A      | COPY job_executions | replace | epochs | commit
    jobs         connections B, C  | COPY jobs | replace | its turn | deletes | keys | usage | edges
                                   | watermarks | commit

Two rounds may be written at once, since a row that is surely new is in one round alone, and of a
round with jobs of an earlier one (`overlaps`) rows are replaced in its turn; all else waits until
the round before is committed. A round that waits for long is undone, and written in its turn: a
transaction that is waited for must not wait for one that comes later. While others share the
machine there is one round at a time.

Rows that are surely new go by COPY into the table; many for one partition straight into it: that of
jobs that have not ended, or that of a day. Of others the older row is deleted, if there is one, and
then they go by COPY too: that costs little more than half of an update. When a row stands in the
way all the same, or one job has several, rows go by COPY into a temporary table and are merged from
there by id: the greater lsn wins. So every write may be repeated, and a repetition merges all rows.
No key spans open jobs and ended ones: that a job stands once rests on the older row being deleted
and on the owner being the only one who writes. The last statement before a commit, in B the one
with the watermarks, finds whether a shard has a later owner (`epoch`), and keeps one from coming
until the commit.

In the careful way each portion has a savepoint; a portion with a bad row is halved until the row
stands alone, and goes to `projection_errors`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import asyncpg

from taskforge_server.engine import limits
from taskforge_server.engine.journal.link import (
    DATABASE_ERRORS,
    Connect,
    Connection,
    Link,
    is_data_error,
)
from taskforge_server.engine.journal.pace import Pace
from taskforge_server.engine.journal.rounds import (
    Fenced,
    How,
    InDoubt,
    Projection,
    RowExists,
    RowsRefused,
    Turn,
    at_once,
    copy_chunks,
    places,
    watermarks,
)
from taskforge_server.engine.journal.statements import sql
from taskforge_server.engine.runtime import faultpoints, safeguards
from taskforge_server.ext.pure.tablerows import EXECUTION_COLUMNS, JOB_COLUMNS, Columns, plain
from taskforge_server.ext.rowplaces import row_places
from taskforge_server.ext.table import split_rows

log = logging.getLogger(__name__)

ID_BYTES = 16
ID_TIME_BYTES = 6  # milliseconds
DAY_MS = 86_400_000
ROW_COLUMNS_BYTES = 2
LENGTH_BYTES = 4
ROW_ID_START = ROW_COLUMNS_BYTES + LENGTH_BYTES


@dataclass(frozen=True, slots=True)
class Target:
    """A table that rows are written to."""

    name: str
    incoming: str
    forms: Mapping[int, tuple[str, ...]]
    merge: str
    clear: str
    replace: str
    partition: str
    """Asks for the partition of a day, or for that of rows that have no day."""
    undated: str | None
    """While this column is NULL a row has no day."""
    copy_of: Callable[[Projection], tuple[bytes, ...]]
    copy_ms_of: Callable[[Projection], tuple[int, int]]
    merge_of: Callable[[Projection], tuple[bytes, ...]]

    @property
    def lsn_column(self) -> int:
        """The same in both forms."""
        (column,) = {names.index("lsn") for names in self.forms.values()}
        return column

    def is_dated(self, part: bytes) -> bool:
        """Whether rows like the first of these stand in the partition of their day."""
        if self.undated is None:
            return True
        at = ROW_COLUMNS_BYTES
        for name in self.forms[int.from_bytes(part[:ROW_COLUMNS_BYTES])]:
            size = int.from_bytes(part[at : at + LENGTH_BYTES], signed=True)
            if name == self.undated:
                return size >= 0
            at += LENGTH_BYTES + max(size, 0)
        return False


def _forms(columns: Columns) -> dict[int, tuple[str, ...]]:
    """The names of the columns of a row by their number, with which it begins. Those that it lacks
    have no default in their table: they are NULL."""
    return {len(form): tuple(column.name for column in form) for form in (plain(columns), columns)}


EXECUTIONS = Target(
    name="job_executions",
    incoming="incoming_executions",
    forms=_forms(EXECUTION_COLUMNS),
    merge="executions_merge",
    clear="incoming_executions_clear",
    replace="executions_replaced",
    partition="executions_partition",
    undated=None,
    copy_of=lambda projection: projection.executions_copy,
    copy_ms_of=lambda projection: projection.executions_copy_ms,
    merge_of=lambda projection: projection.executions_merge,
)
JOBS = Target(
    name="jobs",
    incoming="incoming_jobs",
    forms=_forms(JOB_COLUMNS),
    merge="jobs_merge",
    clear="incoming_jobs_clear",
    replace="jobs_replaced",
    partition="jobs_partition",
    undated="finished_at",
    copy_of=lambda projection: projection.jobs_copy,
    copy_ms_of=lambda projection: projection.jobs_copy_ms,
    merge_of=lambda projection: projection.jobs_merge,
)


class PostgresTables:
    """Writes rounds. One write of executions is under way at a time, and PROJECTION_WRITERS of
    jobs."""

    def __init__(self, connect: Connect, pace: Pace | None = None) -> None:
        """`pace`: when to stand back for others."""
        self._pace = pace or Pace()
        self._executions = Link(connect)
        self._jobs = [Link(connect) for _ in range(limits.PROJECTION_WRITERS)]
        self._free = list(self._jobs)
        self._ready: dict[Link, Connection] = {}
        self.refused_rows = 0
        """Rows put aside since the start."""
        self.refused_shards: set[int] = set()
        """The shards that they were of."""

    async def write_executions(
        self, projections: Sequence[Projection], how: How, epochs: Mapping[int, int]
    ) -> None:
        written = [p for p in projections if EXECUTIONS.copy_of(p) or EXECUTIONS.merge_of(p)]
        if not written:
            return
        async with _judged(self._executions):
            connection = await self._session(self._executions)
            async with connection.transaction():
                await self._write(connection, EXECUTIONS, written, how)
                await _hold(connection, {p.shard: epochs[p.shard] for p in written})

    async def write_jobs(
        self,
        projections: Sequence[Projection],
        how: How,
        epochs: Mapping[int, int],
        turn: Turn = at_once,
    ) -> None:
        if how is not How.FAST or self._pace.crowded:
            await turn()
        link = self._free.pop()
        try:
            try:
                await self._write_jobs(link, projections, how, epochs, turn)
            except _TooEarlyError:
                await turn()
                await self._write_jobs(link, projections, how, epochs, turn)
        finally:
            self._free.append(link)

    async def _write_jobs(
        self,
        link: Link,
        projections: Sequence[Projection],
        how: How,
        epochs: Mapping[int, int],
        turn: Turn,
    ) -> None:
        async with _judged(link):
            connection = await self._session(link)
            if not safeguards.ACTIVE.projection_watermark:
                await _advance(connection, projections, epochs)
            async with connection.transaction():
                await self._write(connection, JOBS, projections, how, turn)
                await _delete(connection, projections)
                await self._keys(connection, projections, how)
                await _count(connection, projections)
                await _relate(connection, projections)
                if safeguards.ACTIVE.projection_watermark:
                    await _advance(connection, projections, epochs)
                faultpoints.hit(faultpoints.IN_PROJECTOR_TRANSACTION)

    async def close(self) -> None:
        for link in (self._executions, *self._jobs):
            await link.close()

    async def _session(self, link: Link) -> Connection:
        connection = await link.get()
        if self._ready.get(link) is not connection:
            await connection.execute(
                sql("projector_session"),
                str(round(limits.BULK_TIMEOUT_S * 1000)),
                str(round(limits.PROJECTION_IDLE_S * 1000)),
            )
            await connection.execute(sql("incoming_create"))
            self._ready[link] = connection
        return connection

    async def _write(
        self,
        connection: Connection,
        target: Target,
        projections: Sequence[Projection],
        how: How,
        turn: Turn = at_once,
    ) -> None:
        new = [p for p in projections if target.copy_of(p)]
        copies = [part for p in new for part in target.copy_of(p)]
        merges = [part for p in projections for part in target.merge_of(p)]
        if how is How.CAREFUL:
            await self._write_carefully(connection, target, copies + merges)
            return
        if how is How.MERGE:
            copies, merges = [], copies + merges
        if copies:
            least, greatest = zip(*map(target.copy_ms_of, new), strict=True)
            await self._copy_of_days(connection, target, copies, min(least), max(greatest))
        if any(p.overlaps for p in projections):
            await _in_time(turn)
            await self._renew_all(connection, target, merges, how)
        else:
            await self._renew_all(connection, target, merges, how)
            await _in_time(turn)

    async def _renew_all(
        self, connection: Connection, target: Target, merges: list[bytes], how: How
    ) -> None:
        if merges and self._pace.crowded:
            # One statement over a whole round would keep a core of the server busy for a second.
            for portion in merges:
                await self._renew(connection, target, [portion], how)
                await asyncio.sleep(self._pace.pause_s)
        elif merges:
            await self._renew(connection, target, merges, how)

    async def _write_carefully(
        self, connection: Connection, target: Target, parts: Iterable[bytes]
    ) -> None:
        for part in parts:
            rows = [part[start:end] for start, end in split_rows(part)]
            for start in range(0, len(rows), limits.PROJECTION_CAREFUL_ROWS):
                portion = rows[start : start + limits.PROJECTION_CAREFUL_ROWS]
                await self._write_portion(connection, target, portion)

    async def _write_portion(
        self, connection: Connection, target: Target, rows: list[bytes]
    ) -> None:
        """Merge these rows; those that the table refuses are put aside."""
        try:
            async with connection.transaction():
                await self._merge(connection, target, rows)
                await connection.execute(sql(target.clear))
        except DATABASE_ERRORS as error:
            if not is_data_error(error):
                raise
            if len(rows) > 1:
                half = len(rows) // 2
                await self._write_portion(connection, target, rows[:half])
                await self._write_portion(connection, target, rows[half:])
            else:
                await self._put_aside(connection, target.name, rows[0], error)

    async def _put_aside(
        self, connection: Connection, table: str, row: bytes, error: Exception
    ) -> None:
        shard = _shard_of(row[ROW_ID_START : ROW_ID_START + ID_BYTES])
        await self._note(connection, shard, table, row, error)

    async def _note(
        self, connection: Connection, shard: int, table: str, row: bytes, error: Exception
    ) -> None:
        self.refused_rows += 1
        self.refused_shards.add(shard)
        log.error("table %s refused a row of shard %d: %s", table, shard, error)
        await connection.execute(sql("projection_error_add"), shard, table, row, str(error))

    async def _copy(
        self, connection: Connection, table: str, target: Target, parts: Iterable[bytes]
    ) -> None:
        """Parts with rows of one form each, one COPY for each form."""
        by_form: dict[tuple[str, ...], list[bytes]] = {}
        for part in parts:
            form = target.forms[int.from_bytes(part[:ROW_COLUMNS_BYTES])]
            by_form.setdefault(form, []).append(part)
        for columns, rows in by_form.items():
            await connection.copy_to_table(
                table,
                source=self._stream(rows),
                columns=columns,
                format="binary",
                timeout=limits.BULK_TIMEOUT_S,
            )

    async def _copy_of_days(
        self,
        connection: Connection,
        target: Target,
        parts: list[bytes],
        least_ms: int,
        greatest_ms: int,
    ) -> None:
        """Rows whose ids are of these times: many for one partition need no look for theirs. The
        ids and the columns decide, so its own constraint never refuses one."""
        by_partition: dict[str, list[bytes]] = {}
        for dated, rows in _by_dated(target, parts).items():
            partition: str | None = None
            one = not dated or least_ms // DAY_MS == greatest_ms // DAY_MS
            if one and sum(map(len, rows)) >= limits.COPY_PARTITION_BYTES_MIN:
                day = least_ms // DAY_MS if dated else None
                partition = await connection.fetchval(sql(target.partition), day)
            by_partition.setdefault(partition or target.name, []).extend(rows)
        for table, rows in by_partition.items():
            await self._copy(connection, table, target, rows)

    async def _stream(self, parts: Iterable[bytes]) -> AsyncIterator[bytes]:
        """asyncpg takes bytes for the path of a file; what it asks for piece by piece it just
        sends."""
        crowded = self._pace.crowded
        size = limits.COPY_CHUNK_CROWDED_BYTES if crowded else limits.COPY_CHUNK_BYTES
        for chunk in copy_chunks(parts, size):
            yield cast(bytes, chunk)  # any buffer will do
            # The driver copies and sends a chunk in one go: let others have their turn.
            await asyncio.sleep(self._pace.pause_s)

    async def _renew(
        self, connection: Connection, target: Target, parts: list[bytes], how: How
    ) -> None:
        """Rows that may be there: they replace older ones. RowExists where one is newer."""
        places = None if how is How.MERGE else row_places(parts, target.lsn_column)
        if places is None:
            await self._merge(connection, target, parts)
            await connection.execute(sql(target.clear))
            return
        ids, lsns, least, greatest = places
        days = whole_days(least, greatest)
        await connection.execute(
            sql(target.replace), ids, *days, lsns, timeout=limits.BULK_TIMEOUT_S
        )
        await self._copy_of_days(connection, target, parts, _id_ms(least), _id_ms(greatest))

    async def _merge(self, connection: Connection, target: Target, parts: Iterable[bytes]) -> None:
        await self._copy(connection, target.incoming, target, parts)
        await connection.execute(sql(target.merge), timeout=limits.BULK_TIMEOUT_S)

    async def _keys(
        self, connection: Connection, projections: Sequence[Projection], how: How
    ) -> None:
        keys = [
            (project, key, p.shard, body_hash, ids, created_us)
            for p in projections
            for project, key, body_hash, ids, created_us in p.keys
        ]
        if not keys:
            return
        if how is not How.CAREFUL:
            columns = [list(column) for column in zip(*keys, strict=True)]
            await connection.execute(sql("keys_merge"), *columns)
            return
        for entry in keys:
            try:
                async with connection.transaction():
                    await connection.execute(sql("keys_merge"), *([value] for value in entry))
            except DATABASE_ERRORS as error:
                if not is_data_error(error):
                    raise
                row = repr(entry).encode()
                await self._note(connection, entry[2], "idempotency_keys", row, error)


def _by_dated(target: Target, parts: Iterable[bytes]) -> dict[bool, list[bytes]]:
    found: dict[bool, list[bytes]] = {}
    for part in parts:
        found.setdefault(target.is_dated(part), []).append(part)
    return found


def whole_days(least: bytes, greatest: bytes) -> tuple[bytes, bytes]:
    """The first id of the day of `least`, and the first of the day after that of `greatest`."""
    return _first_id(_id_ms(least) // DAY_MS), _first_id(_id_ms(greatest) // DAY_MS + 1)


def _id_ms(row_id: bytes) -> int:
    return int.from_bytes(row_id[:ID_TIME_BYTES])


def _first_id(day: int) -> bytes:
    return (day * DAY_MS).to_bytes(ID_TIME_BYTES).ljust(ID_BYTES, b"\0")


async def _in_time(turn: Turn) -> None:
    """Wait for the turn of a round, but not for long."""
    try:
        async with asyncio.timeout(limits.PROJECTION_TURN_S):
            await turn()
    except TimeoutError:
        raise _TooEarlyError from None


class _TooEarlyError(Exception):
    """The turn of a round did not come: its transaction was undone."""


@asynccontextmanager
async def _judged(link: Link) -> AsyncIterator[None]:
    """Says what a failure means; a connection whose work failed is not used again."""
    try:
        yield
    except asyncpg.UniqueViolationError as error:
        link.discard()
        raise RowExists(str(error)) from error
    except _TooEarlyError:
        raise
    except DATABASE_ERRORS as error:
        link.discard()
        raise (RowsRefused if is_data_error(error) else InDoubt)(repr(error)) from error
    except BaseException:
        link.discard()
        raise


async def _delete(connection: Connection, projections: Sequence[Projection]) -> None:
    deletes = places(b"".join(p.deletes for p in projections))
    if deletes:
        ids, lsns = zip(*deletes, strict=True)
        await connection.execute(sql("jobs_delete"), ids, lsns)
        await connection.execute(sql("executions_delete"), ids, lsns)


async def _count(connection: Connection, projections: Iterable[Projection]) -> None:
    """Submitted jobs; of several counts of one shard the newest."""
    counts = {(p.shard, *row[:2]): row[2:] for p in projections for row in p.usage}
    if counts:
        rows = [(*key, *count) for key, count in counts.items()]
        columns = [list(column) for column in zip(*rows, strict=True)]
        await connection.execute(sql("usage_merge"), *columns)


async def _relate(connection: Connection, projections: Iterable[Projection]) -> None:
    """Edges between jobs; those that are there stay as they are."""
    edges = [edge for p in projections for edge in p.edges]
    if edges:
        columns = [list(column) for column in zip(*edges, strict=True)]
        await connection.execute(sql("edges_merge"), *columns, timeout=limits.BULK_TIMEOUT_S)


async def _advance(
    connection: Connection, projections: Iterable[Projection], epochs: Mapping[int, int]
) -> None:
    """Move the watermarks, and keep later owners out until the commit; Fenced when one is there."""
    marks = watermarks(projections)
    rows = await connection.fetch(
        sql("watermarks_advance"),
        list(marks),
        list(marks.values()),
        [epochs[shard] for shard in marks],
    )
    if later := marks.keys() - {row["shard"] for row in rows}:
        raise Fenced(later)


async def _hold(connection: Connection, epochs: Mapping[int, int]) -> None:
    """Keep later owners out until the commit; Fenced when one is there."""
    rows = await connection.fetch(sql("epochs_hold"), list(epochs))
    if later := {row["shard"] for row in rows if row["epoch"] > epochs[row["shard"]]}:
        raise Fenced(later)


def _shard_of(job_id: bytes) -> int:
    return (job_id[6] & 0x0F) << 8 | job_id[7]
