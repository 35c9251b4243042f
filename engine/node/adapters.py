"""What a node gives to its parts of the store and the cluster: small pieces between two ports."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from taskforge_server.engine.journal.takeover import StoredKey
from taskforge_server.engine.runtime.clock import Clock
from taskforge_server.engine.store import loader
from taskforge_server.engine.store.pool import Pool, acquire
from taskforge_server.engine.store.statements import sql

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class StoredJobs:
    """What a new owner of a shard reads of the tables."""

    def __init__(
        self, pool: Pool, clock: Clock, fenced: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """`fenced` is waited for before the first read: shards are ours then, by the log, and what
        their earlier owner did is done."""
        self._pool = pool
        self._clock = clock
        self._fenced = fenced

    async def fence(self, epochs: Mapping[int, int]) -> None:
        async with acquire(self._pool) as connection:
            await loader.fence(connection, epochs)

    async def watermarks(self, shards: Sequence[int]) -> dict[int, int]:
        if self._fenced is not None:
            await self._fenced()
        async with acquire(self._pool) as connection:
            return await loader.watermarks(connection, shards)

    async def unfinished(self, shard: int, running: bool) -> AsyncGenerator[bytes, None]:
        async with acquire(self._pool) as connection:
            async for chunk in loader.unfinished_jobs(connection, shard, running):
                yield chunk

    async def keys(self, shard: int) -> Sequence[StoredKey]:
        async with acquire(self._pool) as connection:
            return await loader.idempotency_keys(connection, shard, self._clock.now_us())


class DatabaseTime:
    """Asks the database for its time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def measure_us(self) -> int:
        """Microseconds since the epoch."""
        async with acquire(self._pool) as connection:
            at: datetime = await connection.fetchval(sql("clock"))
        return (at - EPOCH) // timedelta(microseconds=1)
