"""Workers as operators see them: list, look at, drain; and which of them serve which queues."""

from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from taskforge.client.calls import Call, query_text, read_nothing, reader
from taskforge.client.methods import (
    AsyncGroup,
    Group,
    async_listing,
    async_method,
    listing,
    method,
)
from taskforge.client.models import Page, WorkerType

WorkerStatus = Literal["online", "offline", "draining"]


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as it was when the server answered."""

    id: str
    name: str
    worker_type: WorkerType
    status: WorkerStatus
    drained: bool = False
    """It is to get nothing new, until it is resumed."""
    healthy: bool = False
    running_jobs: int | None = None
    """None: not connected to the node that answered."""
    last_heartbeat: datetime | None = None
    created_at: datetime | None = None


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """That a worker serves a queue, and how much of it in relation to others."""

    queue_id: str
    worker_id: str
    weight: int = 1
    is_active: bool = True
    created_at: datetime | None = None


_read_worker = reader(WorkerInfo)
_read_workers = reader(Page[WorkerInfo])
_read_assignment = reader(Assignment)
_read_assignments = reader(Page[Assignment])
_to_json = msgspec.json.Encoder().encode


def _path(worker_id: str) -> str:
    return f"/v1/workers/{quote(worker_id, safe='')}"


def _assignments(queue: str) -> str:
    return f"/v1/queues/{quote(queue, safe='')}/assignments"


def _list_workers(
    cursor: str | None,
    *,
    status: WorkerStatus | None = None,
    worker_type: WorkerType | None = None,
) -> Call[Page[WorkerInfo]]:
    """All workers, or those of a status or type; one that left is listed for a week."""
    wanted = {"status": status, "worker_type": worker_type, "cursor": cursor}
    return Call("GET", f"/v1/workers?{query_text(wanted)}", _read_workers)


def _get(worker_id: str) -> Call[WorkerInfo]:
    """NotFound."""
    return Call("GET", _path(worker_id), _read_worker)


def _drain(worker_id: str) -> Call[WorkerInfo]:
    """It finishes what it has and gets nothing new, until `resume`."""
    return Call("POST", f"{_path(worker_id)}/drain", _read_worker)


def _resume(worker_id: str) -> Call[WorkerInfo]:
    """It gets jobs again."""
    return Call("POST", f"{_path(worker_id)}/resume", _read_worker)


def _delete(worker_id: str) -> Call[None]:
    """Forget it; Conflict while it is connected or assigned to a queue."""
    return Call("DELETE", _path(worker_id), read_nothing, repeatable=False)


def _assign(
    queue: str, worker_id: str, *, weight: int = 1, is_active: bool = True
) -> Call[Assignment]:
    """The queue is served by this worker and the others that are assigned, by weight."""
    path = f"{_assignments(queue)}/{quote(worker_id, safe='')}"
    body: dict[str, Any] = {"weight": weight, "is_active": is_active}
    return Call("PUT", path, _read_assignment, _to_json(body))


def _unassign(queue: str, worker_id: str) -> Call[None]:
    """Take an assignment back; without any, every worker serves the queue again."""
    path = f"{_assignments(queue)}/{quote(worker_id, safe='')}"
    return Call("DELETE", path, read_nothing, repeatable=False)


def _assigned(cursor: str | None, queue: str) -> Call[Page[Assignment]]:
    """Who is assigned to the queue."""
    return Call("GET", f"{_assignments(queue)}?{query_text({'cursor': cursor})}", _read_assignments)


class Workers(Group):
    """The workers of the project."""

    list = listing(_list_workers)
    get = method(_get)
    drain = method(_drain)
    resume = method(_resume)
    delete = method(_delete)
    assign = method(_assign)
    unassign = method(_unassign)
    assignments = listing(_assigned)


class AsyncWorkers(AsyncGroup):
    """The workers of the project."""

    list = async_listing(_list_workers)
    get = async_method(_get)
    drain = async_method(_drain)
    resume = async_method(_resume)
    delete = async_method(_delete)
    assign = async_method(_assign)
    unassign = async_method(_unassign)
    assignments = async_listing(_assigned)
