"""A worker: a process of a user that runs jobs; and which queues it serves with what weight."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.model.base import Id, Model, Name, Time

WorkerType = Literal["general", "specialized_cpu", "specialized_io"]
WorkerStatus = Literal["online", "offline", "draining"]


class Worker(Model, frozen=True, kw_only=True):
    """A row of `workers`; the column of `worker_type` is called `type`."""

    id: Id
    project_id: Id
    name: Name
    worker_type: WorkerType = "general"
    status: WorkerStatus = "offline"
    drained: bool = False
    """What people want of it: no new jobs. The status says what is."""
    last_heartbeat: Time | None = None
    created_at: Time

    def is_healthy(self, now: datetime, heartbeat_timeout_s: float) -> bool:
        """Whether its last heartbeat is recent; one that never sent any is not healthy."""
        if self.last_heartbeat is None:
            return False
        return (now - self.last_heartbeat).total_seconds() < heartbeat_timeout_s

    def is_available(self) -> bool:
        """Whether it takes new jobs."""
        return self.status == "online"


class QueueWorkerAssignment(Model, frozen=True, kw_only=True):
    """A row of `queue_worker_assignments`."""

    queue_id: Id
    worker_id: Id
    weight: Annotated[int, msgspec.Meta(ge=1, le=limits.ASSIGNMENT_WEIGHT_MAX)] = 1
    is_active: bool = True
    created_at: Time
