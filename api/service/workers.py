"""Workers: list, look at, drain, forget; and which of them serve which queues.

What is wanted of a worker is a row first, and then told to the node, which tells the others: when a
call returns, the dispatcher of this node keeps to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from taskforge_server.api.auth.principals import Principal
from taskforge_server.api.service.catalog import QueueCatalog, queue_key
from taskforge_server.engine.model.audit import Actor
from taskforge_server.engine.model.queue import QueueRef
from taskforge_server.engine.model.worker import (
    QueueWorkerAssignment,
    Worker,
    WorkerStatus,
    WorkerType,
)


class WorkerDesk(Protocol):
    """The node, as those who manage workers see it."""

    @property
    def lease_ttl_s(self) -> float:
        """How long the silence of a worker is forgiven."""
        ...

    def worker_jobs(self, worker_id: bytes, project_id: bytes) -> int | None:
        """How many jobs the worker has that are not over; None when it is not connected here."""
        ...

    async def roster_changed(
        self, *, workers: Sequence[bytes] = (), queues: Sequence[bytes] = ()
    ) -> None:
        """What is wanted of these workers, or who is assigned to these queues, was changed: when
        this returns it holds on this node."""
        ...


class WorkerRepository(Protocol):
    """The workers of projects."""

    async def get(self, project_id: bytes, worker_id: bytes) -> Worker:
        """NotFound."""
        ...

    async def page(
        self,
        project_id: bytes,
        cursor: str | None = None,
        rows_max: int = ...,
        *,
        status: WorkerStatus | None = None,
        worker_type: WorkerType | None = None,
    ) -> tuple[list[Worker], str | None]:
        """In the order of ids, with the cursor of the next page; InvalidInput."""
        ...

    async def drain(
        self,
        organization_id: bytes,
        project_id: bytes,
        worker_id: bytes,
        drained: bool,
        actor: Actor = ...,
    ) -> Worker:
        """NotFound."""
        ...

    async def delete(
        self, organization_id: bytes, project_id: bytes, worker_id: bytes, actor: Actor = ...
    ) -> None:
        """NotFound; Conflict while it is connected or assigned."""
        ...


class AssignmentRepository(Protocol):
    """Which workers serve which queues."""

    async def put(
        self,
        organization_id: bytes,
        project_id: bytes,
        assignment: QueueWorkerAssignment,
        actor: Actor = ...,
    ) -> QueueWorkerAssignment:
        """Make or change; NotFound, Conflict."""
        ...

    async def get(
        self, project_id: bytes, queue_id: bytes, worker_id: bytes
    ) -> QueueWorkerAssignment:
        """NotFound."""
        ...

    async def page(
        self, project_id: bytes, queue_id: bytes, cursor: str | None = None, rows_max: int = ...
    ) -> tuple[list[QueueWorkerAssignment], str | None]:
        """In the order of the workers' ids, with the cursor of the next page; InvalidInput."""
        ...

    async def delete(
        self,
        organization_id: bytes,
        project_id: bytes,
        queue_id: bytes,
        worker_id: bytes,
        actor: Actor = ...,
    ) -> None:
        """NotFound."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerPorts:
    """What the use cases of workers stand on."""

    desk: WorkerDesk
    workers: WorkerRepository
    assignments: AssignmentRepository


class WorkerService:
    """The use cases of workers and assignments; each sees the principal's project only."""

    def __init__(self, ports: WorkerPorts, catalog: QueueCatalog) -> None:
        self._desk = ports.desk
        self._workers = ports.workers
        self._assignments = ports.assignments
        self._catalog = catalog

    # workers

    async def get(self, project_id: bytes, worker_id: bytes) -> Worker:
        """NotFound."""
        return await self._workers.get(project_id, worker_id)

    async def page(
        self,
        project_id: bytes,
        cursor: str | None,
        rows_max: int,
        status: WorkerStatus | None,
        worker_type: WorkerType | None,
    ) -> tuple[list[Worker], str | None]:
        """A page in the order of ids, and the cursor of the next one."""
        return await self._workers.page(
            project_id, cursor, rows_max, status=status, worker_type=worker_type
        )

    async def drain(
        self, principal: Principal, worker_id: bytes, drained: bool, actor: Actor
    ) -> Worker:
        """The worker gets nothing new and finishes what it has, or gets jobs again."""
        worker = await self._workers.drain(
            principal.organization_id, principal.project_id, worker_id, drained, actor
        )
        await self._desk.roster_changed(workers=(worker_id,))
        return worker

    async def delete(self, principal: Principal, worker_id: bytes, actor: Actor) -> None:
        """A worker that is gone, and assigned to nothing."""
        await self._workers.delete(
            principal.organization_id, principal.project_id, worker_id, actor
        )
        await self._desk.roster_changed(workers=(worker_id,))

    def jobs(self, worker: Worker) -> int | None:
        """How many it has; None when it is not connected here."""
        return self._desk.worker_jobs(worker.id, worker.project_id)

    def is_healthy(self, worker: Worker) -> bool:
        """Whether it was heard of within the time of a lease."""
        return worker.is_healthy(datetime.now(UTC), self._desk.lease_ttl_s)

    # assignments

    async def assign(
        self,
        principal: Principal,
        queue: str,
        worker_id: bytes,
        weight: int,
        is_active: bool,
        actor: Actor,
    ) -> QueueWorkerAssignment:
        """Make or change an assignment."""
        ref = await self._queue(principal.project_id, queue)
        assignment = await self._assignments.put(
            principal.organization_id,
            principal.project_id,
            QueueWorkerAssignment(
                queue_id=ref.id,
                worker_id=worker_id,
                weight=weight,
                is_active=is_active,
                created_at=datetime.now(UTC),
            ),
            actor,
        )
        await self._desk.roster_changed(queues=(ref.id,))
        return assignment

    async def assignment(
        self, project_id: bytes, queue: str, worker_id: bytes
    ) -> QueueWorkerAssignment:
        """NotFound."""
        ref = await self._queue(project_id, queue)
        return await self._assignments.get(project_id, ref.id, worker_id)

    async def assignments(
        self, project_id: bytes, queue: str, cursor: str | None, rows_max: int
    ) -> tuple[list[QueueWorkerAssignment], str | None]:
        """A page in the order of the workers' ids, and the cursor of the next one."""
        ref = await self._queue(project_id, queue)
        return await self._assignments.page(project_id, ref.id, cursor, rows_max)

    async def unassign(
        self, principal: Principal, queue: str, worker_id: bytes, actor: Actor
    ) -> None:
        """The worker serves the queue no longer as one of its own."""
        ref = await self._queue(principal.project_id, queue)
        await self._assignments.delete(
            principal.organization_id, principal.project_id, ref.id, worker_id, actor
        )
        await self._desk.roster_changed(queues=(ref.id,))

    async def _queue(self, project_id: bytes, queue: str) -> QueueRef:
        return await self._catalog.find(project_id, queue_key(queue))
