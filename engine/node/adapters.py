"""What a node gives to its parts of the store and the cluster: small pieces between two ports."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from taskforge_server.engine.errors import Unavailable
from taskforge_server.engine.journal.takeover import Count, StoredKey
from taskforge_server.engine.runtime.clock import Clock
from taskforge_server.engine.store import loader
from taskforge_server.engine.store.pool import UNREACHABLE, Connection, Pool, acquire
from taskforge_server.engine.store.statements import sql

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ID_BYTES = 16


class StoredJobs:
    """What the owner of a shard reads of the tables."""

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        fenced: Callable[[], Awaitable[None]] | None = None,
        connect: Callable[[], Awaitable[Connection]] | None = None,
    ) -> None:
        """`fenced` is waited for before the first read: shards are ours then, by the log, and what
        their earlier owner did is done. `connect`: a connection of its own, to count on."""
        self._pool = pool
        self._clock = clock
        self._fenced = fenced
        self._connect = connect

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

    def bound(self, shard: int) -> AsyncGenerator[bytes, None]:
        return self._copied("jobs_bound", shard)

    def named(self, ids: bytes) -> AsyncGenerator[bytes, None]:
        each = [ids[at : at + ID_BYTES] for at in range(0, len(ids), ID_BYTES)]
        return self._copied("jobs_named", each)

    def of_queue(self, queue_id: bytes, after: bytes, rows_max: int) -> AsyncGenerator[bytes, None]:
        return self._copied("jobs_of_queue", queue_id, after, rows_max)

    def first_pages(self, shard: int, rows_max: int) -> AsyncGenerator[bytes, None]:
        return self._copied("jobs_first_pages", shard, rows_max)

    async def page(
        self, shard: int, queue_id: bytes, job_type: str, place: tuple[int, bytes], rows_max: int
    ) -> AsyncGenerator[bytes, None]:
        async with acquire(self._pool) as connection:
            async for chunk in loader.jobs_page(
                connection, shard, queue_id, job_type, place, rows_max
            ):
                yield chunk

    async def due(
        self, shard: int, place: tuple[int, bytes], until_us: int, rows_max: int
    ) -> AsyncGenerator[bytes, None]:
        async with acquire(self._pool) as connection:
            async for chunk in loader.jobs_due(connection, shard, place, until_us, rows_max):
                yield chunk

    async def _copied(self, statement: str, *args: object) -> AsyncGenerator[bytes, None]:
        async with acquire(self._pool) as connection:
            async for chunk in loader.copied(connection, statement, *args):
                yield chunk

    async def counting(self, marks: Mapping[int, int]) -> Count:
        """The tables as they are now are counted when the answer is called. On a connection of its
        own: it may take many seconds, and those of the pool are few."""
        assert self._connect is not None
        try:
            connection = await self._connect()
            try:
                whole = connection.transaction(isolation="repeatable_read", readonly=True)
                await whole.start()
                await connection.execute(sql("clock"))  # the first statement takes the snapshot
            except BaseException:
                connection.terminate()
                raise
        except UNREACHABLE as error:
            raise Unavailable(message="the database is not available now: try again") from error

        async def count() -> Sequence[loader.Waiting]:
            try:
                return await loader.waiting_counts(connection, marks)
            except UNREACHABLE as error:
                raise Unavailable(message="the database is not available now") from error
            finally:
                connection.terminate()

        return count

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
