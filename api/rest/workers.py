"""Workers and their assignments over HTTP: structs, handlers, routes."""

from typing import Annotated

from msgspec import Meta

from taskforge_server.api.rest.bodies import decode
from taskforge_server.api.rest.handlers import Services
from taskforge_server.api.rest.routes import Call, Reply, Route, answer
from taskforge_server.api.rest.schemas import Answer, PageQuery, Request, UuidText
from taskforge_server.engine import limits
from taskforge_server.engine.errors import NotFound
from taskforge_server.engine.model import permissions
from taskforge_server.engine.model.base import Time
from taskforge_server.engine.model.worker import (
    QueueWorkerAssignment,
    Worker,
    WorkerStatus,
    WorkerType,
)
from taskforge_server.ext.ids import uuid_bytes, uuid_text

Weight = Annotated[
    int,
    Meta(
        ge=1,
        le=limits.ASSIGNMENT_WEIGHT_MAX,
        description="its part of the queue's jobs, in relation to the others'",
    ),
]
Active = Annotated[bool, Meta(description="false: as if it were not there")]


class WorkerView(Answer):
    """A worker."""

    id: UuidText
    name: str
    worker_type: WorkerType
    status: Annotated[WorkerStatus, Meta(description="draining: connected, and takes nothing new")]
    drained: Annotated[
        bool, Meta(description="it is to get nothing new, on whatever connection, until resumed")
    ]
    healthy: Annotated[bool, Meta(description="heard of within the time of a lease")]
    running_jobs: Annotated[
        int | None, Meta(description="jobs that it has; null: not connected to this node")
    ]
    last_heartbeat: Time | None
    created_at: Time


class WorkerPage(Answer):
    """Workers in the order of their ids."""

    items: list[WorkerView]
    next_cursor: str | None


class WorkersQuery(PageQuery, kw_only=True):
    """Which workers."""

    status: WorkerStatus | None = None
    worker_type: WorkerType | None = None


class AssignmentPut(Request):
    """How a worker serves a queue."""

    weight: Weight = 1
    is_active: Active = True


class AssignmentView(Answer):
    """That a worker serves a queue. A queue with active ones is served by these workers alone."""

    queue_id: UuidText
    worker_id: UuidText
    weight: Weight
    is_active: Active
    created_at: Time


class AssignmentPage(Answer):
    """Assignments in the order of the workers' ids."""

    items: list[AssignmentView]
    next_cursor: str | None


# Workers


async def list_workers(services: Services, call: Call) -> Reply:
    query: WorkersQuery = call.query
    workers, cursor = await services.workers.page(
        call.principal.project_id, query.cursor, query.limit, query.status, query.worker_type
    )
    items = [_worker_view(services, worker) for worker in workers]
    return answer(call, WorkerPage(items=items, next_cursor=cursor))


async def get_worker(services: Services, call: Call) -> Reply:
    worker = await services.workers.get(call.principal.project_id, _worker_id(call))
    return answer(call, _worker_view(services, worker))


async def drain_worker(services: Services, call: Call) -> Reply:
    worker = await services.workers.drain(call.principal, _worker_id(call), True, call.actor)
    return answer(call, _worker_view(services, worker))


async def resume_worker(services: Services, call: Call) -> Reply:
    worker = await services.workers.drain(call.principal, _worker_id(call), False, call.actor)
    return answer(call, _worker_view(services, worker))


async def delete_worker(services: Services, call: Call) -> Reply:
    await services.workers.delete(call.principal, _worker_id(call), call.actor)
    return Reply(b"", call.route.status)


def _worker_view(services: Services, worker: Worker) -> WorkerView:
    return WorkerView(
        id=uuid_text(worker.id),
        name=worker.name,
        worker_type=worker.worker_type,
        status=worker.status,
        drained=worker.drained,
        healthy=services.workers.is_healthy(worker),
        running_jobs=services.workers.jobs(worker),
        last_heartbeat=worker.last_heartbeat,
        created_at=worker.created_at,
    )


def _worker_id(call: Call) -> bytes:
    try:
        return uuid_bytes(call.params["worker_id"])
    except ValueError:
        raise NotFound("this is no worker id", "worker_id", code="worker_not_found") from None


# Assignments


async def list_assignments(services: Services, call: Call) -> Reply:
    query: PageQuery = call.query
    rows, cursor = await services.workers.assignments(
        call.principal.project_id, call.params["queue"], query.cursor, query.limit
    )
    items = [_assignment_view(row) for row in rows]
    return answer(call, AssignmentPage(items=items, next_cursor=cursor))


