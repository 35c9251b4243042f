"""Workers as operators see them: list, look at, drain; and which of them serve which queues."""

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from taskforge.client.calls import Call, query_text, read_nothing, reader
from taskforge.client.models import WorkerType

T = TypeVar("T")

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


class WorkerPage(msgspec.Struct, frozen=True):
    """Some workers of a list and where it goes on."""

    items: list[WorkerInfo]
    next_cursor: str | None = None


class AssignmentPage(msgspec.Struct, frozen=True):
    """Some assignments of a list and where it goes on."""

    items: list[Assignment]
    next_cursor: str | None = None


_read_worker = reader(WorkerInfo)
_read_workers = reader(WorkerPage)
_read_assignment = reader(Assignment)
_read_assignments = reader(AssignmentPage)
_to_json = msgspec.json.Encoder().encode


def _path(worker_id: str) -> str:
    return f"/v1/workers/{quote(worker_id, safe='')}"


def _assignments(queue: str) -> str:
    return f"/v1/queues/{quote(queue, safe='')}/assignments"


def _list(
    status: WorkerStatus | None, worker_type: WorkerType | None, cursor: str | None
) -> Call[WorkerPage]:
    wanted = {"status": status, "worker_type": worker_type, "cursor": cursor}
    return Call("GET", f"/v1/workers?{query_text(wanted)}", _read_workers)


def _get(worker_id: str) -> Call[WorkerInfo]:
    return Call("GET", _path(worker_id), _read_worker)


def _drain(worker_id: str) -> Call[WorkerInfo]:
    return Call("POST", f"{_path(worker_id)}/drain", _read_worker)


def _resume(worker_id: str) -> Call[WorkerInfo]:
    return Call("POST", f"{_path(worker_id)}/resume", _read_worker)


def _delete(worker_id: str) -> Call[None]:
    return Call("DELETE", _path(worker_id), read_nothing, repeatable=False)


def _assign(queue: str, worker_id: str, weight: int, is_active: bool) -> Call[Assignment]:
    path = f"{_assignments(queue)}/{quote(worker_id, safe='')}"
    body: dict[str, Any] = {"weight": weight, "is_active": is_active}
    return Call("PUT", path, _read_assignment, _to_json(body))


def _unassign(queue: str, worker_id: str) -> Call[None]:
    path = f"{_assignments(queue)}/{quote(worker_id, safe='')}"
    return Call("DELETE", path, read_nothing, repeatable=False)


def _assigned(queue: str, cursor: str | None) -> Call[AssignmentPage]:
    return Call("GET", f"{_assignments(queue)}?{query_text({'cursor': cursor})}", _read_assignments)


class Executor(Protocol):
    """A client that blocks."""

    def execute(self, call: Call[T]) -> T: ...


class AsyncExecutor(Protocol):
    """A client of an event loop."""

    async def execute(self, call: Call[T]) -> T: ...


class Workers:
    """The workers of the project."""

    def __init__(self, client: Executor) -> None:
        self._client = client

    def list(
        self, *, status: WorkerStatus | None = None, worker_type: WorkerType | None = None
    ) -> Iterator[WorkerInfo]:
        """All workers, or those of a status or type; one that left is listed for a week."""
        cursor = None
        while True:
            page = self._client.execute(_list(status, worker_type, cursor))
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def get(self, worker_id: str) -> WorkerInfo:
        """NotFound."""
        return self._client.execute(_get(worker_id))

    def drain(self, worker_id: str) -> WorkerInfo:
        """It finishes what it has and gets nothing new, until `resume`."""
        return self._client.execute(_drain(worker_id))

    def resume(self, worker_id: str) -> WorkerInfo:
        """It gets jobs again."""
        return self._client.execute(_resume(worker_id))

    def delete(self, worker_id: str) -> None:
        """Forget it; Conflict while it is connected or assigned to a queue."""
        self._client.execute(_delete(worker_id))

    def assign(
        self, queue: str, worker_id: str, *, weight: int = 1, is_active: bool = True
    ) -> Assignment:
        """The queue is served by this worker and the others that are assigned, by weight."""
        return self._client.execute(_assign(queue, worker_id, weight, is_active))

    def unassign(self, queue: str, worker_id: str) -> None:
        """Take an assignment back; without any, every worker serves the queue again."""
        self._client.execute(_unassign(queue, worker_id))

    def assignments(self, queue: str) -> Iterator[Assignment]:
        """Who is assigned to the queue."""
        cursor = None
        while True:
            page = self._client.execute(_assigned(queue, cursor))
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return


class AsyncWorkers:
    """The workers of the project."""

    def __init__(self, client: AsyncExecutor) -> None:
        self._client = client

    async def list(
        self, *, status: WorkerStatus | None = None, worker_type: WorkerType | None = None
    ) -> AsyncIterator[WorkerInfo]:
        """All workers, or those of a status or type; one that left is listed for a week."""
        cursor = None
        while True:
            page = await self._client.execute(_list(status, worker_type, cursor))
            for worker in page.items:
                yield worker
            cursor = page.next_cursor
            if cursor is None:
                return

    async def get(self, worker_id: str) -> WorkerInfo:
        """NotFound."""
        return await self._client.execute(_get(worker_id))

    async def drain(self, worker_id: str) -> WorkerInfo:
        """It finishes what it has and gets nothing new, until `resume`."""
        return await self._client.execute(_drain(worker_id))

    async def resume(self, worker_id: str) -> WorkerInfo:
        """It gets jobs again."""
        return await self._client.execute(_resume(worker_id))

    async def delete(self, worker_id: str) -> None:
        """Forget it; Conflict while it is connected or assigned to a queue."""
        await self._client.execute(_delete(worker_id))

    async def assign(
        self, queue: str, worker_id: str, *, weight: int = 1, is_active: bool = True
    ) -> Assignment:
        """The queue is served by this worker and the others that are assigned, by weight."""
        return await self._client.execute(_assign(queue, worker_id, weight, is_active))

    async def unassign(self, queue: str, worker_id: str) -> None:
        """Take an assignment back; without any, every worker serves the queue again."""
        await self._client.execute(_unassign(queue, worker_id))

    async def assignments(self, queue: str) -> AsyncIterator[Assignment]:
        """Who is assigned to the queue."""
        cursor = None
        while True:
            page = await self._client.execute(_assigned(queue, cursor))
            for assignment in page.items:
                yield assignment
            cursor = page.next_cursor
            if cursor is None:
                return
