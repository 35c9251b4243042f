"""What the owner of a shard reads of the tables: when it takes the shard over, and later on.

    unfinished jobs    all of a shard that run, or all that wait
    waiting jobs       some of them: the first of each lane, the next of one, those that come due,
                       those that are named, those that must be in memory; and how many there are
    idempotency keys   younger than their retention
    watermark          the lsn up to which the log is in the tables

Jobs come as binary COPY OUT in chunks of whole rows. Nothing here is decoded: the shard table reads
the rows as they come from the server.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from taskforge_server.engine import limits
from taskforge_server.engine.store.pool import Lent
from taskforge_server.engine.store.statements import sql

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_US = (datetime.max.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
CHUNKS_WAITING_MAX = 2


class RememberedKey(NamedTuple):
    """An idempotency key with what its first use got."""

    project_id: bytes
    key: str
    body_hash: bytes
    ids: bytes
    created_us: int


class Waiting(NamedTuple):
    """How many jobs of a queue wait, in the tables."""

    shard: int
    queue_id: bytes
    project_id: bytes
    pending: int
    scheduled: int


def unfinished_jobs(connection: Lent, shard: int, running: bool) -> AsyncGenerator[bytes, None]:
    """The jobs that run, or those that wait, priority 9 first, then by id."""
    return copied(connection, "jobs_unfinished", shard, running)


def jobs_page(
    connection: Lent,
    shard: int,
    queue_id: bytes,
    job_type: str,
    place: tuple[int, bytes],
    rows_max: int,
) -> AsyncGenerator[bytes, None]:
    """The next pending jobs of a lane behind a place, as they start."""
    return copied(connection, "jobs_page", shard, queue_id, job_type, *place, rows_max)


def jobs_due(
    connection: Lent, shard: int, place: tuple[int, bytes], until_us: int, rows_max: int
) -> AsyncGenerator[bytes, None]:
    """The next jobs that are due up to a time, behind a place."""
    due_us, job_id = place
    return copied(connection, "jobs_due", shard, moment(due_us), job_id, moment(until_us), rows_max)


async def copied(connection: Lent, statement: str, *args: object) -> AsyncGenerator[bytes, None]:
    """Rows of binary COPY in the order of the columns of `jobs`.

    A chunk holds whole rows; the first begins with the header of the format, the last ends with its
    trailer. The connection is busy until the iterator is at its end or closed.
    """
    chunks: asyncio.Queue[bytes | None] = asyncio.Queue(CHUNKS_WAITING_MAX)
    gathered = bytearray()

    async def take(data: bytes) -> None:
        # The server sends each row as one message, and asyncpg hands on whole messages.
        gathered.extend(data)
        if len(gathered) >= limits.LOAD_CHUNK_BYTES:
            await chunks.put(bytes(gathered))
            gathered.clear()
        if len(data) >= limits.LOAD_PIECE_BYTES:
            # More is to come. While nobody reads it gathers in the socket; to be woken for each
            # piece costs more than what is in it.
            await asyncio.sleep(limits.LOAD_GATHER_S)

    async def copy() -> None:
        try:
            await connection.copy_from_query(
                sql(statement),
                *args,
                output=take,
                format="binary",
                timeout=limits.BULK_TIMEOUT_S,
            )
            if gathered:
                await chunks.put(bytes(gathered))
        finally:
            await chunks.put(None)

    copying = asyncio.create_task(copy(), name=f"read {statement}")
    try:
        while (chunk := await chunks.get()) is not None:
            yield chunk
        await copying
    finally:
        if not copying.done():
            while not chunks.empty():  # so that the final put of `copy` finds room
                chunks.get_nowait()
            copying.cancel()
            await asyncio.gather(copying, return_exceptions=True)


async def waiting_counts(connection: Lent, marks: Mapping[int, int]) -> list[Waiting]:
    """What waits in these shards, of that which the log up to their marks says."""
    rows = await connection.fetch(
        sql("jobs_away_count"), list(marks), list(marks.values()), timeout=limits.BULK_TIMEOUT_S
    )
    return [Waiting(*row) for row in rows]


def moment(time_us: int) -> datetime:
    """A time as the driver takes it; what lies beyond its years is its last one."""
    return EPOCH + timedelta(microseconds=min(time_us, LAST_US))


async def idempotency_keys(connection: Lent, shard: int, now_us: int) -> list[RememberedKey]:
    """The keys of a shard that are not forgotten yet, the oldest first."""
    oldest = EPOCH + timedelta(microseconds=now_us, seconds=-limits.IDEMPOTENCY_KEY_RETENTION_S)
    rows = await connection.fetch(sql("idempotency_keys_of_shard"), shard, oldest)
    return [
        RememberedKey(
            row["project_id"],
            row["key"],
            row["body_hash"],
            row["ids"],
            (row["created_at"] - EPOCH) // timedelta(microseconds=1),
        )
        for row in rows
    ]


async def expire_idempotency_keys(connection: Lent, now_us: int, rows_max: int) -> int:
    """Delete up to `rows_max` keys that are past their retention; returns how many went."""
    oldest = EPOCH + timedelta(microseconds=now_us, seconds=-limits.IDEMPOTENCY_KEY_RETENTION_S)
    status = await connection.execute(sql("idempotency_keys_expire"), oldest, rows_max)
    return int(status.rpartition(" ")[2])


async def fence(connection: Lent, epochs: Mapping[int, int]) -> None:
    """Let nobody but the owners of these epochs, or later ones, write the rows of their shards."""
    await connection.execute(sql("watermarks_fence"), list(epochs), list(epochs.values()))


async def watermarks(connection: Lent, shards: Sequence[int]) -> dict[int, int]:
    """shard -> lsn up to which it is projected; 0 for one that never was."""
    rows = await connection.fetch(sql("watermarks"), list(shards))
    return dict.fromkeys(shards, 0) | {row["shard"]: row["lsn"] for row in rows}
