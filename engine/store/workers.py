"""Workers: the rows of `workers`. What they are and do is written by nodes, many rows at once, now
and then; what is wanted of them by people, who also read them."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import asyncpg

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Conflict, NotFound
from taskforge_server.engine.model.audit import OPERATOR, Actor
from taskforge_server.engine.model.worker import Worker, WorkerStatus, WorkerType
from taskforge_server.engine.store.audit import record
from taskforge_server.engine.store.cursors import WORKERS, after_id, id_cursor
from taskforge_server.engine.store.pool import Lent, Pool, acquire
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.store.tenancy import tenant
from taskforge_server.ext.ids import uuid_text

NO_ID = bytes(16)


class Workers:
    """The repository of `workers`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    # for nodes

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

    async def expire(self, silent_since: datetime, kept_max: int, rows_max: int) -> None:
        """Delete up to `rows_max` of those who left and are assigned to nothing: who left before
        this time, and in each project all but the last `kept_max`."""
        async with acquire(self._pool) as connection:
            await connection.execute(sql("workers_expire"), silent_since, kept_max, rows_max)

    async def drained(self, worker_ids: Sequence[bytes] | None = None) -> set[bytes]:
        """Who of these is drained; None: of all."""
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("workers_drained"), worker_ids)
        return {row["id"] for row in rows}

    # for people

    async def get(self, project_id: bytes, worker_id: bytes) -> Worker:
        """`NotFound`."""
        async with tenant(self._pool, project_id=project_id) as connection:
            return _found(await connection.fetchrow(sql("worker_get"), project_id, worker_id))

    async def page(
        self,
        project_id: bytes,
        cursor: str | None = None,
        rows_max: int = limits.PAGE_ROWS_DEFAULT,
        *,
        status: WorkerStatus | None = None,
        worker_type: WorkerType | None = None,
    ) -> tuple[list[Worker], str | None]:
        """A page in the order of ids, and the cursor of the next one."""
        after = NO_ID if cursor is None else after_id(WORKERS, cursor)
        async with tenant(self._pool, project_id=project_id) as connection:
            rows = await connection.fetch(
                sql("worker_list"), project_id, after, rows_max + 1, status, worker_type
            )
        page = [Worker(**row) for row in rows[:rows_max]]
        more = len(rows) > rows_max
        return page, id_cursor(WORKERS, page[-1].id) if more else None

    async def drain(
        self,
        organization_id: bytes,
        project_id: bytes,
        worker_id: bytes,
        drained: bool,
        actor: Actor = OPERATOR,
    ) -> Worker:
        """Whether the worker is to get new jobs; `NotFound`. What is so already is no act."""
        async with tenant(
            self._pool, organization_id=organization_id, project_id=project_id
        ) as connection:
            before = await _locked(connection, project_id, worker_id)
            if before.drained == drained:
                return before
            row = await connection.fetchrow(sql("worker_drain"), project_id, worker_id, drained)
            after = _found(row)
            action = "worker.drain" if drained else "worker.resume"
            states = shown(before), shown(after)
            await record(connection, organization_id, actor, action, _target(after), *states)
        return after

    async def delete(
        self, organization_id: bytes, project_id: bytes, worker_id: bytes, actor: Actor = OPERATOR
    ) -> None:
        """`NotFound`; `Conflict` while it is connected or assigned to queues."""
        async with tenant(
            self._pool, organization_id=organization_id, project_id=project_id
        ) as connection:
            worker = await _locked(connection, project_id, worker_id)
            if worker.status != "offline":
                raise Conflict("the worker is connected: stop it first", code="worker_connected")
            rows = await connection.fetch(
                sql("worker_queues"), worker_id, limits.BLOCKERS_SHOWN_MAX
            )
            if rows:
                names = ", ".join(row["name"] for row in rows)
                raise Conflict(f"the worker is assigned to {names}", code="worker_assigned")
            await connection.execute(sql("worker_delete"), project_id, worker_id)
            await record(
                connection, organization_id, actor, "worker.delete", _target(worker), shown(worker)
            )


def shown(worker: Worker) -> dict[str, Any]:
    """The worker as the audit log keeps it."""
    return {
        "name": worker.name,
        "worker_type": worker.worker_type,
        "status": worker.status,
        "drained": worker.drained,
    }


def _target(worker: Worker) -> str:
    return f"worker:{uuid_text(worker.id)}"


async def _locked(connection: Lent, project_id: bytes, worker_id: bytes) -> Worker:
    return _found(await connection.fetchrow(sql("worker_get_locked"), project_id, worker_id))


def _found(row: asyncpg.Record | None) -> Worker:
    if row is None:
        raise NotFound("this project has no such worker", "worker_id", code="worker_not_found")
    return Worker(**row)
