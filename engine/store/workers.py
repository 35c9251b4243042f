"""Workers: the rows of `workers`. Nodes write many at once, now and then: people read them, the
engine does not."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from taskforge_server.engine import limits
from taskforge_server.engine.errors import NotFound
from taskforge_server.engine.model.worker import Worker, WorkerStatus
from taskforge_server.engine.store.cursors import WORKERS, after_id, id_cursor
from taskforge_server.engine.store.pool import Pool, acquire
from taskforge_server.engine.store.statements import sql

NO_ID = bytes(16)


class Workers:
    """The repository of `workers`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def upsert(self, workers: Sequence[Worker]) -> set[bytes]:
        """Write workers as they connect; returns the ids that were written. One that is missing
        belongs to another project. No id may stand twice."""
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(
                sql("worker_upsert"),
                [worker.id for worker in workers],
                [worker.project_id for worker in workers],
                [worker.name for worker in workers],
                [worker.worker_type for worker in workers],
                [worker.status for worker in workers],
                [worker.last_heartbeat for worker in workers],
            )
        return {row["id"] for row in rows}

    async def seen(self, news: Iterable[tuple[bytes, WorkerStatus, datetime | None]]) -> None:
        """Status and last heartbeat of workers by id."""
        ids, statuses, times = [], [], []
        for worker_id, status, at in news:
            ids.append(worker_id)
            statuses.append(status)
            times.append(at)
        async with acquire(self._pool) as connection:
            await connection.execute(sql("worker_status"), ids, statuses, times)

    async def forget(self, silent_since: datetime) -> None:
        """Mark as offline who was last heard of before this time."""
        async with acquire(self._pool) as connection:
            await connection.execute(sql("worker_offline"), silent_since)

    async def get(self, project_id: bytes, worker_id: bytes) -> Worker:
        async with acquire(self._pool) as connection:
            row = await connection.fetchrow(sql("worker_get"), project_id, worker_id)
        if row is None:
            raise NotFound("no such worker", "worker")
        return Worker(**row)

    async def page(
        self,
        project_id: bytes,
        cursor: str | None = None,
        rows_max: int = limits.PAGE_ROWS_DEFAULT,
    ) -> tuple[list[Worker], str | None]:
        """A page in the order of ids, and the cursor of the next one."""
        after = NO_ID if cursor is None else after_id(WORKERS, cursor)
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("worker_list"), project_id, after, rows_max + 1)
        page = [Worker(**row) for row in rows[:rows_max]]
        more = len(rows) > rows_max
        return page, id_cursor(WORKERS, page[-1].id) if more else None
