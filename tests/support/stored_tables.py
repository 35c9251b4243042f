"""What a new owner reads from the tables in Postgres, over one connection."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from taskforge_server.engine.journal.takeover import Count, StoredKey, Waiting
from taskforge_server.engine.store import loader
from taskforge_server.engine.store.pool import Connection
from tests.support.journal_bench import START_US


class StoredTables:
    """One read after the other."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()

    async def fence(self, epochs: Mapping[int, int]) -> None:
        async with self._turn:
            await loader.fence(self._connection, epochs)

    async def watermarks(self, shards: Sequence[int]) -> dict[int, int]:
        async with self._turn:
            return await loader.watermarks(self._connection, shards)

    async def unfinished(self, shard: int, running: bool) -> AsyncGenerator[bytes, None]:
        async with self._turn:
            async for chunk in loader.unfinished_jobs(self._connection, shard, running):
                yield chunk

    def bound(self, shard: int) -> AsyncGenerator[bytes, None]:
        return self._copied("jobs_bound", shard)

    def named(self, ids: bytes) -> AsyncGenerator[bytes, None]:
        return self._copied("jobs_named", [ids[at : at + 16] for at in range(0, len(ids), 16)])

    def of_queue(self, queue_id: bytes, after: bytes, rows_max: int) -> AsyncGenerator[bytes, None]:
        return self._copied("jobs_of_queue", queue_id, after, rows_max)

    def first_pages(self, shard: int, rows_max: int) -> AsyncGenerator[bytes, None]:
        return self._copied("jobs_first_pages", shard, rows_max)

    async def page(
        self, shard: int, queue_id: bytes, job_type: str, place: tuple[int, bytes], rows_max: int
    ) -> AsyncGenerator[bytes, None]:
        where = (shard, queue_id, job_type, place, rows_max)
        async with self._turn:
            async for chunk in loader.jobs_page(self._connection, *where):
                yield chunk

    async def due(
        self, shard: int, place: tuple[int, bytes], until_us: int, rows_max: int
    ) -> AsyncGenerator[bytes, None]:
        async with self._turn:
            async for chunk in loader.jobs_due(self._connection, shard, place, until_us, rows_max):
                yield chunk

    async def _copied(self, statement: str, *args: object) -> AsyncGenerator[bytes, None]:
        async with self._turn:
            async for chunk in loader.copied(self._connection, statement, *args):
                yield chunk

    async def counting(self, marks: Mapping[int, int]) -> Count:
        async with self._turn:
            counted = await loader.waiting_counts(self._connection, marks)

        async def count() -> Sequence[Waiting]:
            return counted

        return count

    async def keys(self, shard: int) -> Sequence[StoredKey]:
        async with self._turn:
            return await loader.idempotency_keys(self._connection, shard, START_US)
