"""An execution: one attempt of a job on one worker; and what its handler logged.

started ──► succeeded
        ──► retrying   failed or lost, and the job is tried again
        ──► failed     the job failed with it
"""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec

from taskforge_server.engine import limits
from taskforge_server.engine.errors import Conflict
from taskforge_server.engine.model.base import Id, Model, Time

ExecutionStatus = Literal["started", "succeeded", "failed", "retrying"]
LogLevel = Literal["info", "warn", "error"]


class JobExecution(Model, frozen=True, kw_only=True):
    """A row of `job_executions`. It ends once; each end gives a new struct."""

    id: Id
    job_id: Id
    worker_id: Id | None
    status: ExecutionStatus = "started"
    output: str | None = None
    attempt_number: Annotated[int, msgspec.Meta(ge=1, le=limits.ATTEMPTS_MAX)] = 1
    started_at: Time | None = None
    finished_at: Time | None = None
    created_at: Time
    error: Any = None

    def mark_succeeded(self, now: datetime, output: str | None = None) -> "JobExecution":
        return self._ended("succeeded", now, output)

    def mark_failed(self, now: datetime) -> "JobExecution":
        return self._ended("failed", now)

    def mark_retrying(self, now: datetime) -> "JobExecution":
        return self._ended("retrying", now)

    def get_duration(self) -> timedelta | None:
        """How long it ran; None while it runs."""
        if self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at

    def _ended(
        self, status: ExecutionStatus, now: datetime, output: str | None = None
    ) -> "JobExecution":
        if self.status != "started":
            raise Conflict(f"the execution has ended as {self.status}: it cannot end as {status}")
        return msgspec.structs.replace(self, status=status, finished_at=now, output=output)


class ExecutionLog(Model, frozen=True, kw_only=True):
    """A row of `execution_logs`."""

    id: Id
    execution_id: Id
    level: LogLevel
    message: str
    metadata: dict[str, Any]
    logged_at: Time
