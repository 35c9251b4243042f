"""Workers and assignments that nobody has: for interfaces without a database."""

from collections.abc import Sequence
from typing import Any, NoReturn

from taskforge_server.api.service.workers import WorkerPorts
from taskforge_server.engine.errors import NotFound
from taskforge_server.engine.store.cursors import ASSIGNMENTS, WORKERS, after_id


class NoDesk:
    """A node without workers."""

    lease_ttl_s = 10.0

    def worker_jobs(self, worker_id: bytes, project_id: bytes) -> int | None:
        return None

    async def roster_changed(
        self, *, workers: Sequence[bytes] = (), queues: Sequence[bytes] = ()
    ) -> None:
        """Nobody asks."""


class NoWorkers:
    """The rows of workers: none."""

    async def page(
        self, project_id: bytes, cursor: str | None = None, rows_max: int = 100, **wanted: Any
    ) -> tuple[list[Any], str | None]:
        if cursor is not None:
            after_id(WORKERS, cursor)
        return [], None

    async def get(self, *given: Any) -> NoReturn:
        raise NotFound("no such worker", "worker_id", code="worker_not_found")

    drain = delete = get


class NoAssignments:
    """The rows of assignments: none."""

    async def page(
        self, project_id: bytes, queue_id: bytes, cursor: str | None = None, rows_max: int = 100
    ) -> tuple[list[Any], str | None]:
        if cursor is not None:
            after_id(ASSIGNMENTS, cursor)
        return [], None

    async def get(self, *given: Any) -> NoReturn:
        raise NotFound("not assigned", "worker_id", code="assignment_not_found")

    delete = get

    async def put(self, *given: Any) -> NoReturn:
        raise NotFound("no such worker", "worker_id", code="worker_not_found")


NO_WORKERS = WorkerPorts(NoDesk(), NoWorkers(), NoAssignments())
