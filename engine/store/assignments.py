"""Which workers serve which queues: the rows of `queue_worker_assignments`."""

from collections.abc import Sequence
from typing import Any

import asyncpg

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Conflict, NotFound
from taskforge_server.engine.model.audit import OPERATOR, Actor
from taskforge_server.engine.model.worker import QueueWorkerAssignment
from taskforge_server.engine.store.audit import record
from taskforge_server.engine.store.cursors import ASSIGNMENTS, after_id, id_cursor
from taskforge_server.engine.store.pool import Lent, Pool, acquire
from taskforge_server.engine.store.statements import sql
from taskforge_server.engine.store.tenancy import tenant
from taskforge_server.ext.ids import uuid_text

NO_ID = bytes(16)


class Assignments:
    """The repository of `queue_worker_assignments`. All but `active` see one project only."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def put(
        self,
        organization_id: bytes,
        project_id: bytes,
        assignment: QueueWorkerAssignment,
        actor: Actor = OPERATOR,
    ) -> QueueWorkerAssignment:
        """Make or change it; `NotFound` without the queue or the worker, `Conflict` when the queue
        has too many. What is so already is no act."""
        assignment.validate()
        queue_id, worker_id = assignment.queue_id, assignment.worker_id
        async with tenant(
            self._pool, organization_id=organization_id, project_id=project_id
        ) as connection:
            if await connection.fetchrow(sql("assignment_queue"), project_id, queue_id) is None:
                raise NotFound("this project has no such queue", "queue", code="queue_not_found")
            before = await _get(connection, project_id, queue_id, worker_id)
            if before is None:
                count = await connection.fetchval(sql("assignment_count"), queue_id)
                if count >= limits.QUEUE_ASSIGNMENTS_MAX:
                    most = limits.QUEUE_ASSIGNMENTS_MAX
                    raise Conflict(
                        f"a queue has at most {most} assignments", code="too_many_assignments"
                    )
            elif shown(before) == shown(assignment):
                return before
            row = await connection.fetchrow(
                sql("assignment_put"),
                project_id,
                queue_id,
                worker_id,
                assignment.weight,
                assignment.is_active,
            )
            if row is None:
                message = "this project has no such worker"
                raise NotFound(message, "worker_id", code="worker_not_found")
            after = QueueWorkerAssignment(**row)
            action = "assignment.create" if before is None else "assignment.update"
            states = None if before is None else shown(before), shown(after)
            await record(connection, organization_id, actor, action, _target(after), *states)
        return after

    async def get(
        self, project_id: bytes, queue_id: bytes, worker_id: bytes
    ) -> QueueWorkerAssignment:
        """`NotFound`."""
        async with tenant(self._pool, project_id=project_id) as connection:
            return _found(await _get(connection, project_id, queue_id, worker_id))

    async def page(
        self,
        project_id: bytes,
        queue_id: bytes,
        cursor: str | None = None,
        rows_max: int = limits.PAGE_ROWS_DEFAULT,
    ) -> tuple[list[QueueWorkerAssignment], str | None]:
        """A page in the order of the workers' ids, and the cursor of the next one."""
        after = NO_ID if cursor is None else after_id(ASSIGNMENTS, cursor)
        async with tenant(self._pool, project_id=project_id) as connection:
            rows = await connection.fetch(
                sql("assignment_list"), project_id, queue_id, after, rows_max + 1
            )
        page = [QueueWorkerAssignment(**row) for row in rows[:rows_max]]
        more = len(rows) > rows_max
        return page, id_cursor(ASSIGNMENTS, page[-1].worker_id) if more else None

    async def delete(
        self,
        organization_id: bytes,
        project_id: bytes,
        queue_id: bytes,
        worker_id: bytes,
        actor: Actor = OPERATOR,
    ) -> None:
        """`NotFound`."""
        async with tenant(
            self._pool, organization_id=organization_id, project_id=project_id
        ) as connection:
            await connection.fetchrow(sql("assignment_queue"), project_id, queue_id)
            before = _found(await _get(connection, project_id, queue_id, worker_id))
            await connection.execute(sql("assignment_delete"), queue_id, worker_id)
            await record(
                connection,
                organization_id,
                actor,
                "assignment.delete",
                _target(before),
                shown(before),
            )

    async def active(
        self, queue_ids: Sequence[bytes] | None = None
    ) -> dict[bytes, dict[bytes, int]]:
        """The weights of the workers that serve these queues, by queue; None: all queues."""
        async with acquire(self._pool) as connection:
            rows = await connection.fetch(sql("assignments_active"), queue_ids)
        found: dict[bytes, dict[bytes, int]] = {}
        for queue_id, worker_id, weight in rows:
            found.setdefault(queue_id, {})[worker_id] = weight
        return found


def shown(assignment: QueueWorkerAssignment) -> dict[str, Any]:
    """The assignment as the audit log keeps it."""
    return {
        "worker_id": uuid_text(assignment.worker_id),
        "weight": assignment.weight,
        "is_active": assignment.is_active,
    }


def _target(assignment: QueueWorkerAssignment) -> str:
    return f"queue:{uuid_text(assignment.queue_id)}"


async def _get(
    connection: Lent, project_id: bytes, queue_id: bytes, worker_id: bytes
) -> QueueWorkerAssignment | None:
    row: asyncpg.Record | None = await connection.fetchrow(
        sql("assignment_get"), project_id, queue_id, worker_id
    )
    return None if row is None else QueueWorkerAssignment(**row)


def _found(assignment: QueueWorkerAssignment | None) -> QueueWorkerAssignment:
    if assignment is None:
        raise NotFound(
            "the worker is not assigned to this queue", "worker_id", code="assignment_not_found"
        )
    return assignment
