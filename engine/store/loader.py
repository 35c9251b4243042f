"""What a new owner of a shard reads before it replays the tail of the log.

    unfinished jobs    binary COPY OUT in chunks of whole rows: those that run, then those that
                       wait, in the order in which they start
    idempotency keys   younger than their retention
    watermark          the lsn up to which the log is in the tables

Nothing here is decoded: the shard table reads the rows as they come from the server.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from taskforge_server.engine import limits
from taskforge_server.engine.store.pool import Lent
from taskforge_server.engine.store.statements import sql

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CHUNKS_WAITING_MAX = 2


class RememberedKey(NamedTuple):
    """An idempotency key with what its first use got."""

    project_id: bytes
    key: str
    body_hash: bytes
    ids: bytes
    created_us: int


async def unfinished_jobs(connection: Lent, shard: int, running: bool) -> AsyncIterator[bytes]:
    """Rows of binary COPY in the order of the columns of `jobs`, priority 9 first, then by id: of
    the jobs that run, or of those that wait.

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

    async def copy() -> None:
        try:
            await connection.copy_from_query(
                sql("jobs_unfinished"),
                shard,
                running,
                output=take,
                format="binary",
                timeout=limits.BULK_TIMEOUT_S,
            )
            if gathered:
                await chunks.put(bytes(gathered))
        finally:
            await chunks.put(None)

    copying = asyncio.create_task(copy(), name=f"load shard {shard}")
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