async def get_assignment(services: Services, call: Call) -> Reply:
    row = await services.workers.assignment(
        call.principal.project_id, call.params["queue"], _worker_id(call)
    )
    return answer(call, _assignment_view(row))


async def put_assignment(services: Services, call: Call) -> Reply:
    given = decode(call.body, call.body_coding, AssignmentPut)
    row = await services.workers.assign(
        call.principal,
        call.params["queue"],
        _worker_id(call),
        given.weight,
        given.is_active,
        call.actor,
    )
    return answer(call, _assignment_view(row))


async def delete_assignment(services: Services, call: Call) -> Reply:
    await services.workers.unassign(
        call.principal, call.params["queue"], _worker_id(call), call.actor
    )
    return Reply(b"", call.route.status)


def _assignment_view(row: QueueWorkerAssignment) -> AssignmentView:
    return AssignmentView(
        queue_id=uuid_text(row.queue_id),
        worker_id=uuid_text(row.worker_id),
        weight=row.weight,
        is_active=row.is_active,
        created_at=row.created_at,
    )


WORKERS_PATH = "/v1/workers"
ASSIGNMENTS_PATH = "/v1/queues/{queue}/assignments"

ROUTES = (
    Route(
        method="GET",
        path=WORKERS_PATH,
        operation_id="listWorkers",
        summary="List workers; those that left are listed for a week",
        tag="workers",
        permission=permissions.WORKERS_READ,
        handler=list_workers,
        query=WorkersQuery,
        reply=WorkerPage,
    ),
    Route(
        method="GET",
        path=WORKERS_PATH + "/{worker_id}",
        operation_id="getWorker",
        summary="Look at a worker",
        tag="workers",
        permission=permissions.WORKERS_READ,
        handler=get_worker,
        reply=WorkerView,
        problems=("worker_not_found",),
    ),
    Route(
        method="DELETE",
        path=WORKERS_PATH + "/{worker_id}",
        operation_id="deleteWorker",
        summary="Forget a worker that is offline and assigned to no queue",
        tag="workers",
        permission=permissions.WORKERS_MANAGE,
        handler=delete_worker,
        status=204,
        problems=("worker_not_found", "worker_connected", "worker_assigned"),
    ),
    Route(
        method="POST",
        path=WORKERS_PATH + "/{worker_id}/drain",
        operation_id="drainWorker",
        summary="Give a worker nothing new; it finishes what it has",
        tag="workers",
        permission=permissions.WORKERS_MANAGE,
        handler=drain_worker,
        reply=WorkerView,
        problems=("worker_not_found",),
    ),
    Route(
        method="POST",
        path=WORKERS_PATH + "/{worker_id}/resume",
        operation_id="resumeWorker",
        summary="Give a drained worker jobs again",
        tag="workers",
        permission=permissions.WORKERS_MANAGE,
        handler=resume_worker,
        reply=WorkerView,
        problems=("worker_not_found",),
    ),
    Route(
        method="GET",
        path=ASSIGNMENTS_PATH,
        operation_id="listAssignments",
        summary="List who is assigned to a queue",
        tag="workers",
        permission=permissions.WORKERS_READ,
        handler=list_assignments,
        query=PageQuery,
        reply=AssignmentPage,
        problems=("queue_not_found",),
    ),
    Route(
        method="GET",
        path=ASSIGNMENTS_PATH + "/{worker_id}",
        operation_id="getAssignment",
        summary="Look at an assignment",
        tag="workers",
        permission=permissions.WORKERS_READ,
        handler=get_assignment,
        reply=AssignmentView,
        problems=("queue_not_found", "assignment_not_found"),
    ),
    Route(
        method="PUT",
        path=ASSIGNMENTS_PATH + "/{worker_id}",
        operation_id="putAssignment",
        summary="Assign a worker to a queue, or change how",
        tag="workers",
        permission=permissions.WORKERS_MANAGE,
        handler=put_assignment,
        body=AssignmentPut,
        reply=AssignmentView,
        problems=("queue_not_found", "worker_not_found", "too_many_assignments"),
        example={"weight": 3, "is_active": True},
    ),
    Route(
        method="DELETE",
        path=ASSIGNMENTS_PATH + "/{worker_id}",
        operation_id="deleteAssignment",
        summary="Take an assignment back; without any, every worker serves the queue again",
        tag="workers",
        permission=permissions.WORKERS_MANAGE,
        handler=delete_assignment,
        status=204,
        problems=("queue_not_found", "assignment_not_found"),
    ),
)
