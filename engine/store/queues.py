"""Queues: the rows of `job_queues`. All but `all` see one project only."""

import uuid

import asyncpg
import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Conflict, NotFound
from taskforge_server.engine.model.queue import JobQueue, QueueSettings, shard_of_queue
from taskforge_server.engine.store.cursors import QUEUES, after_name, name_cursor
from taskforge_server.engine.store.pool import Pool, acquire
from taskforge_server.engine.store.statements import sql


class Queues:
    """The repository of `job_queues`."""

    def __init__(self, pool: Pool, shards: int) -> None:
        self._pool = pool
        self._shards = shards

    async def create(
        self, project_id: bytes, name: str, priority: int, settings: QueueSettings
    ) -> JobQueue:
        """`Conflict` when the name is taken, or the project has too many queues."""
        queue_id = uuid.uuid4().bytes
        shard = shard_of_queue(queue_id, self._shards)
        try:
            async with acquire(self._pool) as connection:
                row = await connection.fetchrow(
                    sql("queue_create"),
                    queue_id,
                    project_id,
                    name,
                    priority,
                    _text(settings),
                    shard,
                    limits.QUEUES_PER_PROJECT_MAX,
                )
        except asyncpg.UniqueViolationError:
            raise Conflict("there is a queue with this name", "name", "queue_name_taken") from None
        except asyncpg.ForeignKeyViolationError:
            raise NotFound("no such project") from None
        if row is None:
            raise Conflict(
                f"a project has at most {limits.QUEUES_PER_PROJECT_MAX} queues",
                code="too_many_queues",
            )
        return _queue(row)

    async def get(self, project_id: bytes, queue: bytes | str) -> JobQueue:
        """By id (bytes) or by name (text); `NotFound`."""
        name = "queue_get" if isinstance(queue, bytes) else "queue_get_by_name"
        async with acquire(self._pool) as connection:
            row = await connection.fetchrow(sql(name), project_id, queue)
        return _found(row)

    async def page(
        self,
        project_id: bytes,
        cursor: str | None = None,
        rows_max: int = limits.PAGE_ROWS_DEFAULT,
    ) -> tuple[list[JobQueue], str | None]:
        """A page in the order of names, and the cursor of the next one."""
        after = "" if cursor is None else after_name(QUEUES, cursor)
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("queue_list"), project_id, after, rows_max + 1)
        page = [_queue(row) for row in rows[:rows_max]]
        more = len(rows) > rows_max
        return page, name_cursor(QUEUES, page[-1].name) if more else None

    async def update(
        self,
        project_id: bytes,
        queue_id: bytes,
        *,
        priority: int | None = None,
        settings: QueueSettings | None = None,
    ) -> JobQueue:
        """What is None stays as it is; `NotFound`."""
        async with acquire(self._pool) as connection:
            row = await connection.fetchrow(
                sql("queue_update"),
                project_id,
                queue_id,
                priority,
                None if settings is None else _text(settings),
            )
        return _found(row)

    async def all(self) -> list[JobQueue]:
        """The queues of all projects, for a node's memory."""
        async with acquire(self._pool) as connection:
            return [_queue(row) for row in await connection.fetch(sql("queue_all"))]


def _text(settings: QueueSettings) -> str:
    settings.validate()
    return msgspec.json.encode(settings).decode()


def _queue(row: asyncpg.Record) -> JobQueue:
    return JobQueue(**{**row, "settings": QueueSettings.stored(row["settings"])})


def _found(row: asyncpg.Record | None) -> JobQueue:
    if row is None:
        raise NotFound("no such queue", "queue")
    return _queue(row)
